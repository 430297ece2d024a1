"""Processes that feed sinks of the real wandb package, whose server refuses, hangs or vanishes."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from offline_wandb import WandBServer, history_of

KEY = "0123456789abcdef" * 3

TRAINING = """
import json, sys, types
from pathlib import Path
for name in ("sae", "sae.runs", "sae.runs.member"):  # without what they import
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [name.replace(".", "/")]
sys.modules["sae.runs.member"].Member = object
from sae.runs.sinks import wandb_sink

given = json.loads(sys.argv[1])
vars(wandb_sink).update(given["patience"])
sinks = [
    wandb_sink.WandBSink(
        types.SimpleNamespace(
            name="name", folder=Path(folder), group=given["group"],
            settings=types.SimpleNamespace(
                wandb=given["mode"], seed=0, cache=None, to_dict=lambda: {"k": 4}
            ),
        ),
        given["mirrored_until"],
        lambda line: sys.stderr.write(line + "\\n"),
    )
    for folder in given["folders"]
]
for row in given["rows"]:
    for sink in sinks:
        sink.log(row)
print("trained", flush=True)
sys.stdin.readline()
for sink, folder in zip(sinks, given["folders"]):
    if given["finishes"]:
        Path(folder, "sae").mkdir()
        Path(folder, "sae", "cfg.json").write_text('{"d_sae": 4}')
        Path(folder, "eval.json").write_text('{"metrics": {"fvu": 0.5}}')
        sink.finish({"fvu": 0.5})
    sink.close()
"""


def rows(*which: int) -> list[dict[str, float]]:
    """Rows of metrics.jsonl: one every 20 steps of 10 tokens each."""
    return [{"step": 20 * i + 19, "n_tokens": 200 * i + 200, "loss": 0.5} for i in which]


TOKENS = [row["n_tokens"] for row in rows(*range(8))]
ALL = [*TOKENS, TOKENS[-1]]
"""Of eight rows and the evaluation's."""
FIRST = {"rows": rows(0, 1, 2, 3, 4, 5), "finishes": False}
"""Of a run that is interrupted."""


def arrived() -> list[dict[str, float]]:
    """What the server has of it."""
    return [{"_step": row["step"], "train/tokens": row["n_tokens"]} for row in rows(0, 1, 2)]


class Training:
    """A process that logs rows of dictionaries, one a folder, and then waits to be let on."""

    def __init__(self, url: str, *folders: Path, **given: Any) -> None:
        self._folders = folders
        also = given.pop("environment", {})
        given = {"mode": "online", "group": None, "mirrored_until": 0, "patience": {}} | given
        given = {"rows": rows(*range(8)), "finishes": True} | given
        given["folders"] = [str(folder) for folder in folders]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINING, json.dumps(given)],
            cwd=Path(__file__).parents[2],
            env=environment(url, also),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "trained\n", self.process.communicate()

    def end(self) -> str:
        """What it writes to stderr. It ends well, and the API key is in no file of its folders."""
        _, err = self.process.communicate("\n")
        assert self.process.returncode == 0, err
        for folder in self._folders:
            for file in folder.rglob("*"):
                assert not file.is_file() or KEY.encode() not in file.read_bytes(), file
        return err

    def warning(self) -> str:
        """The one line that it writes to stderr."""
        err = self.end()
        assert err.startswith("W&B: ") and err.count("\n") == 1, err
        return err


def environment(url: str, also: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return kept | {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY} | also


def upload(url: str, command: str, cwd: Path) -> str:
    """Run the `wandb sync` of a warning, as its reader may; what it says."""
    arguments = shlex.split(command[command.index("wandb sync") :])[1:]
    program = [sys.executable, "-m", "wandb", *arguments]
    done = subprocess.run(
        program, cwd=cwd, env=environment(url, {}), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
    return done.stderr


def until(holds: Callable[[], object]) -> None:
    for _ in range(3000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that in 30 s")


def kept_tokens(folder: Path) -> list[float]:
    """The x-axis of W&B's file in a run folder."""
    (file,) = folder.glob("wandb/*run-*/run-*.wandb")
    return [row["train/tokens"] for row in history_of(file)]


@pytest.fixture
def server() -> Iterator[WandBServer]:
    with WandBServer() as started:
        yield started
        started.vanish()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


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
