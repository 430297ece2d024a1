"""Put the tables of settings, architectures and metrics into the documentation."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path

from cli import parse, run_script
from docs_pages import put_into_page
from rich.console import Console

from sae.architectures import ARCHITECTURES
from sae.evaluation import METRICS
from sae.runs.settings.fields import settings_of
from sae.runs.settings.groups import setting_groups
from sae.runs.settings.run_settings import SHARED

REVIVALS = {"auxk": "AuxK", "resample": "resampling", "none": "nothing"}


@dataclass(frozen=True, kw_only=True)
class ReferenceFlags:
    """Put the tables of settings, architectures and metrics into the documentation."""

    docs: Path = Path("docs")
    """The folder of the pages; they have markers where the tables go."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)


def metrics() -> str:
    """Every number of an evaluation."""
    return table(
        ("name", "definition", "unit", "better"),
        (
            (f"`{m.name}`", m.convention, m.unit, m.better if m.better != "neither" else "")
            for m in METRICS.values()
        ),
    )


def architectures() -> str:
    """What can be given to `--architecture`, with the settings of each."""
    rows: list[tuple[str, ...]] = []
    for name, cls in ARCHITECTURES.items():
        own = [f"`{s.flag}`" for s in settings_of(cls) if s.name not in SHARED]
        rows.append((f"`{name}`", cls.sparse_by, ", ".join(own), REVIVALS[cls.revival]))
    columns = (
        "`--architecture`",
        "what makes it sparse",
        "its settings",
        "keeps features alive by",
    )
    return table(columns, rows)


def settings() -> dict[str, str]:
    """Every setting of a run, a table for each group."""
    return {
        group.replace(" ", "-"): table(
            ("flag", "default", "what it does"),
            ((f"`{s.flag}`", _shown(s.default), s.text) for s in its_settings),
        )
        for group, its_settings in setting_groups().items()
    }


def _shown(default: object) -> str:
    return "" if default in (None, MISSING, (), []) else f"`{default}`"


def main() -> None:
    flags = parse(ReferenceFlags, sys.argv[1:])
    for page, tables in {
        "metrics.md": {"metrics": metrics()},
        "training.md": {"architectures": architectures()},
        "settings.md": settings(),
    }.items():
        put_into_page(flags.docs / page, tables)
    Console().print(f"written to {flags.docs}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_script(main)
