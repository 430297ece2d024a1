"""Put tables that follow from the code, and from the benchmarks page, into the documentation."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass
from itertools import chain
from pathlib import Path

from docs_pages import put_figures_beside, put_into_page
from rich.console import Console

from activation_cache import InputError, load_model
from activation_cache.model.loading import TINY
from activation_cache.model.sites import EMBEDDING, SITES
from activation_cache.model.small import architectures as architectures_of_models
from activation_cache.model.small import small_model
from sae.architectures import ARCHITECTURES
from sae.commands.exits import run_command
from sae.commands.flags import parse
from sae.commands.models import Row, rows
from sae.commands.toy_models import SECTIONS
from sae.evaluation import METRICS
from sae.evaluation.compared import COMPARED
from sae.papers.claims import markdown_table, read_claims
from sae.runs.settings import RunSettings
from sae.runs.settings.fields import settings_of
from sae.runs.settings.groups import setting_groups
from sae.runs.settings.presets import PRESETS, Preset
from sae.runs.settings.run_settings import SHARED


@dataclass(frozen=True, kw_only=True)
class ReferenceFlags:
    """Put the tables of settings, architectures and metrics into the documentation."""

    docs: Path = Path("docs")
    """The folder of the pages; they have markers where the tables go."""
    models: bool = False
    """Prove the sites of every architecture, and put that table into the page on models instead."""
    toy_models: Path | None = None
    """A folder that `featureloom papers toy-models` wrote: put its claims, tables and figures into
    the paper's page instead."""


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


def compared() -> str:
    """The numbers of other projects, by their definitions."""
    return table(
        ("project", "its name", "definition", "ours"),
        (
            (project, f"`{of.name}`", of.convention, f"`{of.ours}`" if of.ours else "")
            for project, its in COMPARED.items()
            for of in its
        ),
    )


def architectures() -> str:
    """What can be given to `--architecture`, with the settings of each."""
    rows: list[tuple[str, ...]] = []
    for name, cls in ARCHITECTURES.items():
        own = [f"`{s.flag}`" for s in settings_of(cls) if s.name not in SHARED]
        rows.append((f"`{name}`", cls.sparse_by, ", ".join(own)))
    return table(("`--architecture`", "what makes it sparse", "its settings"), rows)


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


def recipes() -> str:
    """The presets side by side, with what is known of them."""
    columns: dict[str, dict[str, str]] = {}
    for name in PRESETS:
        preset = Preset.named(name)
        settings = RunSettings.of(**preset.settings)
        dictionary, harvest = settings.dictionary, settings.harvest
        lr = settings.training.learning_rate(dictionary.d_sae)
        columns[name] = {
            "model": f"`{settings.model}`",
            "site": f"`{settings.hook_names[0]}`",
            "text": f"`{harvest.source}`",
            "dictionary": f"{dictionary.architecture}, {dictionary.d_sae:,} features",
            "tokens": f"{settings.training.n_tokens:,}",
            "tokens a feature": f"{settings.training.n_tokens // dictionary.d_sae:,}",
            "batch": f"{harvest.batch_tokens:,}",
            "learning rate": f"{lr:.2g}",
            "shuffle buffer": f"{harvest.buffer_tokens:,}",
            **preset.expected,
        }
    rows = columns[PRESETS[0]]
    return table(
        ("", *(f"`{name}`" for name in PRESETS)),
        ((row, *(columns[name][row] for name in PRESETS)) for row in rows),
    )


def peers(benchmarks: str) -> str:
    """Fit and speed beside the peers, from the page that `scripts/bench.py` writes."""
    (fits, made), (large, _) = (
        _measured(benchmarks, place) for place in ("quality", "peers-synthetic")
    )
    speeds = {row["note"].split(",")[0]: row["per CPU s"] for row in large}
    shown = table(
        (
            *("library", "dictionary", "learning rate", "FVU, held out", "CPU s"),
            f"tokens per CPU s, {large[0]['d_sae']} features",
        ),
        (
            (
                *(row[name] for name in ("library", "architecture", "learning rate")),
                *(row[name] for name in ("FVU", "CPU s")),
                speeds[row["library"]] if row["architecture"] == "topk" else "",
            )
            for row in fits
        ),
    )
    return f"{shown}\n\nMeasured on {made}, in float32, k {large[0]['k']}."


def _measured(page: str, place: str) -> tuple[list[dict[str, str]], str]:
    """The rows of a table of the benchmarks page by their columns; when and where it was made."""
    part = page.split(f"<!-- {place} -->")[1].split(f"<!-- /{place} -->")[0]
    made = re.search(r" on (\d{4}-\d\d-\d\d), commit \w+, torch [^,]+, ([^.]+)", part)
    assert made is not None, f"the line above the table {place} does not say when it was made"
    header, _, *lines = (line for line in part.splitlines() if line.startswith("|"))
    names, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (header, *lines))
    return [dict(zip(names, row, strict=True)) for row in rows], f"{made[1]} ({made[2]})"


def models() -> dict[str, str]:
    """What holds at the sites of small random models of every architecture, and what does not."""
    tokenizer = load_model(TINY, device="cpu").tokenizer
    cells: list[tuple[str, ...]] = []
    refusals: dict[tuple[str, str], list[str]] = {}
    too_small: list[str] = []
    for model_type in architectures_of_models():
        try:
            model = small_model(model_type, tokenizer)
        except InputError:
            too_small.append(f"`{model_type}`")
            continue
        found = [[row for row in rows(model) if row.site == site] for site in (EMBEDDING, *SITES)]
        cells.append((f"`{model_type}`", *map(_cell, found)))
        for row in chain.from_iterable(found):
            if row.refusal is not None:
                why = re.sub(r" by [\d.]+ of its size", "", row.refusal)
                refusals.setdefault((row.site, why), []).append(f"`{model_type}`")
    short = (name.replace("hook_", "") for name in (EMBEDDING, *SITES))
    return {
        "architectures-of-models": table(("", *short), cells),
        "refusals": table(
            ("site", "why it is refused", "in"),
            (
                (f"`{site}`", why, ", ".join(types))
                for (site, why), types in sorted(refusals.items())
            ),
        ),
        "not-small": ", ".join(too_small),
    }


def _cell(found: Sequence[Row]) -> str:
    """Whether a site can be used: in all layers, in some, in none; empty where there is none."""
    usable = [row.refusal is None for row in found]
    return "" if not found else "yes" if all(usable) else "some" if any(usable) else "no"


def put_toy_models_into_pages(docs: Path, result: Path) -> None:
    """The claims and other tables of the paper, and beside its page the figures that it shows."""
    claims = sorted(read_claims(result), key=lambda claim: SECTIONS.index(claim.section))
    tables = {path.stem: path.read_text().rstrip() for path in result.glob("*.md")}
    page = docs / "papers" / "toy_models.md"
    put_into_page(page, {"claims": markdown_table(claims), **tables})
    put_figures_beside(page, result)
    if "recovery" in tables:
        put_into_page(docs / "results.md", {"recovery": tables["recovery"]})


def main(arguments: list[str]) -> None:
    flags = parse(ReferenceFlags, arguments)
    if flags.toy_models is not None:
        put_toy_models_into_pages(flags.docs, flags.toy_models)
        return
    if flags.models:
        put_into_page(flags.docs / "models.md", models())
        return
    readme = flags.docs.parent / "README.md"
    put_into_page(readme, {"peers": peers((flags.docs / "benchmarks.md").read_text())})
    for page, tables in {
        "metrics.md": {"metrics": metrics(), "compared": compared()},
        "training.md": {"architectures": architectures()},
        "recipes.md": {"recipes": recipes()},
        "settings.md": settings(),
    }.items():
        put_into_page(flags.docs / page, tables)
    Console().print(f"written to {flags.docs}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_command(main)
