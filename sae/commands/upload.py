"""Publish a dictionary on the Hugging Face hub, with a model card that says how good it is."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

import sae
from sae.commands.exits import fail
from sae.commands.flags import parse
from sae.hub.card import model_card
from sae.hub.transfer import SCHEME, HubPath, publish
from sae.interop import layout_of
from sae.interop.layouts import native
from sae.interop.sources import Source
from sae.pages.run_files import read_run


@dataclass(frozen=True, kw_only=True)
class UploadFlags:
    """Publish the dictionary of a run, or of any folder that sae.save wrote.

    Of a run, its evaluation is published too. The token is that of `hf auth login`, or HF_TOKEN.
    What cfg.json says goes along, so look at it: a dataset may be a path on your machine.
    """

    path: Path = field(metadata={"positional": True, "metavar": "DICTIONARY"})
    """A run folder, or the folder of a dictionary."""
    repo: str = field(metadata={"positional": True, "metavar": "USER/REPO"})
    """The repository on the hub; it is made if there is none."""
    path_in_repo: str = ""
    """Folder in it, for one of several dictionaries."""
    private: bool = False
    """Make the repository private, if it is made."""
    revision: str | None = None
    """Branch to publish on; it is made if there is none."""


def files_of(path: Path, where: HubPath) -> dict[str, bytes | Path]:
    """What is published: weights, config, card, and of a run its evaluation."""
    dictionary = sae.load(path)  # which refuses what nobody else could load
    source = Source(path)
    if layout_of(source) is not native:
        fail(f"{path} was not saved by this project: it is for those who made it to publish")
    names = (native.CONFIG_FILE, native.WEIGHTS_FILE)
    files: dict[str, bytes | Path] = {name: source.folder / name for name in names}
    evaluated: dict[str, Any] = {}
    if (path / "eval.json").is_file() and source.folder != path:
        run = read_run(path)
        evaluated = {"metrics": run.metrics, "conventions": run.conventions}
        files["eval.json"] = path / "eval.json"
    files["README.md"] = model_card(dictionary, where, **evaluated).encode()
    return files


def main(arguments: list[str]) -> None:
    flags = parse(UploadFlags, arguments)
    where = HubPath.parse(f"{SCHEME}{flags.repo}/{flags.path_in_repo}")
    if where.repo != flags.repo:
        fail(f"{flags.repo!r} is no repository: write user/repo, and --path-in-repo for a folder")
    where = replace(where, revision=flags.revision)
    files = files_of(flags.path, where)
    message = f"Add {where.path or 'a dictionary'}"
    commit = publish(files, where, message=message, private=flags.private)
    console = Console()
    for line in (f"published {', '.join(files)}", f"commit  {commit}", f"load with  {where}"):
        console.print(line, soft_wrap=True, markup=False)
