"""A full evaluation: a dictionary beside baselines, and the split of its error."""

import json
from pathlib import Path
from typing import Any

import pytest
from in_process import called

from sae.commands import evaluate as evaluate_command
from sae.runs import full_evaluation
from sae.runs.run import run
from sae.runs.settings import RunSettings

FLAGS = ("--full", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose text has one document in each block or so."""
    folder = tmp_path_factory.mktemp("full")
    text = folder / "text.jsonl"
    lines = (
        f"File {i} is a [thing] in the folder number {i * i}, and {i} more." for i in range(3000)
    )
    text.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    settings = RunSettings.of(
        model="tiny", hook_name="blocks.1.hook_resid_mid", architecture="topk", k=4, d_sae=96,
        n_tokens=8192, batch_tokens=256, buffer_tokens=1024, context_size=32, eval_tokens=2048,
        dataset=str(text), wandb="off", device="cpu", out=folder / "run",
    )  # fmt: skip
    run(settings)
    return folder / "run"


@pytest.fixture(scope="module")
def evaluated(folder: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """eval.json before and after, and what was printed."""
    before = json.loads((folder / "eval.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(full_evaluation, "FIT_TOKENS", 4096)
        done = called(evaluate_command.main, folder, *FLAGS)
    assert done.code == 0, done
    return before, json.loads((folder / "eval.json").read_text()), done.out


def test_the_numbers_of_the_dictionary_stay_and_others_come_beside_them(
    evaluated: tuple[dict[str, Any], dict[str, Any], str],
) -> None:
    before, after, _ = evaluated
    assert before == {name: after[name] for name in before if name != "text"} | {
        "text": before["text"]
    }
    assert after.keys() - before.keys() == {"baselines", "baselines_k", "error_split", "warnings"}
    assert after["baselines_k"] == 4


def test_baselines_are_in_the_order_that_they_must_be_in(
    evaluated: tuple[dict[str, Any], dict[str, Any], str],
) -> None:
    its = {name: of["metrics"] for name, of in evaluated[1]["baselines"].items()}
    assert its["identity"]["fvu"] == 0 and its["identity"]["delta_ce"] == 0
    assert its["mean"]["fvu"] == pytest.approx(1, abs=0.05)
    assert its["zero"]["ce_recovered"] == 0
    assert its["pca_top_k"]["fvu"] < its["pca"]["fvu"] < its["mean"]["fvu"]
    assert its["pca_top_k"]["fvu"] < its["neurons"]["fvu"] < its["mean"]["fvu"]
    assert all(its[name]["l0"] == 4 for name in ("random", "neurons", "pca_top_k"))


def test_the_error_is_split_on_documents_that_the_map_was_not_fitted_on(
    evaluated: tuple[dict[str, Any], dict[str, Any], str],
) -> None:
    split = evaluated[1]["error_split"]
    assert split["n_fit_documents"] + split["n_test_documents"] == evaluated[1]["n_documents"]
    assert split["fvu_linear"] < split["fvu"] < 1
    assert split["r2_pooled"] < split["on_fit_documents"]["r2_pooled"]
    assert any("fewer than 50 for each dimension" in line for line in evaluated[1]["warnings"])


def test_the_tables_are_printed_and_in_the_report(
    folder: Path, evaluated: tuple[dict[str, Any], dict[str, Any], str]
) -> None:
    printed, report = evaluated[2], (folder / "report.html").read_text()
    assert "beside baselines" in printed and "pca_top_k" in printed
    assert "what is linear in the activation" in printed and "x times one number" in printed
    for heading in ("Beside baselines", "What of the error is linear", "By position in the block"):
        assert f"<h2>{heading}" in report
    assert "95&nbsp;% interval" in report


def test_a_text_of_few_documents_is_refused(folder: Path) -> None:
    few = called(evaluate_command.main, folder, *FLAGS, "--eval-tokens", "64")
    assert few.code == 2 and few.err.count("\n") == 1
    assert "documents, and an interval needs 10: give more --eval-tokens" in few.err
