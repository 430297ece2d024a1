"""Dictionaries of OpenMOSS that cannot be had exactly are refused in one line."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from openmoss_files import (
    D_IN,
    OTHER,
    S,
    average_norms,
    later,
    linear_layers,
    llama_scope,
    llama_scope_config,
    r1_distill,
    refusal,
)
from safetensors.torch import save_file

import sae


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("lorsa", "attention over the sequence"),
        ("mixcoder", "several modalities"),
    ],
)
def test_what_is_no_dictionary_of_one_site_is_refused_by_name(
    tmp_path: Path, kind: str, reason: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"sae_type": kind, "d_model": D_IN}))
    save_file({"W_Q": torch.zeros(1)}, tmp_path / "sae_weights.safetensors")
    message = refusal(tmp_path)
    assert f"'{kind}'" in message and reason in message


Prepare = Callable[[Path], tuple[Path, dict[str, Any]]]


def later_with(**changes: Any) -> Prepare:
    return lambda folder: later(folder, average_norms(site=9.0), **changes)


def scope_with(**changes: Any) -> Prepare:
    return lambda folder: llama_scope(folder, **changes)


REFUSED: dict[str, tuple[Prepare, str]] = {
    "a GLU encoder": (later_with(use_glu_encoder=True), "use_glu_encoder: products of encoders"),
    "batchtopk": (later_with(act_fn="batchtopk"), "'batchtopk'.*others of its batch"),
    "layertopk": (later_with(act_fn="layertopk"), "'layertopk': known are relu"),
    "batch-wise norms": (later_with(norm_activation="batch-wise"), "other tokens of a batch"),
    "unknown norms": (scope_with(norm_activation="magic"), "'magic': known are none"),
    "token-wise norms of a transcoder": (
        later_with(norm_activation="token-wise", hook_point_out=OTHER),
        "norm of what it predicts",
    ),
    "an unknown key": (later_with(magic=1), "unknown keys: magic"),
    "an unknown key of 2024": (scope_with(magic=1), "unknown keys: magic"),
    "a negative threshold": (scope_with(jump_relu_threshold=-1.0), "jump_relu_threshold -1.0"),
    "k of 4.5": (
        later_with(act_fn="topk", top_k=4.5),
        "top_k in .* must be a whole number",
    ),
    "10**15 features": (scope_with(d_sae=10**15), r"\(32, 8\), expected \(1000000000000000, 8\)"),
    "NaN features": (
        later_with(expansion_factor=math.nan),
        "expansion_factor in .* must be a fin",
    ),
    "norms of zero": (
        scope_with(dataset_average_activation_norm={"in": 0, "out": 9.0}),
        "the mean norm of activations must be a positive number, got 0",
    ),
    "norms that are not there": (
        scope_with(dataset_average_activation_norm=None),
        "no dataset_average_activation_norm.*give norm_scaling_factor",
    ),
    "an unknown kind": (later_with(sae_type="magic"), "sae_type 'magic': known are sae"),
}


@pytest.mark.parametrize(("prepare", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_had_exactly_is_refused(tmp_path: Path, prepare: Prepare, says: str) -> None:
    folder, _ = prepare(tmp_path)
    with pytest.raises(sae.InputError, match=says) as raised:
        sae.load(folder)
    assert "\n" not in str(raised.value)


def test_a_factor_that_the_file_has_itself_is_not_given_again(tmp_path: Path) -> None:
    folder, _ = later(tmp_path, average_norms(site=9.0))
    assert "leave it out" in refusal(folder, norm_scaling_factor=S)


@pytest.mark.parametrize("factor", [0.0, math.inf])
def test_a_factor_that_scales_nothing_is_refused(tmp_path: Path, factor: float) -> None:
    folder, _ = r1_distill(tmp_path)
    assert "norm_scaling_factor must be a" in refusal(folder, norm_scaling_factor=factor)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "hyperparams.json").write_text(json.dumps(llama_scope_config()))
    assert "no weights" in refusal(tmp_path) and "final.safetensors" in refusal(tmp_path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    layers = linear_layers()
    del layers["decoder.weight"]
    assert "lacks the tensor decoder.weight" in refusal(llama_scope(tmp_path, layers)[0])


def test_a_tensor_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    folder, _ = later(tmp_path, average_norms(site=9.0) | {"magic": torch.zeros(1)})
    assert "holds magic, which this layout does not have" in refusal(folder)


def test_a_transcoder_without_the_norm_of_its_output_is_refused(tmp_path: Path) -> None:
    folder, _ = later(tmp_path, average_norms(site=9.0), hook_point_out=OTHER)
    assert "the mean norm of activations must be" in refusal(folder)
