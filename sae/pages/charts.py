"""Line charts and histograms as inline SVG. Numbers in, markup out; colours belong to the page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from activation_cache.common.numbers import Number, compact

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MOST_TICKS = 6


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
class _Axis:
    """Where a value lies on the page, in viewBox units."""

    low: Number
    high: Number
    start: Number
    end: Number
    ticks: Sequence[Number]
    label: Callable[[Number], str] = compact
    log: bool = False

    def at(self, value: Number) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


@dataclass(frozen=True, kw_only=True)
class _Plot:
    """A plot area of a given outer size, with room for labels around it."""

    width: int
    height: int
    left: int = 44
    right: int = 14
    top: int = 22
    bottom: int = 36

    def x_axis(self, low: Number, high: Number, target: int) -> _Axis:
        ticks = [t for t in linear_ticks(low, high, target) if low <= t <= high]
        return _Axis(low=low, high=high, start=self.left, end=self.width - self.right, ticks=ticks)

    def y_axis(self, ticks: Sequence[Number], *, log: bool = False) -> _Axis:
        start, end = self.height - self.bottom, self.top
        low, high = ticks[0], ticks[-1]
        return _Axis(low=low, high=high, start=start, end=end, ticks=ticks, log=log)

    def draw(
        self, x: _Axis, y: _Axis, *, title: str, x_label: str, y_label: str, marks: Markup
    ) -> Markup:
        parts = [_y_grid(tick, x, y) for tick in y.ticks]
        parts += [_x_tick(tick, x, y) for tick in x.ticks]
        parts.append(
            Markup('<line class="axis" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
                x.start, y.start, x.end, y.start
            )
        )
        parts.append(Markup('<text class="label" x="0" y="11">{}</text>').format(y_label))
        parts.append(
            Markup('<text class="label" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>').format(
                x.end, self.height - 4, x_label
            )
        )
        return Markup(
            '<svg class="chart" viewBox="0 0 {:g} {:g}" role="img"><title>{}</title>{}{}</svg>'
        ).format(self.width, self.height, title, Markup("").join(parts), marks)


def line_chart(
    series: Sequence[Series], *, title: str, x_label: str, y_label: str, log_y: bool = False
) -> Markup:
    """Lines over a shared x-axis that starts at zero; every finite point is a vertex.

    A logarithmic y-axis becomes linear, and says so, where a value is not positive.
    """
    plot = _Plot(width=340, height=200)
    points = [point for line in series for point in line.finite]
    log_y = log_y and all(y > 0 for _, y in points)
    high_x = max((x for x, _ in points), default=0.0)
    x = plot.x_axis(0, high_x if high_x > 0 else 1.0, target=4)
    values = [y for _, y in points] or [1.0]
    if log_y:
        y = plot.y_axis(log_ticks(min(values), max(values)), log=True)
    else:
        y = plot.y_axis(linear_ticks(min(0.0, *values), max(0.0, *values)))
    marks = Markup("").join(_line(line, i, x, y) for i, line in enumerate(series))
    if not points:
        middle = (x.start + x.end) / 2
        marks = Markup(
            '<text class="label" x="{:.1f}" y="90" text-anchor="middle">no finite values</text>'
        ).format(middle)
    scale = f"{y_label}, log scale" if log_y else y_label
    return plot.draw(x, y, title=title, x_label=x_label, y_label=scale, marks=marks)


def histogram(
    edges: Sequence[Number],
    counts: Sequence[Number],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_tick: Callable[[Number], str] = compact,
) -> Markup:
    """Bars of `counts[i]` between `edges[i]` and `edges[i + 1]`; hovering a bar names its range."""
    if len(edges) != len(counts) + 1 or not counts:
        raise ValueError(
            f"a histogram needs one edge more than counts, got {len(edges)} edges "
            f"and {len(counts)} counts"
        )
    plot = _Plot(width=420, height=220)
    base = plot.x_axis(edges[0], edges[-1], target=8)
    x = _Axis(
        low=base.low, high=base.high, start=base.start, end=base.end, ticks=base.ticks, label=x_tick
    )
    y = plot.y_axis(linear_ticks(0, max(counts)))
    bars = Markup("").join(
        _bar(left, right, count, x, y)
        for left, right, count in zip(edges, edges[1:], counts, strict=False)
        if count > 0
    )
    return plot.draw(x, y, title=title, x_label=x_label, y_label=y_label, marks=bars)


def _line(line: Series, index: int, x: _Axis, y: _Axis) -> Markup:
    drawn = [(x.at(px), y.at(py)) for px, py in line.finite]
    if not drawn:
        return Markup("")
    vertices = " ".join(f"{px:.1f},{py:.1f}" for px, py in drawn)
    # The dot shows where a line ends, and is all there is to see of a line with one point.
    return Markup(
        '<g class="series-{}"><polyline points="{}"/><circle cx="{:.1f}" cy="{:.1f}" r="2.6"/></g>'
    ).format(index + 1, vertices, *drawn[-1])


def _bar(left: Number, right: Number, count: Number, x: _Axis, y: _Axis) -> Markup:
    low, high = x.at(left), x.at(right)
    gap = min(1.0, (high - low) / 5)
    return Markup(
        '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
        "<title>{:g} to {:g}: {:,}</title></rect>"
    ).format(low, y.at(count), high - low - gap, y.start - y.at(count), left, right, count)


def _y_grid(tick: Number, x: _Axis, y: _Axis) -> Markup:
    return Markup(
        '<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
        '<text x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>'
    ).format(x.start, y.at(tick), x.end, y.at(tick), x.start - 6, y.at(tick) + 3.8, y.label(tick))


def _x_tick(tick: Number, x: _Axis, y: _Axis) -> Markup:
    return Markup(
        '<line class="axis" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
        '<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>'
    ).format(x.at(tick), y.start, x.at(tick), y.start + 4, x.at(tick), y.start + 15, x.label(tick))
