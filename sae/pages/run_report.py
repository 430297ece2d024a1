"""A finished run folder becomes one HTML page that needs no network."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from activation_cache.common.files import write_file
from activation_cache.common.numbers import Number, compact, format_number
from sae.architectures import ARCHITECTURES
from sae.evaluation import METRICS, advice
from sae.pages.charts import Series, histogram, line_chart, power_of_ten
from sae.pages.curves import OTHERS, PANELS, Panel
from sae.pages.run_files import RunFiles, read_run
from sae.pages.telling_features import telling_features
from sae.pages.templates import template

_ROW_AXES = {"step", "n_tokens"}

COMPARED = ("fvu", "l0", "delta_ce", "kl", "ce_recovered")
"""Metrics that a dictionary is compared with baselines by."""

SPLIT_ROWS = (
    ("the error", "x", "r2_pooled"),
    ("", "x times one number", "r2_shrinkage_pooled"),
    ("", "x_hat", "r2_from_x_hat_pooled"),
    ("its squared norm", "x", "r2_norm"),
    ("", "|x|^2", "r2_norm_from_x_norm"),
    ("", "x_hat", "r2_norm_from_x_hat"),
)
"""Of the split of an error: of what, predicted from what, and the name of its R2."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One drawn panel with the last value of each of its lines."""

    title: str
    chart: Markup
    last: Sequence[tuple[str, str]]
    n_skipped: int


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The cross-entropy under one intervention, split where the untouched model's ends."""

    name: str
    value: str
    above_clean: str
    clean_share: float
    excess_share: float


def write_report(folder: Path) -> Path:
    """Write `folder/report.html` from the files of a finished run and return its path.

    The page is replaced in one move, so a reader never sees half of it. Raises `InputError` if
    config.json is missing or a file is not valid JSON.
    """
    target = folder / "report.html"
    page = render(read_run(folder), folder)
    write_file(target, page.encode("utf-8", "replace"))  # a path may hold bytes that are no UTF-8
    return target


def render(run: RunFiles, folder: Path) -> str:
    """The page as text; everything that came from a file is escaped."""
    architecture = str(run.settings.get("architecture") or "Sparse")
    titles = {name: cls.title or name for name, cls in ARCHITECTURES.items()}
    finite = {key: value for key in run.metrics if (value := _finite(run.metrics, key)) is not None}
    return template(Path(__file__).with_name("report.html.jinja")).render(
        run=run,
        architecture=titles.get(architecture, architecture),
        finite=finite,
        n_tokens=max(_column(run.rows, "n_tokens"), default=None),
        tokens_per_s=statistics.median(_column(run.rows, "tokens_per_s") or [0.0]),
        advice=[*advice(finite), *_repetition(run.rows)],
        bars=_bars(run.metrics),
        curves=_curves(run.rows),
        density_chart=_density_chart(run.density),
        metric_names=[name for name in {**run.metrics, **run.conventions} if name != "density"],
        features=telling_features(folder, seed=int(run.settings.get("seed") or 0)),
        compared=COMPARED,
        split_rows=SPLIT_ROWS,
        exact=exact,
        rounded=rounded,
        short=short,
    )


def _repetition(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to say of a text that was read more than once."""
    epochs = max(_column(rows, "epochs"), default=0)
    if epochs <= 1:
        return []
    return [
        f"The text was read {epochs:.1f} times over: it is shorter than the training. Features may "
        f"fit its accidents; give more text, or fewer tokens"
    ]


def exact(value: object) -> str:
    """A value as the file has it; text without its quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def rounded(value: object) -> str:
    """A number with four significant digits; anything else as it is."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format_number(value)
    return exact(value)


def short(value: Number) -> str:
    """A number for a headline: three significant digits with k, M or B."""
    return compact(float(f"{value:.3g}"))


def _finite(values: Mapping[str, Any], key: str) -> int | float | None:
    value = values.get(key)
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> list[int | float]:
    return [value for row in rows if (value := _finite(row, key)) is not None]


def _bars(metrics: Mapping[str, Any]) -> list[Bar]:
    names = {m.name: m.intervention for m in METRICS.values() if m.intervention}
    values = {key: v for key in names if (v := _finite(metrics, key)) is not None}
    longest = max(values.values(), default=0.0)
    if longest <= 0:
        return []
    clean = values.get("ce_clean")
    base = longest if clean is None else max(0.0, clean)
    return [
        Bar(
            name=names[key],
            value=f"{value:.3f}",
            above_clean="" if clean is None or key == "ce_clean" else f"{value - clean:+.3f}",
            clean_share=100 * max(0.0, min(value, base)) / longest,
            excess_share=100 * max(0.0, value - base) / longest,
        )
        for key, value in values.items()
    ]


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    logged = dict.fromkeys(key for row in rows for key, v in row.items() if v is not None)
    known = {key for panel in PANELS for key in panel.keys}
    others = [
        Panel(OTHERS, key, (key,), "logged value")
        for key in logged
        if key not in known and key not in _ROW_AXES
    ]
    panels = [*PANELS, *others]
    return [_curve(panel, rows) for panel in panels if any(key in logged for key in panel.keys)]


def _curve(panel: Panel, rows: Sequence[Mapping[str, Any]]) -> Curve:
    series = [_series(key, rows) for key in panel.keys]
    series = [line for line in series if line.points]
    title = f"{panel.title} against tokens seen"
    return Curve(
        title=panel.title,
        chart=line_chart(
            series, title=title, x_label="tokens seen", y_label=panel.y_label, log_y=panel.log_y
        ),
        last=[
            (line.name, rounded(line.finite[-1][1]) if line.finite else "NaN") for line in series
        ],
        n_skipped=sum(len(line.points) - len(line.finite) for line in series),
    )


def _series(key: str, rows: Iterable[Mapping[str, Any]]) -> Series:
    points = [
        (row["n_tokens"], math.nan if row[key] is None else row[key]) for row in rows if key in row
    ]
    return Series(name=key, points=points)


def _density_chart(density: Mapping[str, Any]) -> Markup | None:
    edges, counts = density.get("log10_edges") or [], density.get("counts") or []
    if not any(counts):
        return None
    return histogram(
        edges,
        counts,
        title="How often each feature fires",
        x_label="fires per token, log scale",
        y_label="features",
        x_tick=power_of_ten,
    )
