"""Does with an architecture and a metric of another package what a user does with ours.

Run as a program with this folder on the path, it prints what it found as JSON.
"""

import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import sae
from sae.commands import convert, evaluate, train
from sae.hub.card import model_card
from sae.hub.transfer import HubPath
from sae.pages.run_files import read_run
from sae.runs.sinks import logs
from sae.runs.sinks.sink import Row

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

import reference  # noqa: E402 - a script
from in_process import called  # noqa: E402 - of the tests


class Mirror:
    """What is handed to W&B, without W&B."""

    metrics: ClassVar[list[str]] = []

    def __init__(self, *_: object, **__: object) -> None: ...

    def log(self, row: Row) -> None: ...

    def finish(self, metrics: Row) -> None:
        self.metrics.extend(metrics)

    def close(self) -> None: ...


def main(folder: Path) -> dict[str, object]:
    run = folder / "run"
    flags = "--architecture soft_relu --softness 0.25 --d-sae 48 --n-tokens 2000 --eval-tokens 512"
    where = ["--context-size", 32, "--buffer-tokens", 1024, "--wandb", "offline", "--device", "cpu"]
    logs.WandBSink = Mirror  # type: ignore[misc, assignment]
    found: dict[str, object] = {
        "trained": called(train.main, *flags.split(), *where, "--out", run),
        "evaluated": called(evaluate.main, run, "--eval-tokens", 512),
        "converted": called(convert.main, run, folder / "theirs", "--to", "saelens"),
        "refused": called(train.main, "--softness", "0.1", "--out", folder / "other"),
        "help": called(train.main, "--help"),
    }
    found["mirrored"] = Mirror.metrics
    dictionary = sae.load(run)
    x = torch.randn(4, dictionary.d_in)
    found["config"] = json.loads((run / "config.json").read_text())["settings"]
    found["evaluation"] = json.loads((run / "eval.json").read_text())
    found["report"] = (run / "report.html").read_text()
    found["features"] = dictionary.encode(x).gt(0).any().item()
    found["loaded"] = [type(dictionary).__name__, dictionary.cfg.softness]  # type: ignore[attr-defined]
    files = read_run(run)
    at = HubPath(repo="user/name")
    conventions = files.conventions
    found["card"] = model_card(dictionary, at, metrics=files.metrics, conventions=conventions)
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "README.md", folder)
    found["tables"] = called(reference.main, "--docs", folder / "docs").code
    found["docs"] = {page.name: page.read_text() for page in (folder / "docs").glob("*.md")}
    with contextlib.redirect_stdout(io.StringIO()) as told:
        contract = ["-q", "-c", os.devnull, "--assert=plain", "-W", "ignore", "-k", "soft_relu"]
        code = pytest.main([*contract, str(ROOT / "tests" / "test_contract.py")])
    found["contract"] = [int(code), told.getvalue()]
    return found


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(Path(sys.argv[1]))))
