"""A real offline run of Weights & Biases, read back from the file that `wandb sync` would send."""

import json
import threading
from pathlib import Path

import pytest
from offline_wandb import description_of, history_of

from sae.runs.member import Member
from sae.runs.run import run
from sae.runs.settings import RunSettings
from sae.runs.sinks import wandb_sink
from sae.runs.sinks.wandb_sink import WandBSink, mode_of


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
