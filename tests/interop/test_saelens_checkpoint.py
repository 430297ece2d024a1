import json
from pathlib import Path
from typing import Any

import pytest
import torch
from saelens_files import (
    D_IN,
    D_SAE,
    assert_agrees,
    config_of,
    inputs,
    original,
    put,
    weights_of,
)
from safetensors.torch import save_file
from torch import Tensor

import sae
from sae.interop import export

BATCH = ("batchtopk", "matryoshka_batchtopk")
THRESHOLD = 1.2345678901234


def _weights(architecture: str) -> dict[str, Tensor]:
    if architecture not in BATCH:
        return weights_of(architecture)
    return weights_of("standard") | {"topk_threshold": torch.tensor(THRESHOLD, dtype=torch.float64)}


def _checkpoint(
    folder: Path, architecture: str, scaler: dict[str, Any] | None = None, **changes: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Write a checkpoint; its config and weights in the words of what is saved at the end."""
    weights = _weights(architecture)
    training = {
        "decoder_init_norm": 0.1,
        "aux_loss_coefficient": 1.0,
        "use_sparse_activations": True,
    }
    if architecture == "matryoshka_batchtopk":
        training["matryoshka_widths"] = [8, 16, 32]
    put(folder, config_of(architecture, **training, **changes), weights)
    (folder / "trainer_state.pt").write_bytes(b"not read")
    if scaler is not None:
        (folder / "activation_scaler.json").write_text(json.dumps(scaler))
    used = dict(weights)
    if architecture in BATCH:
        used["threshold"] = used.pop("topk_threshold").float().expand(D_SAE)
    return config_of(architecture, **changes) | {"normalize_activations": "none"}, used


@pytest.mark.parametrize("rescales", [True, False])
@pytest.mark.parametrize("architecture", [*BATCH, "topk", "abstopk"])
def test_decoder_norms_that_are_not_folded_are_applied(
    tmp_path: Path, architecture: str, rescales: bool
) -> None:
    scaler = {"scaling_factor": None, "has_whitening": False}
    changes = {"rescale_acts_by_decoder_norm": rescales}
    config, weights = _checkpoint(tmp_path, architecture, scaler, **changes)
    x = inputs()
    assert_agrees(sae.load(tmp_path), x, *original(config, weights, x))


@pytest.mark.parametrize("architecture", BATCH)
def test_without_the_files_of_a_trainer_it_is_a_checkpoint_all_the_same(
    tmp_path: Path, architecture: str
) -> None:
    config, weights = _checkpoint(tmp_path, architecture)
    x = inputs()
    assert_agrees(sae.load(tmp_path), x, *original(config, weights, x))


@pytest.mark.parametrize("architecture", BATCH)
def test_a_token_does_not_depend_on_its_batch(tmp_path: Path, architecture: str) -> None:
    """In training, features are chosen over the batch; used, they are above a threshold."""
    _checkpoint(tmp_path, architecture)
    dictionary, x = sae.load(tmp_path), inputs()
    alone = torch.cat([dictionary.encode(token[None]) for token in x])
    assert torch.allclose(alone, dictionary.encode(x), atol=1e-5)


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated"])
def test_the_scale_is_taken_from_the_file_beside(tmp_path: Path, architecture: str) -> None:
    scaler = {"scaling_factor": 0.37, "has_whitening": False}
    kind = {"normalize_activations": "expected_average_only_in"}
    config, weights = _checkpoint(tmp_path, architecture, scaler, **kind)
    x = inputs()
    acts, x_hat = original(config, weights, 0.37 * x)
    assert_agrees(sae.load(tmp_path), x, acts, x_hat / 0.37)


@pytest.mark.parametrize("architecture", [*BATCH, "topk", "abstopk", "matching_pursuit"])
def test_features_that_have_a_length_are_in_the_units_of_the_input(
    tmp_path: Path, architecture: str
) -> None:
    """So is their threshold: SAELens once left it behind, and other features were active."""
    scaler = {"scaling_factor": 0.37, "has_whitening": False}
    kind = {"normalize_activations": "expected_average_only_in"}
    config, weights = _checkpoint(tmp_path, architecture, scaler, **kind)
    x = inputs()
    acts, x_hat = original(config, weights, 0.37 * x)
    assert_agrees(sae.load(tmp_path), x, acts / 0.37, x_hat / 0.37)


def test_a_scale_that_is_nowhere_must_be_given(tmp_path: Path) -> None:
    kind = {"normalize_activations": "expected_average_only_in"}
    config, weights = _checkpoint(tmp_path, "batchtopk", {"scaling_factor": None}, **kind)
    with pytest.raises(sae.InputError, match="give norm_scaling_factor"):
        sae.load(tmp_path)
    x = inputs()
    acts, x_hat = original(config, weights, 0.37 * x)
    dictionary = sae.load(tmp_path, norm_scaling_factor=0.37)
    assert_agrees(dictionary, x, acts / 0.37, x_hat / 0.37)


def test_a_logarithm_of_thresholds_is_no_threshold(tmp_path: Path) -> None:
    weights = weights_of("jumprelu")
    logarithms = weights.pop("threshold")
    put(tmp_path, config_of("jumprelu"), weights | {"log_threshold": logarithms})
    x, used = inputs(), weights | {"threshold": logarithms.exp()}
    assert_agrees(sae.load(tmp_path), x, *original(config_of("jumprelu"), used, x))


# Whitening ---------------------------------------------------------------------------------------


def _whitening(folder: Path) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rotation, _ = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=generator).double())
    lengths = torch.linspace(0.5, 2, D_IN).double()
    parts = {
        "mean": torch.linspace(-3, 6, D_IN).double(),
        "matrix": (rotation * lengths).contiguous(),
        "inverse_matrix": (rotation / lengths).T.contiguous(),
    }
    save_file(parts, folder / "activation_whitening.safetensors")
    return parts


@pytest.mark.parametrize(
    ("architecture", "subtracts"),
    [
        *((architecture, True) for architecture in (*BATCH, "standard", "topk", "jumprelu")),
        *(("gated", subtracts) for subtracts in (True, False)),
    ],
)
def test_whitening_is_folded(tmp_path: Path, architecture: str, subtracts: bool) -> None:
    """Decoder norms are folded first: unwhitening changes them, and so what they would choose."""
    scaler = {"scaling_factor": None, "has_whitening": True}
    changes = {
        "normalize_activations": "covariance_whitening",
        "apply_b_dec_to_input": subtracts,
    }
    config, weights = _checkpoint(tmp_path, architecture, scaler, **changes)
    whitening, x = _whitening(tmp_path), inputs()
    z = ((x.double() - whitening["mean"]) @ whitening["matrix"]).float()
    acts, z_hat = original(config, weights, z)
    x_hat = (z_hat.double() @ whitening["inverse_matrix"] + whitening["mean"]).float()
    assert_agrees(sae.load(tmp_path), x, acts, x_hat)


def test_whitening_cannot_be_folded_into_matching_pursuit(tmp_path: Path) -> None:
    kind = {"normalize_activations": "covariance_whitening"}
    _checkpoint(tmp_path, "matching_pursuit", {"has_whitening": True}, **kind)
    _whitening(tmp_path)
    with pytest.raises(sae.InputError, match="cannot be folded into a tied encoder"):
        sae.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"inverse_matrix": torch.eye(D_IN)}, "inverse_matrix is none of matrix"),
        ({"mean": torch.zeros(3)}, r"mean in .* is of shape \(3,\), expected \(8,\)"),
        ({"matrix": torch.eye(3)}, r"matrix in .* is of shape \(3, 3\), expected \(8, 8\)"),
        ({"other": torch.zeros(3)}, "holds other, which this layout does not have"),
    ],
)
def test_whitening_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Tensor], line: str
) -> None:
    kind = {"normalize_activations": "covariance_whitening"}
    _checkpoint(tmp_path, "standard", {"has_whitening": True}, **kind)
    save_file(_whitening(tmp_path) | changes, tmp_path / "activation_whitening.safetensors")
    with pytest.raises(sae.InputError, match=line):
        sae.load(tmp_path)


# Refusing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scaler", "line"),
    [
        ({"scaling_factor": 0.37}, "has scaling_factor 0.37, and cfg.json .* 'none'"),
        ({"has_whitening": True}, "has has_whitening True, and cfg.json .* 'none'"),
        ({"scaling_factor": "much"}, "has scaling_factor 'much', and cfg.json .* 'none'"),
    ],
)
def test_a_scaler_that_the_config_does_not_know_of_is_refused(
    tmp_path: Path, scaler: dict[str, Any], line: str
) -> None:
    _checkpoint(tmp_path, "standard", scaler)
    with pytest.raises(sae.InputError, match=line):
        sae.load(tmp_path)


@pytest.mark.parametrize("factor", [0, "much"])
def test_a_factor_that_is_no_factor_is_refused(tmp_path: Path, factor: object) -> None:
    kind = {"normalize_activations": "expected_average_only_in"}
    _checkpoint(tmp_path, "standard", {"scaling_factor": factor}, **kind)
    with pytest.raises(sae.InputError, match="scaling_factor"):
        sae.load(tmp_path)


@pytest.mark.parametrize("value", [torch.tensor(float("nan")), torch.zeros(2)])
def test_a_threshold_that_is_no_number_is_refused(tmp_path: Path, value: Tensor) -> None:
    weights = weights_of("standard") | {"topk_threshold": value}
    with pytest.raises(sae.InputError, match="topk_threshold"):
        sae.load(put(tmp_path, config_of("batchtopk"), weights))


@pytest.mark.parametrize("architecture", BATCH)
def test_a_checkpoint_can_be_written_as_what_is_used(tmp_path: Path, architecture: str) -> None:
    _checkpoint(tmp_path / "a", architecture)
    dictionary, x = sae.load(tmp_path / "a"), inputs()
    export(dictionary, tmp_path / "b", to="saelens")
    written = json.loads((tmp_path / "b" / "cfg.json").read_text())
    assert written["architecture"] == "jumprelu"
    assert torch.equal(sae.load(tmp_path / "b")(x), dictionary(x))
