"""A real offline run of Weights & Biases, read back from the file that `wandb sync` would send."""

import json
import re
import shutil
import sys
import threading
from pathlib import Path

import pytest
from in_process import called
from offline_wandb import artifacts_of, description_of, history_of

import sae.features
from sae.commands import wandb_workspace
from sae.features.telling import telling
from sae.pages.curves import PANELS
from sae.pages.telling_features import visible
from sae.runs.member import Member
from sae.runs.run import run
from sae.runs.settings import RunSettings
from sae.runs.sinks import wandb_sink
from sae.runs.sinks.wandb_results import NoAccount, cache_artifact
from sae.runs.sinks.wandb_sink import WandBSink, mode_of
from sae.runs.sinks.workspace import workspace


def rows_of(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_offline_run_holds_every_row_by_section_against_tokens_and_heeds_variables_of_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PROJECT": "mine", "NAME": "first", "TAGS": "a,b"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    settings = RunSettings.of(
        n_tokens=1024,
        batch_tokens=128,
        buffer_tokens=1024,
        eval_tokens=512,
        d_sae=32,
        k=4,
        log_every=2,
        out=tmp_path / "run",
        wandb="offline",
    )
    run(settings)
    (path,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    history = history_of(path)
    rows = rows_of(tmp_path / "run" / "metrics.jsonl")
    speeds = rows_of(tmp_path / "run" / "throughput.jsonl")
    assert [h["train/tokens"] for h in history[:-1]] == [row["n_tokens"] for row in rows]
    for mirrored, row, speed in zip(history[:-1], rows, speeds, strict=True):
        assert mirrored["Quality/fvu"] == pytest.approx(row["fvu"])
        assert mirrored["Sparsity/l0"] == pytest.approx(row["l0"])
        assert mirrored["Loss/mse"] == pytest.approx(row["mse"])
        assert mirrored["Throughput/tokens_per_s"] == pytest.approx(speed["tokens_per_s"])
    metrics = json.loads((tmp_path / "run" / "eval.json").read_text())["metrics"]
    assert history[-1]["eval/delta_ce"] == pytest.approx(metrics["delta_ce"])
    assert history[-1]["train/tokens"] == 1024
    about = description_of(path)
    assert (about.project, about.display_name, [*about.tags]) == ("mine", "first", ["a", "b"])


def test_without_a_flag_an_api_key_makes_runs_online_and_wandb_mode_goes_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert mode_of(None) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert mode_of(None) == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode_of(None) == "off"
    assert mode_of("offline") == "offline"


def test_closing_does_not_wait_for_a_client_that_never_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(wandb_sink, "_open", lambda *_: never.wait())
    monkeypatch.setattr(wandb_sink, "CLOSE_TIMEOUT", 0.1)
    told: list[str] = []
    sink = WandBSink(Member("name", RunSettings.of(wandb="online"), tmp_path), 0, told.append)
    sink.log({"step": 0, "n_tokens": 10, "loss": 0.5})
    sink.close()
    assert len(told) == 1 and told[0].startswith("W&B: it was not done in time; the rows are kept")
    never.set()


# What a finished run leaves ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real offline run with features."""
    folder = tmp_path_factory.mktemp("finished")
    settings = RunSettings.of(
        n_tokens=1024, batch_tokens=128, buffer_tokens=1024, eval_tokens=512, d_sae=80, k=4,
        log_every=4, out=folder / "run", wandb="offline", feature_tokens=2000, device="cpu",
    )  # fmt: skip
    run(settings)
    return folder / "run"


def _wandb_file(run_folder: Path) -> Path:
    (path,) = (run_folder / "wandb").glob("offline-run-*/run-*.wandb")
    return path


def test_the_features_of_the_report_are_a_table(finished: Path) -> None:
    history = history_of(_wandb_file(finished))
    assert [row["train/tokens"] for row in history if "Loss/loss" in row] == [
        row["n_tokens"] for row in rows_of(finished / "metrics.jsonl")
    ]
    (shown,) = [row for row in history if "features/path" in row]
    path = _wandb_file(finished).parent / "files" / str(shown["features/path"])
    table = json.loads(path.read_text())
    features = sae.features.open(finished / "features")
    chosen = telling(features, seed=0)
    assert shown["features/nrows"] == len(table["data"]) == len(chosen) == 50
    assert shown["train/tokens"] == 1024 and "eval/delta_ce" in shown
    assert [row[0] for row in table["data"]] == chosen
    columns = dict(zip(table["columns"], zip(*table["data"], strict=True), strict=True))
    for name in ("density", "max", "alignment"):
        assert columns[name] == pytest.approx([getattr(features[i], name) for i in chosen])
    for i, fires_on, raises, context in zip(
        chosen, columns["fires on"], columns["raises"], columns["context"], strict=True
    ):
        feature, best = features[i], features[i].top[0]
        assert fires_on.startswith(visible(features.word(feature.tokens[0].id)))
        assert raises.startswith(visible(features.word(feature.logits[0].id)))
        assert f"[[{visible(best.tokens[best.at])}]]" in context


def test_artifacts_carry_the_dictionary_and_its_evaluation(finished: Path) -> None:
    found = artifacts_of(_wandb_file(finished))
    dictionary, evaluation = found["sae-run"], found["eval-run"]
    assert (dictionary.type, evaluation.type) == ("model", "evaluation")
    assert "final" in dictionary.aliases and "final" in evaluation.aliases
    assert json.loads(dictionary.metadata)["d_sae"] == 80
    places = {entry.path: entry.ref for entry in dictionary.manifest.contents}
    weights = (finished / "sae" / "sae_weights.safetensors").as_uri()
    assert places["sae_weights.safetensors"] == weights and set(places) >= {"cfg.json"}
    assert json.loads(evaluation.metadata)["d_sae"] == 80
    (entry,) = evaluation.manifest.contents
    assert entry.local_path == str(finished / "eval.json")


def test_what_waits_for_an_upload_is_in_the_run_folder_without_a_copy_of_the_dictionary(
    finished: Path,
) -> None:
    staged = [file for file in (finished / "wandb" / "artifacts").rglob("*") if file.is_file()]
    assert any("fires on" in file.read_text() for file in staged)
    weights = (finished / "sae" / "sae_weights.safetensors").stat().st_size
    assert sum(file.stat().st_size for file in staged) < weights / 2


def test_a_cache_that_a_run_was_trained_on_is_its_input() -> None:
    its = cache_artifact(RunSettings.of(cache="s3://bucket/some cache", context_size=64))
    assert its.type == "dataset" and re.fullmatch("some-cache-[0-9a-f]{8}", its.name)
    assert its.metadata["address"] == "s3://bucket/some cache"
    assert its.metadata["context_size"] == 64


def test_caches_of_one_name_in_two_places_are_two_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here, there = (cache_artifact(RunSettings.of(cache=place)) for place in ("cache", "a/cache"))
    assert here.name != there.name
    assert here.metadata["address"] == str(tmp_path / "cache")


def test_features_that_cannot_be_read_keep_neither_the_evaluation_nor_artifacts_back(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    (tmp_path / "run" / "features" / "features.json").write_text("{}")
    told: list[str] = []
    settings = RunSettings.of(wandb="offline")
    sink = WandBSink(Member("run", settings, tmp_path / "run"), 0, told.append)
    sink.log({"step": 0, "n_tokens": 10, "loss": 0.5})
    sink.finish({"delta_ce": 0.25})
    sink.close()
    (line,) = told
    assert "it did not take all features and artifacts (InputError: " in line
    path = _wandb_file(tmp_path / "run")
    assert [row["train/tokens"] for row in history_of(path)] == [10, 10]
    assert history_of(path)[-1]["eval/delta_ce"] == 0.25
    assert {"sae-run", "eval-run"} <= set(artifacts_of(path))


# The workspace -----------------------------------------------------------------------------------


OF_WANDB = pytest.mark.filterwarnings("ignore:Pydantic V1 style")


@OF_WANDB
def test_the_workspace_has_what_runs_log(finished: Path) -> None:
    """Panels of other architectures' losses are there too: what a run does not log stays empty."""
    pytest.importorskip("wandb_workspaces", reason="needs the extra workspace")
    made = workspace("me", "mine", "Dictionaries")
    panels = {section.name: section.panels for section in made.sections}
    lines = [p for its in panels.values() for p in its if type(p).__name__ == "LinePlot"]
    drawn = {str(key) for line in lines for key in line.y or []}
    logged = {key for row in history_of(_wandb_file(finished)) for key in row}
    sections = tuple(f"{name}/" for name in {panel.section for panel in PANELS} - {"train"})
    assert {key for key in logged if key.startswith(sections)} <= drawn
    assert "train/spikes" in drawn
    scalars = {str(p.metric) for p in panels["Evaluation"] if hasattr(p, "metric")}
    assert scalars <= logged and "eval/delta_ce" in scalars
    scatter = next(p for p in panels["Evaluation"] if type(p).__name__ == "ScatterPlot")
    assert (str(scatter.x), str(scatter.y)) == ("eval/l0", "eval/delta_ce")
    assert f"{panels['Features'][0].table_name}/path" in logged
    parallel = next(p for p in panels["Evaluation"] if type(p).__name__.startswith("Parallel"))
    settings = json.loads((finished / "config.json").read_text())["settings"]
    named = [column.metric.name for column in parallel.columns]
    assert set(named) <= {*settings, *logged} and {"k", "eval/delta_ce"} <= {*named}
    assert made.settings.x_axis == "train/tokens"


@OF_WANDB
def test_without_an_account_the_workspace_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces", reason="needs the extra workspace")

    def no_account() -> str:
        raise NoAccount

    its = "sae.runs.sinks.wandb_results.default_entity"
    monkeypatch.setattr(its, no_account)
    done = called(wandb_workspace.main, "--entity", "me")
    assert done.code == 2 and "run wandb login, or set WANDB_API_KEY" in done.err
    monkeypatch.setattr(its, lambda: None)
    done = called(wandb_workspace.main)
    assert done.code == 2 and "name one by --entity" in done.err


def test_without_its_package_the_workspace_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    done = called(wandb_workspace.main)
    assert done.code == 2 and "pip install 'featureloom[workspace]'" in done.err
