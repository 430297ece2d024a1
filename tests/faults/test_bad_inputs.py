"""Nobody gets a traceback for a bad input: one line says what is wrong, and nothing is left behind.

The scripts run in this process, all but a handful, and what costs time in them does nothing here.
"""

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_caches import BAD_CACHES
from bad_configs import BAD_CONFIGS
from bad_dictionaries import BAD_DICTIONARIES
from bad_flags import BAD_FLAGS
from bad_models import BAD_MODELS
from bad_places import BAD_PLACES
from featureloom import COMMANDS
from in_process import Done, called
from workshop import Bad, Workshop

from activation_cache import LanguageModel, load_model

BAD_INPUTS = {
    **BAD_FLAGS,
    **BAD_PLACES,
    **BAD_CONFIGS,
    **BAD_DICTIONARIES,
    **BAD_CACHES,
    **BAD_MODELS,
}
LONGEST_LINE = 1000
SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def quick(tiny: LanguageModel) -> Iterator[None]:
    """The embedded model is loaded once, and no training begins."""

    def load(source: str, **options: Any) -> LanguageModel:
        is_plain = source == "tiny" and options.get("device", "auto") == "auto"
        return tiny if is_plain else load_model(source, **options)

    def train(*_arguments: object) -> None:
        raise AssertionError("the input was accepted: a training would begin now")

    with pytest.MonkeyPatch.context() as patch:
        for module in ("sae.runs.inputs", "sae.runs.evaluation", "activation_cache.cache.store"):
            patch.setattr(importlib.import_module(module), "load_model", load)
        patch.setattr(importlib.import_module("sae.runs.run"), "train", train)
        yield


def listed(folder: Path) -> dict[str, tuple[str, object]]:
    """Everything below a folder: what it is, and what is in it."""
    found: dict[str, tuple[str, object]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", path.readlink())
        elif path.is_file():
            found[name] = ("file", path.read_bytes())
        else:
            found[name] = ("folder" if path.is_dir() else "other", None)
    return found


def assert_refused(done: Done, says: str) -> None:
    """In one line of plain characters that says this, and with exit code 2."""
    assert done.code == 2, done
    line = done.err.removesuffix("\n")
    assert line.startswith("error: ") and line.isprintable(), done.err
    assert len(line) < LONGEST_LINE, len(line)
    assert re.search(says, line), line


def test_the_table_is_long_and_says_nothing_twice() -> None:
    assert len(BAD_INPUTS) >= 80
    sizes = [len(part) for part in (BAD_FLAGS, BAD_PLACES, BAD_CONFIGS, BAD_DICTIONARIES)]
    assert sum(sizes) + len(BAD_CACHES) + len(BAD_MODELS) == len(BAD_INPUTS)


@pytest.mark.usefixtures("quick", "as_installed", "no_more_memory")
@pytest.mark.parametrize("bad", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_a_bad_input_is_told_in_one_line_and_leaves_nothing_behind(
    shop: Workshop, bad: Bad
) -> None:
    bad.prepare(shop)
    around = shop.folder.parents[1]
    before = listed(around)
    module = f"sae.commands.{bad.script}" if bad.script in COMMANDS else bad.script
    done = called(importlib.import_module(module).main, *shlex.split(bad.flags))
    assert_refused(done, bad.says)
    assert listed(around) == before


@pytest.mark.slow
def test_a_real_process_ends_with_code_2_and_the_same_line(shop: Workshop) -> None:
    bad = BAD_INPUTS["train, a config of code"]
    bad.prepare(shop)
    before = listed(shop.folder)
    command = [sys.executable, str(SCRIPTS / f"{bad.script}.py"), *shlex.split(bad.flags)]
    ended = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=dict(os.environ)
    )
    assert_refused(Done(ended.returncode, ended.stdout, ended.stderr), bad.says)
    assert listed(shop.folder) == before
