"""Features of the dictionary of a run, in its folder and in its report."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import called

import sae
import sae.features
import sae.runs.features
from sae.commands import features as features_command
from sae.commands import train as train_command
from sae.pages.run_report import write_report
from sae.pages.telling_features import visible
from sae.runs.run import run
from sae.runs.settings import RunSettings

TEXT = "File {} is a [thing] in the folder: <b> & </script>, café."


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": TEXT.format(i)}) for i in range(900)))
    return dict(
        model="tiny", hook_name="blocks.1.hook_resid_mid", architecture="topk", k=4, d_sae=96,
        n_tokens=2048, batch_tokens=128, buffer_tokens=256, context_size=32, eval_tokens=256,
        dataset=str(text), wandb="off", device="cpu", feature_tokens=2000, out=tmp_path / "run",
    )  # fmt: skip


def _bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_run_ends_with_pages_of_its_features(settings: dict[str, Any]) -> None:
    (result,) = run(RunSettings.of(**settings))
    features = sae.features.open(result.folder / "features")
    assert len(features) == 96 and (result.folder / "features" / "index.html").is_file()
    assert not (result.folder / "features" / "collecting").exists()
    report = (result.folder / "report.html").read_text()
    n_firing = int((features.numbers("density") > 0).sum())
    assert f"<h2>{min(50, n_firing)} of 96 features</h2>" in report
    assert 'href="features/index.html#/feature/' in report
    assert report.count('href="features/index.html#/feature/') == min(50, n_firing)
    table = report.split('<table class="features">')[1].split("</table>")[0]
    assert "<b>" not in table and "</script>" not in report


def test_the_command_gives_the_same_features_as_the_run(settings: dict[str, Any]) -> None:
    (result,) = run(RunSettings.of(**settings))
    inside = result.folder / "features"
    elsewhere = result.folder.parent / "elsewhere"
    flags = ("--n-tokens", "2000", "--device", "cpu", "--out", elsewhere)
    assert called(features_command.main, result.folder, *flags).code == 0
    assert _bytes(elsewhere) == _bytes(inside)


def test_the_command_brings_features_into_the_report_of_a_run(settings: dict[str, Any]) -> None:
    (result,) = run(RunSettings.of(**settings | {"feature_tokens": 0}))
    report = result.folder / "report.html"
    assert "of 96 features</h2>" not in report.read_text()
    done = called(features_command.main, result.folder, "--n-tokens", "2000", "--device", "cpu")
    assert done.code == 0 and "of 96 features</h2>" in report.read_text()


def test_a_complete_run_that_is_resumed_collects_features_when_asked(
    settings: dict[str, Any],
) -> None:
    (result,) = run(RunSettings.of(**settings | {"feature_tokens": 0}))
    run(RunSettings.of(**settings), resume=True)
    assert len(sae.features.open(result.folder / "features")) == 96
    assert "of 96 features</h2>" in (result.folder / "report.html").read_text()


def test_an_interrupted_collecting_is_resumed_to_the_same_bytes(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (undisturbed,) = run(RunSettings.of(**settings | {"out": settings["out"].with_name("other")}))

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sys.modules["sae.features.collect"], "build", interrupted)
        run(RunSettings.of(**settings))
    assert any((settings["out"] / "features" / "collecting").rglob("state.json"))
    assert not (settings["out"] / "report.html").exists()
    (resumed,) = run(RunSettings.of(**settings), resume=True)
    assert _bytes(resumed.folder / "features") == _bytes(undisturbed.folder / "features")


def test_a_run_that_trains_for_longer_has_the_features_of_its_new_dictionary(
    settings: dict[str, Any],
) -> None:
    (first,) = run(RunSettings.of(**settings))
    sae.features.open(first.folder / "features").notes.write(5, "kept")
    before = sae.features.open(first.folder / "features").facts
    (longer,) = run(RunSettings.of(**settings | {"n_tokens": 4096}), resume=True)
    after = sae.features.open(longer.folder / "features").facts
    assert before.dictionary != after.dictionary and before.n_tokens == after.n_tokens
    assert sae.features.open(longer.folder / "features")[5].note == "kept"


def test_features_of_a_settings_file_can_be_switched_off_by_a_flag(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("feature_tokens: 300k\nn_tokens: 20k\nd_sae: 64")
    command = (train_command.main, "--config", tmp_path / "run.yaml", "--dry-run")
    assert "from 300,000 tokens" in called(*command).out
    off = called(*command, "--feature-tokens", "0").out
    assert [line for line in off.splitlines() if "features" in line and "none" in line]
    assert RunSettings.of(feature_tokens=None).feature_tokens == 0  # as older runs have it


def test_a_run_on_activations_of_a_file_refuses_features(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4096, 4), np.float32))
    with pytest.raises(sae.InputError, match="have neither: drop --feature-tokens"):
        RunSettings.of(activations=str(tmp_path / "x.npy"), feature_tokens=100)


def test_a_report_shows_hostile_tokens_as_text(tmp_path: Path) -> None:
    from feature_folders import hostile_features

    (tmp_path / "config.json").write_text(json.dumps({"settings": {"seed": 1}, "versions": {}}))
    hostile_features(tmp_path / "features")
    page = write_report(tmp_path).read_text()
    assert "<script" not in page and "<img" not in page and "\u202e" not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page and "\\u202eback" in page
    assert "50 of 70 features" in page


def test_what_cannot_be_seen_is_shown_as_what_it_is() -> None:
    assert visible("a\n\tb\x00\u202e\u200b ü") == "a↵⇥b\\u0000\\u202e\\u200b ü"
