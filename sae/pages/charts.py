"""Line charts and histograms as inline SVG, which chart.svg.jinja draws. Numbers in, markup out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from activation_cache.common.numbers import Number, compact
from sae.pages.templates import template

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MOST_TICKS = 6

Label = Callable[[Number], str]
"""What is written at a tick."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One named line: a point is (x, y), and points that are not finite are not drawn."""

    name: str
    points: Sequence[tuple[Number, Number]]

    @property
    def finite(self) -> list[tuple[Number, Number]]:
        return [(x, y) for x, y in self.points if math.isfinite(x) and math.isfinite(y)]


def linear_ticks(low: Number, high: Number, target: int = 4) -> list[float]:
    """Round numbers 1, 2 or 5 x 10^n apart that enclose low..high, about `target` steps.

    >>> linear_ticks(0, 37)
    [0.0, 10.0, 20.0, 30.0, 40.0]
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = min(low, 0.0), max(high, 0.0)  # a constant is seen best against zero
    if low == high:
        high = low + 1
    rough = (high - low) / target
    exponent = math.floor(math.log10(rough))
    factors = (1, 2, 5, 10)
    step = next(s for s in (float(f"{f}e{exponent}") for f in factors) if s >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, max(0, -exponent)) for i in range(first, last + 1)]


def log_ticks(low: Number, high: Number) -> list[float]:
    """Round numbers that enclose low..high, both positive, for a logarithmic axis.

    >>> log_ticks(0.03, 0.8)
    [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    """
    if 1.001 < high / low < 2:  # too narrow for 1-2-5, wide enough for labels that differ
        return linear_ticks(low, high)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ladder = [float(f"{f}e{e}") for e in range(first - 1, last + 2) for f in (1, 2, 5)]
    start = max(i for i, tick in enumerate(ladder) if tick <= low)
    stop = min(i for i, tick in enumerate(ladder) if tick >= high)
    if start == stop:
        start, stop = start - 1, stop + 1
    if stop - start < _MOST_TICKS:
        return ladder[start : stop + 1]
    stride = math.ceil((last - first) / (_MOST_TICKS - 1))
    return [float(f"1e{e}") for e in range(first, last + stride, stride)]


def power_of_ten(exponent: Number) -> str:
    """A tick label for a base-10 logarithm: -3 reads 10⁻³."""
    if exponent == round(exponent):
        return "10" + str(round(exponent)).translate(_SUPERSCRIPTS)
    return compact(float(f"{10**exponent:.2g}"))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Where a value lies on the page, in viewBox units."""

    start: int
    end: int
    low: Number
    high: Number
    ticks: Sequence[Number]
    label: Label = compact
    is_log: bool = False

    def at(self, value: Number) -> float:
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A plot area of a given outer size, with room for labels around it, and what is drawn."""

    width: int
    height: int
    title: str
    x_label: str
    y_label: str
    x: Axis
    y: Axis
    lines: Sequence[Sequence[tuple[Number, Number]]] = ()
    bars: Sequence[tuple[Number, Number, Number]] = ()
    """Each from here to there, and so high."""

    def draw(self) -> Markup:
        return Markup(template(Path(__file__).with_name("chart.svg.jinja")).render(chart=self))


def _x_axis(width: int, low: Number, high: Number, target: int, label: Label = compact) -> Axis:
    ticks = [tick for tick in linear_ticks(low, high, target) if low <= tick <= high]
    return Axis(start=44, end=width - 14, low=low, high=high, ticks=ticks, label=label)


def _y_axis(height: int, ticks: Sequence[Number], *, is_log: bool = False) -> Axis:
    low, high = ticks[0], ticks[-1]
    return Axis(start=height - 36, end=22, low=low, high=high, ticks=ticks, is_log=is_log)


def line_chart(
    series: Sequence[Series], *, title: str, x_label: str, y_label: str, log_y: bool = False
) -> Markup:
    """Lines over a shared x-axis that starts at zero; every finite point is a vertex.

    A logarithmic y-axis becomes linear, and says so, where a value is not positive.
    """
    lines = [line.finite for line in series]
    points = [point for line in lines for point in line]
    ys = [y for _, y in points] or [1.0]
    is_log = log_y and all(y > 0 for _, y in points)
    ticks = log_ticks(min(ys), max(ys)) if is_log else linear_ticks(min(0, *ys), max(0, *ys))
    return Chart(
        width=340,
        height=200,
        title=title,
        x_label=x_label,
        y_label=f"{y_label}, log scale" if is_log else y_label,
        x=_x_axis(340, 0, max((x for x, _ in points), default=0) or 1, target=4),
        y=_y_axis(200, ticks, is_log=is_log),
        lines=lines if points else (),
    ).draw()


def histogram(
    edges: Sequence[Number],
    counts: Sequence[Number],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_tick: Label = compact,
) -> Markup:
    """Bars of `counts[i]` between `edges[i]` and `edges[i + 1]`; hovering a bar names its range."""
    return Chart(
        width=420,
        height=220,
        title=title,
        x_label=x_label,
        y_label=y_label,
        x=_x_axis(420, edges[0], edges[-1], target=8, label=x_tick),
        y=_y_axis(220, linear_ticks(0, max(counts))),
        bars=list(zip(edges[:-1], edges[1:], counts, strict=True)),
    ).draw()
