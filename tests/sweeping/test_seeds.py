"""`featureloom train --seeds N --twins`: dictionaries that differ in the seed, on one stream."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import Done, called
from safetensors.torch import load_file
from sweeps import MLP, SMALL, count_steps, differences, interrupt, listed

from activation_cache import LanguageModel
from sae.architectures import BatchTopKConfig
from sae.commands import train
from sae.runs.run import run
from sae.runs.settings.run_settings import settings_from_file

NAMES = ["seed0", "seed1", "seed2", "twin-decoder", "twin-encoder"]


@pytest.fixture
def typed(tmp_path: Path, gpt2: LanguageModel, dataset: str) -> Callable[..., Done]:
    """`train` with small settings, others in their place, into `out`."""

    def command(*flags: object, out: str = "seeds", **others: Any) -> Done:
        settings = {**SMALL, "model": gpt2.name, "dataset": dataset, "n_tokens": 192, **others}
        given = [(f"--{name.replace('_', '-')}", value) for name, value in settings.items()]
        arguments = [part for pair in given for part in pair]
        return called(train.main, *arguments, "--out", tmp_path / out, *flags)

    return command


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "members" / name / "sae" / "sae_weights.safetensors")


def test_each_seed_and_each_twin_is_as_if_it_had_been_trained_alone(
    typed: Callable[..., Done], tmp_path: Path
) -> None:
    done = typed("--seeds", 3, "--twins")
    assert done.code == 0, done.err
    folder = tmp_path / "seeds"
    assert sorted(path.name for path in (folder / "members").iterdir()) == NAMES
    rows = json.loads((folder / "results.json").read_text())
    assert sorted(row["name"] for row in rows) == NAMES
    for name in NAMES:
        assert name in done.out
        member = folder / "members" / name
        run(settings_from_file(member / "config.json").but(out=tmp_path / "alone" / name))
        assert not differences(member, tmp_path / "alone" / name), name


def test_twins_start_from_weights_of_their_own_and_keep_them_where_they_are_frozen(
    typed: Callable[..., Done], tmp_path: Path
) -> None:
    typed("--seeds", 2, "--twins", "--seed", 5)
    folder = tmp_path / "seeds"
    settings = {
        name: json.loads((folder / "members" / name / "config.json").read_text())["settings"]
        for name in ("seed5", "seed6", "twin-decoder", "twin-encoder")
    }
    assert [(its["seed"], its["frozen"]) for its in settings.values()] == [
        (5, "none"),
        (6, "none"),
        (1_000_005, "decoder"),
        (1_000_006, "encoder"),
    ]
    of_seed = BatchTopKConfig(d_sae=32).build(weights(folder, "seed5")["W_dec"].shape[1], seed=5)
    assert not torch.equal(weights(folder, "seed5")["W_dec"], of_seed.W_dec)
    random = BatchTopKConfig(d_sae=32).build(of_seed.d_in, seed=1_000_005)
    assert torch.equal(weights(folder, "twin-decoder")["W_dec"], random.W_dec)


def test_interrupted_seeds_are_resumed_with_their_own_settings_to_the_same_results(
    typed: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert typed("--seeds", 2, "--twins", out="whole").code == 0
    with monkeypatch.context() as patch:
        interrupt(patch, n_steps=6)  # the second step of the second seed
        assert typed("--seeds", 2, "--twins").code == 130
    folder = tmp_path / "seeds"
    done = called(train.main, "--resume", "--out", folder, "--seeds", 2, "--twins")
    assert done.code == 0, done.err
    for name in ("seed0", "seed1", "twin-decoder", "twin-encoder"):
        assert not differences(folder / "members" / name, tmp_path / "whole" / "members" / name)


def test_more_seeds_are_trained_beside_those_that_are_there(
    typed: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed("--seeds", 2, "--twins")
    before = listed(tmp_path / "seeds" / "members")
    taken = count_steps(monkeypatch)
    assert typed("--seeds", 3, "--twins", "--resume").code == 0
    assert len(taken) == 3  # of 64 tokens, of one dictionary
    assert before.items() <= listed(tmp_path / "seeds" / "members").items()


def test_one_seed_without_twins_is_an_ordinary_run(
    typed: Callable[..., Done], tmp_path: Path
) -> None:
    assert typed("--seeds", 1).code == 0
    assert (tmp_path / "seeds" / "eval.json").is_file()
    assert not (tmp_path / "seeds" / "members").exists()


@pytest.mark.parametrize(
    ("flags", "others", "message"),
    [
        (("--seeds", 0), {}, "seeds must be at least 1, got 0"),
        (("--twins", "--tied"), {}, "leave out --twins or tied"),
        (("--twins", "--frozen", "encoder"), {}, "frozen 'encoder' makes a twin of every seed"),
        (("--seeds", 2, "--start-from", "runs/first"), {}, "start_from gives every seed the same"),
        (("--seeds", 2, "--hook-name", MLP), {}, "compared at one site"),
        (("--seeds", 2, "--dry-run"), {}, "--dry-run is of one dictionary"),
    ],
)
def test_seeds_that_cannot_be_compared_are_refused_in_one_line(
    typed: Callable[..., Done],
    tmp_path: Path,
    flags: tuple[object, ...],
    others: dict[str, Any],
    message: str,
) -> None:
    done = typed(*flags, **others)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "seeds").exists()


def test_a_sweep_is_not_resumed_as_a_run_nor_a_run_as_a_sweep(
    typed: Callable[..., Done], tmp_path: Path
) -> None:
    typed("--seeds", 2)
    before = listed(tmp_path / "seeds")
    done = called(train.main, "--resume", "--out", tmp_path / "seeds")
    assert done.code == 2 and "is the folder of a sweep: resume it with --seeds" in done.err
    assert listed(tmp_path / "seeds") == before
    typed(out="run")
    done = typed("--seeds", 2, "--resume", out="run")
    assert done.code == 2 and "is the folder of a run of one seed" in done.err
    assert not (tmp_path / "run" / "members").exists()
