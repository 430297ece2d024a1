"""Sinks of the real wandb package, in processes, whose server refuses, hangs or vanishes."""

import json
import shlex
from pathlib import Path
from typing import Any

import psutil
import pytest
from offline_wandb import WandBServer, history_of
from wandb_training import ALL, FIRST, TOKENS, Training, arrived, rows, until, upload


def kept_tokens(folder: Path) -> list[float]:
    """The x-axis of W&B's file in a run folder."""
    (file,) = folder.glob("wandb/*run-*/run-*.wandb")
    return [row["train/tokens"] for row in history_of(file)]


def test_a_good_server_gets_every_row_of_every_dictionary_and_nothing_is_said(
    server: WandBServer, tmp_path: Path
) -> None:
    """Where W&B is debugged, which would put the API key into its logs."""
    folders = [tmp_path / name for name in "ab"]
    debug = {"WANDB_DEBUG": "true", "WANDB_CORE_DEBUG": "true"}
    assert Training(server.url, *folders, environment=debug).end() == ""
    assert server.tokens() == [ALL] * 2
    assert [*folders[0].glob("wandb/run-*/logs/debug-internal.log")]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hangs", "answers 500", "breaks off", "refuses connections"])
def test_without_a_server_the_rows_are_kept_and_one_line_says_how_to_upload_them(
    server: WandBServer, tmp_path: Path, fault: str
) -> None:
    """One line for a whole group, too."""
    server.fault = fault
    if fault == "refuses connections":
        server.vanish()
    folders = [tmp_path / "sweep" / name for name in "ab"]
    training = Training(server.url, *folders, group="sweep", patience={"INIT_TIMEOUT": 3.0})
    first, second = training.end().splitlines()
    assert first == second and first.startswith(f"W&B: cannot open a run on {server.url} (")
    assert "upload them later with: wandb sync " in first
    for folder in folders:
        (kept,) = folder.glob("wandb/offline-run-*/run-*.wandb")
        assert [row["train/tokens"] for row in history_of(kept)] == ALL


@pytest.mark.slow
def test_the_dictionaries_of_a_group_say_the_same_line(server: WandBServer, tmp_path: Path) -> None:
    server.fault = "wrong key"
    folders = [tmp_path / "my sweep" / name for name in "ab"]
    lines = Training(server.url, *folders, group="sweep").end().splitlines()
    assert lines[0] == lines[1]
    assert lines[0].startswith(f"W&B: {server.url} refuses the API key; the rows are kept")
    command, pattern = lines[0].split("my sweep'/")
    assert command.endswith(f"upload them later with: wandb sync '{tmp_path}/")
    assert len([*folders[0].parent.glob(pattern)]) == 2


@pytest.mark.slow
def test_a_server_that_opens_no_run_is_told_and_gets_it_later(
    server: WandBServer, folder: Path
) -> None:
    server.fault = "hangs when a run is opened"
    line = Training(server.url, folder, patience={"INIT_TIMEOUT": 2.0}).warning()
    assert f"W&B: cannot open a run on {server.url} (" in line
    server.fault = ""
    upload(server.url, line, folder)
    assert server.tokens() == [ALL]
    assert [*server.rows] == [(folder / "wandb" / "run_id.txt").read_text()]


@pytest.mark.slow
def test_a_key_that_is_missing_is_told_and_not_asked_for(
    server: WandBServer, folder: Path, tmp_path: Path
) -> None:
    without = {"WANDB_API_KEY": "", "HOME": str(tmp_path)}
    assert "No API key configured" in Training(server.url, folder, environment=without).warning()
    assert kept_tokens(folder) == ALL


@pytest.mark.slow
def test_a_server_that_vanishes_in_the_middle_can_be_given_the_rows_later(
    server: WandBServer, folder: Path
) -> None:
    training = Training(server.url, folder, patience={"FINISH_TIMEOUT": 2.0})
    until(lambda: server.rows)
    server.vanish()
    line = training.warning()
    assert "did not take all rows within 2 s" in line
    assert kept_tokens(folder) == ALL
    with WandBServer() as again:
        upload(again.url, line, folder)
        assert again.tokens() == [ALL]
        again.vanish()


@pytest.mark.slow
def test_training_outlives_the_process_of_wandb(server: WandBServer, folder: Path) -> None:
    training = Training(server.url, folder)
    until(lambda: server.rows)
    for child in psutil.Process(training.process.pid).children():
        child.kill()
    assert "its client failed" in training.warning()


def interrupted(folder: Path) -> dict[str, Any]:
    """How the run goes on from after row 3."""
    lines = [json.dumps(row) + "\n" for row in rows(0, 1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return {"rows": rows(4, 5, 6, 7), "mirrored_until": TOKENS[5]}


@pytest.mark.slow
def test_a_run_goes_on_as_the_same_run_and_the_server_gets_what_it_lacks(
    server: WandBServer, folder: Path
) -> None:
    (folder / "wandb").mkdir(parents=True)
    (folder / "wandb" / "run_id.txt").write_text("the-same")
    server.rows["the-same"] = arrived()
    assert Training(server.url, folder, **interrupted(folder)).end() == ""
    assert server.tokens() == [ALL] and [*server.rows] == ["the-same"]


@pytest.mark.slow
def test_a_killed_run_goes_on_as_the_same_run_too(server: WandBServer, folder: Path) -> None:
    training = Training(server.url, folder, **FIRST)
    until(lambda: server.rows)
    clients = psutil.Process(training.process.pid).children()
    training.process.kill()
    training.process.communicate()
    psutil.wait_procs(clients)  # W&B's own process sends what it has before it ends
    (run_id,) = server.rows
    server.rows[run_id] = arrived()
    assert Training(server.url, folder, **interrupted(folder)).end() == ""
    assert server.tokens() == [ALL]


@pytest.mark.slow
def test_a_run_that_goes_on_with_a_wrong_key_can_be_uploaded_as_the_same_run(
    server: WandBServer, folder: Path
) -> None:
    assert Training(server.url, folder, **FIRST).end() == ""
    server.fault = "wrong key"
    line = Training(server.url, folder, **interrupted(folder)).warning()
    server.fault = ""
    upload(server.url, line, folder)
    assert server.tokens() == [ALL]


@pytest.mark.slow
def test_two_offline_parts_of_a_run_are_uploaded_as_one_run_with_each_row_once(
    server: WandBServer, folder: Path
) -> None:
    assert Training(server.url, folder, mode="offline", **FIRST).end() == ""
    assert Training(server.url, folder, mode="offline", **interrupted(folder)).end() == ""
    assert not server.asked.is_set()
    parts = shlex.join(map(str, folder.glob("wandb/offline-run-*")))
    upload(server.url, f"wandb sync {parts}", folder)
    assert server.tokens() == [ALL]
    assert {name: made["artifactTypeName"] for name, made in server.artifacts.items()} == {
        "sae-name": "model",
        "eval-name": "evaluation",
    }


@pytest.mark.slow
def test_a_run_that_goes_on_online_brings_the_rows_that_were_kept_offline(
    server: WandBServer, folder: Path
) -> None:
    assert Training(server.url, folder, mode="offline", **FIRST).end() == ""
    assert Training(server.url, folder, **interrupted(folder)).end() == ""
    assert server.tokens() == [ALL]
    (offline,) = folder.glob("wandb/offline-run-*")
    assert "No runs to sync" in upload(server.url, f"wandb sync {offline}", folder)
