"""Processes that feed sinks of the real wandb package, as a training does."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
                wandb=given["mode"], seed=0, cache=given["cache"], to_dict=lambda: {"k": 4}
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
        given = {"cache": None} | given
        given = {"rows": rows(*range(8)), "finishes": True} | given
        given["folders"] = [str(folder) for folder in folders]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINING, json.dumps(given)],
            cwd=Path(__file__).parents[1],
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
