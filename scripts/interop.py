"""Exchange dictionaries with the packages of other projects, both ways, and compare.

    python scripts/interop.py --page docs/interop.md

Each package runs in a virtual environment of its own, which is built where it is missing. It saves
a dictionary of every class that it trains, which we load; and it loads those of ours that its
layout can express. Both times the same rows have to give the same features and reconstructions.
The exit code is 1 where anything differs.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from docs_pages import put_into_page
from peers.environments import ENVIRONMENTS, environment
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

import sae
from sae.architectures import ARCHITECTURES
from sae.commands.exits import fail, run_command
from sae.commands.flags import parse
from sae.interop import export

PROGRAMS = Path(__file__).parent / "peers" / "exchange"
LAYOUTS = {
    "sae_lens": "saelens",
    "dictionary_learning": "dictionary_learning",
    "sparsify": "sparsify",
}
"""The peers, and the layout that each of them reads."""
D_IN, D_SAE, N_ROWS = 24, 96, 256
SETTINGS = {
    "topk": {"k": 6},
    "batch_topk": {"k": 6},
    "matryoshka": {"k": 6, "prefixes": (D_SAE // 4, D_SAE)},
}
TOLERANCE = 1e-5
"""Of the largest feature, and of the largest number of a reconstruction."""


@dataclass(frozen=True, kw_only=True)
class InteropFlags:
    """Exchange dictionaries with the packages of other projects, both ways, and compare."""

    peer: tuple[Literal["sae_lens", "dictionary_learning", "sparsify"], ...] = ()
    """Only these; by default all."""
    environments: Path = ENVIRONMENTS
    """Where their virtual environments are."""
    page: Path | None = None
    """Put the table into this Markdown file, between its markers."""
    json: bool = False
    """Print the table as JSON."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One dictionary that was exchanged."""

    peer: str
    direction: Literal["theirs, loaded here", "ours, loaded there"]
    dictionary: str
    features: float | None = None
    """Largest difference, as a share of the largest feature."""
    support: int | None = None
    """Entries that are active in only one of the two."""
    reconstruction: float | None = None
    note: str = ""

    @property
    def is_same(self) -> bool:
        """Whether nothing differs by more than rounding; what is refused by name does not count."""
        if self.features is None or self.reconstruction is None:
            return self.note.startswith("refused")
        return max(self.features, self.reconstruction) <= TOLERANCE and self.support == 0


def main(arguments: list[str]) -> None:
    flags = parse(InteropFlags, arguments)
    rows: list[Row] = []
    for peer in flags.peer or tuple(LAYOUTS):
        python = environment(peer, flags.environments)
        with tempfile.TemporaryDirectory(prefix="interop-") as folder:
            rows += theirs(peer, python, Path(folder) / "theirs")
            rows += ours(peer, python, Path(folder) / "ours")
    if flags.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        show(rows)
    if flags.page is not None:
        write_page(flags.page, rows)
    sys.exit(not all(row.is_same for row in rows))


def theirs(peer: str, python: Path, folder: Path) -> Iterator[Row]:
    """What the peer saves, loaded here."""
    folder.mkdir()
    run_program(peer, python, "save", folder)
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        expected = load_file(folder / f"{path.name}.safetensors")
        known: dict[str, Any] = {"direction": "theirs, loaded here", "dictionary": path.name}
        try:
            found = used(sae.load(path), expected["x"])
        except sae.InputError as error:
            yield Row(peer=peer, note=f"not loaded: {error}", **known)
        else:
            yield Row(peer=peer, **known, **differences(found, expected))


def ours(peer: str, python: Path, folder: Path) -> Iterator[Row]:
    """What we write for the peer, loaded there."""
    folder.mkdir()
    refused: dict[str, str] = {}
    for name, dictionary in dictionaries():
        try:
            export(dictionary, folder / name, to=LAYOUTS[peer])
        except sae.InputError as error:
            refused[name] = str(error).split(":")[0]
        else:
            x = rows_around(dictionary)
            save_file({"x": x, **used(dictionary, x)}, folder / f"{name}.safetensors")
    expected = {path.stem: load_file(path) for path in folder.glob("*.safetensors")}
    failed = run_program(peer, python, "load", folder)
    for name, _ in dictionaries():
        known: dict[str, Any] = {"direction": "ours, loaded there", "dictionary": name}
        if name in refused:
            yield Row(peer=peer, note=f"refused: {refused[name]}", **known)
        elif name in failed:
            yield Row(peer=peer, note=f"not loaded: {failed[name]}", **known)
        else:
            found = load_file(folder / f"{name}.safetensors")
            yield Row(peer=peer, **known, **differences(found, expected[name]))


def run_program(peer: str, python: Path, task: str, folder: Path) -> dict[str, str]:
    """What the peer's program says it could not load, and why."""
    program = PROGRAMS / f"exchange_{peer}.py"
    done = subprocess.run(
        [python, program, task, folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        fail(f"{program.name} {task} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def dictionaries() -> Iterator[tuple[str, sae.SAE]]:
    """One of every architecture, tied too, with no parameter as it was initialised."""
    for architecture, config in ARCHITECTURES.items():
        for tied in (False, True):
            generator = torch.Generator().manual_seed(len(architecture) + tied)
            settings: dict[str, Any] = SETTINGS.get(architecture, {})
            dictionary = config(d_sae=D_SAE, tied=tied, **settings).build(D_IN)
            with torch.no_grad():
                for name, parameter in dictionary.named_parameters():
                    noise = 0.2 * torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(noise.abs() if name == "threshold" else parameter + noise)
                for name, buffer in dictionary.named_buffers():
                    buffer.fill_(0.4 if name == "threshold" else 0.0)
                dictionary.constrain_()
            yield f"{architecture}{', tied' if tied else ''}", dictionary


def rows_around(dictionary: sae.SAE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N_ROWS, dictionary.d_in, generator=generator) * 2 + 1.5


@torch.no_grad()
def used(dictionary: sae.SAE, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a dictionary makes of rows."""
    return {"features": dictionary.encode(x), "reconstruction": dictionary(x)}


def differences(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> dict[str, Any]:
    shares = {
        name: float((found[name] - expected[name]).abs().max() / expected[name].abs().max())
        for name in ("features", "reconstruction")
    }
    active = [of["features"] != 0 for of in (found, expected)]
    return {**shares, "support": int((active[0] != active[1]).sum())}


# The table ---------------------------------------------------------------------------------------


def cells(row: Row) -> tuple[str, ...]:
    if row.features is None or row.reconstruction is None:
        return row.peer, row.direction, row.dictionary, "", "", "", row.note
    shares = f"{row.features:.1e}", f"{row.support}", f"{row.reconstruction:.1e}"
    return row.peer, row.direction, row.dictionary, *shares, row.note


HEADINGS = ("package", "direction", "dictionary", "features", "support", "reconstruction", "note")


def show(rows: list[Row]) -> None:
    table = Table(*HEADINGS)
    for row in rows:
        table.add_row(*cells(row))
    Console(width=160).print(table)


def write_page(page: Path, rows: list[Row]) -> None:
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(cells, rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    put_into_page(page, {"exchanged": table})


if __name__ == "__main__":
    run_command(main)
