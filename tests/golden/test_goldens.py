"""A change of the code changes no number, and reads what the code before it has written.

`before/` was written by the commit 093a34d: caches, runs, and a dictionary of every architecture.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import golden_losses
import pytest
import torch
from safetensors.torch import load_file

import sae
from activation_cache import ActivationCache
from sae.pages.run_report import write_report
from sae.runs.evaluation import evaluate_dictionary
from sae.runs.run import run
from sae.runs.settings.run_settings import run_as_now, settings_from, settings_from_file
from sae.training import Trainer

BEFORE = Path(__file__).with_name("before")
DICTIONARIES = sorted(path.name for path in (BEFORE / "dictionaries").iterdir() if path.is_dir())


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a copy of `before/`, whose files name each other by relative paths."""
    folder = Path(shutil.copytree(BEFORE, tmp_path / "before"))
    monkeypatch.chdir(folder)
    return folder


def metrics_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "eval.json").read_text())["metrics"]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_losses_of_short_trainings_are_the_same_to_six_digits() -> None:
    recorded = golden_losses.FILE.read_text().splitlines()
    for found, expected in zip(golden_losses.lines(), recorded, strict=True):
        name, found_losses = found.split(": ")
        expected_name, expected_losses = expected.split(": ")
        assert name == expected_name
        ours, theirs = ([float(x) for x in of.split()] for of in (found_losses, expected_losses))
        assert ours == pytest.approx(theirs, rel=2e-5), name  # other processors round otherwise


@pytest.mark.parametrize("name", DICTIONARIES)
def test_a_dictionary_from_before_computes_what_it_did_and_keeps_its_metadata(
    tmp_path: Path, name: str
) -> None:
    expected = load_file(BEFORE / "dictionaries" / "expected.safetensors")
    dictionary = sae.load(BEFORE / "dictionaries" / name)
    with torch.no_grad():
        torch.testing.assert_close(dictionary.encode(expected["x"]), expected[f"{name}/acts"])
        torch.testing.assert_close(dictionary(expected["x"]), expected[f"{name}/x_hat"])
    sae.save(dictionary, tmp_path / "again")
    was, now = BEFORE / "dictionaries" / name, tmp_path / "again"
    weights = "sae_weights.safetensors"
    assert (now / weights).read_bytes() == (was / weights).read_bytes()
    config, config_now = (json.loads((of / "cfg.json").read_text()) for of in (was, now))
    own, own_now = (of["metadata"].pop("featureloom") for of in (config, config_now))
    assert config_now == config
    own["config"].pop("initial_threshold", None)  # is no setting any more
    new = own_now["config"].keys() - own["config"].keys()
    assert new <= {"auxk_coeff", "target_l0"}  # of what had neither
    assert {n: own_now["config"].pop(n) for n in new} in ({}, {"auxk_coeff": 0, "target_l0": None})
    assert own_now == own


@pytest.mark.parametrize("codec", ["bfloat16", "int8"])
def test_a_cache_from_before_is_whole_and_serves_its_rows(before: Path, codec: str) -> None:
    cache = ActivationCache.open(f"cache-{codec}")
    assert cache.verify() == []
    batches = list(cache.batches(100, seed=0))
    assert [len(batch["blocks.2.hook_resid_pre"]) for batch in batches] == [100, 100, 100]


@pytest.mark.parametrize("name", ["run", "run-from-cache"])
def test_a_run_from_before_evaluates_to_the_same_numbers(before: Path, name: str) -> None:
    report = evaluate_dictionary(sae.load(name), device="cpu")
    assert report.metrics() == pytest.approx(metrics_of(before / name), rel=1e-4)


def test_an_interrupted_run_from_before_resumes_to_what_it_would_have_been(before: Path) -> None:
    settings = settings_from_file(Path("interrupted/config.json"))
    run(settings, resume=True)
    assert metrics_of(before / "interrupted") == pytest.approx(
        metrics_of(before / "undisturbed"), rel=1e-3
    )
    for found, expected in zip(
        rows_of(before / "interrupted"), rows_of(before / "undisturbed"), strict=True
    ):
        found.pop("epochs", None)  # which were not logged then
        assert found == pytest.approx(expected, rel=1e-3)


def test_the_settings_of_a_run_from_before_train_as_good_a_dictionary_again(before: Path) -> None:
    """Not the same one: the first step had a learning rate of 0, and the optimizer was Adam."""
    (before / "run").rename(before / "first")
    run(settings_from_file(before / "first" / "config.json"))
    fits = [rows_of(before / name)[-1]["fvu"] for name in ("run", "first")]
    assert 0.6 * fits[1] < fits[0] < fits[1]


@pytest.mark.parametrize("architecture", ["relu", "jumprelu"])
def test_coefficients_from_before_are_those_of_the_units_of_training(architecture: str) -> None:
    """So they need no conversion, which could not be exact."""
    then = {"architecture": architecture, "d_sae": 64, "lr": 1e-3}
    then |= {"l1_coeff": 2.0} if architecture == "relu" else {"l0_coeff": 0.2, "bandwidth": 0.5}
    settings = settings_from(run_as_now({**then, "initial_threshold": 0.5}))
    trainer = Trainer(settings.dictionary.build(16), settings.training)
    assert settings.training.coefficient_units == "absolute"
    assert (trainer.sae.unit, settings.dictionary.auxk_coeff) == (1.0, 0.0)
    (penalty,) = {"l1", "l0"} & settings.dictionary.coefficients.keys()
    assert trainer.cfg.penalty_factor(settings.dictionary.powers[penalty], d_in=16) == 1.0


def test_a_report_is_made_of_a_run_from_before(before: Path) -> None:
    (before / "run" / "report.html").unlink()
    assert write_report(before / "run").stat().st_size > 20_000
