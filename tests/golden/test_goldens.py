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
from sae.runs.settings.run_settings import settings_from_file

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
    for file in ("cfg.json", "sae_weights.safetensors"):
        was = (BEFORE / "dictionaries" / name / file).read_bytes()
        assert (tmp_path / "again" / file).read_bytes() == was


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
        assert found == pytest.approx(expected, rel=1e-3)


def test_the_settings_of_a_run_from_before_train_the_same_dictionary_again(before: Path) -> None:
    (before / "run").rename(before / "first")
    run(settings_from_file(before / "first" / "config.json"))
    for found, expected in zip(rows_of(before / "run"), rows_of(before / "first"), strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


def test_a_report_is_made_of_a_run_from_before(before: Path) -> None:
    (before / "run" / "report.html").unlink()
    assert write_report(before / "run").stat().st_size > 20_000
