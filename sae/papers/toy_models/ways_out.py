"""The last part of the paper made measurable: what it costs to have no superposition.

Two ways lead to a model without it: an L1 penalty on the hidden layer, and adversarial training.
The third leaves the model as it is and finds an overcomplete dictionary afterwards. Each is a
point: what the model loses by it, how much superposition is left, and how many features have a
direction, or a feature of the dictionary, of their own.
"""

from collections.abc import Sequence
from dataclasses import asdict

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from sae.papers.claims import Gate, Numbers
from sae.papers.toy_models.section import Outcome, Scale
from sae.papers.toy_models.ways_out_bench import (
    DICTIONARY,
    KINDS,
    L1_COEFFS,
    SHARES,
    SIZE,
    TOPK_DICTIONARY,
    Bench,
    Point,
)

CONTROLS = ("untrained", "linear", "dense")
GATES = (
    Gate(
        "ways-out/l1",
        "an L1 penalty on the hidden layer leads out of superposition, at a price",
        "possible, at a cost in loss",
        "at the largest penalty < 1 feature per dimension, at > 3 times the loss",
        "l1_features_per_dimension",
        lambda v: v["l1_features_per_dimension"] < 1 and v["l1_price"] > 3,
        ("untrained",),
    ),
    Gate(
        "ways-out/adversarial-small",
        "adversarial training at usual strengths does not",
        "superposition goes only at 80% of the input norm",
        "at 10 and 20% of the input norm > 1.25 represented features per dimension, in both kinds",
        "adversarial_small",
        lambda v: v["adversarial_small"] > 1.25,
        ("linear", "dense"),
        judged_quick=False,
    ),
    Gate(
        "ways-out/adversarial-large",
        "at 80% of the input norm it does, where the hidden layer has a ReLU",
        "superposition goes only at 80% of the input norm",
        "squared cosines with all others sum to < 0.2, at >= 1 times the best loss without "
        "superposition",
        "adversarial_large",
        lambda v: v["adversarial_large"] < 0.2 and v["adversarial_large_cost"] >= 1.0,
        ("untrained",),
        judged_quick=False,
    ),
    Gate(
        "ways-out/dictionary",
        "a dictionary found afterwards gives every represented feature one of its own, for less "
        "than any model without superposition",
        "proposed, not run",
        "L1, twice as wide: >= 95% of the represented features recovered, at < 0.5 times the best "
        "loss without superposition",
        "dictionary_recovered",
        lambda v: v["dictionary_recovered"] >= 0.95 and v["dictionary_cost"] < 0.5,
        ("untrained",),
        judged_quick=False,
    ),
)


def run(scale: Scale) -> Outcome:
    measured: list[Numbers] = []
    controls: dict[str, list[Numbers]] = {name: [] for name in CONTROLS}
    points: list[Point] = []
    for seed in scale.seeds:
        bench = Bench(scale, seed)
        points = list(bench.points())
        measured.append({**_numbers(points), "points": [asdict(point) for point in points]})
        controls["untrained"].append(_numbers(list(bench.untrained())))
        controls["linear"].append({"adversarial_small": bench.represented_per_dimension("linear")})
        dense = bench.represented_per_dimension("relu_output", density=1.0)
        controls["dense"].append({"adversarial_small": dense})
    claims = scale.judge("ways-out", GATES, measured, controls)
    return Outcome(claims, {"ways-out": draw(points)}, {"by_seed": measured})


def _numbers(points: Sequence[Point]) -> Numbers:
    """What the gates ask for."""
    by_way = {(point.way, point.kind, point.strength): point for point in points}
    linear, relu = KINDS["relu_output"], KINDS["relu_hidden"]
    alone = by_way["none", linear, 0.0]
    l1 = by_way["L1 penalty", linear, L1_COEFFS[-1]]
    small = [by_way["adversarial training", kind, s] for kind in (linear, relu) for s in SHARES[:2]]
    large = by_way["adversarial training", relu, 0.8]
    found = [point for point in points if point.way == DICTIONARY]
    best = max(found, key=lambda point: (point.recovered, -point.cost))
    n_represented = alone.features_per_dimension * SIZE[1]
    return {
        "l1_features_per_dimension": l1.features_per_dimension,
        "l1_price": l1.cost / alone.cost,
        "adversarial_small": min(point.features_per_dimension for point in small),
        "adversarial_large": large.superposition,
        "adversarial_large_cost": large.cost,
        "dictionary_recovered": best.recovered / max(1, n_represented),
        "dictionary_cost": best.cost,
        "dictionary_price": best.cost / alone.cost,
    }


MARKS = {
    "none": ("*", 220),
    "L1 penalty": ("o", 50),
    "adversarial training": ("s", 50),
    DICTIONARY: ("D", 60),
    TOPK_DICTIONARY: ("P", 80),
}


def draw(points: Sequence[Point]) -> Figure:
    """Cost against the superposition that is left, measured both ways; colours count the features
    that have a direction of their own, in the model or in the dictionary."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    figure.suptitle("ways out of superposition: what each costs, and what is left")
    panels = figure.subplots(2, 2)
    for line, kind in zip(panels, KINDS.values(), strict=True):
        of_kind = [point for point in points if point.kind == kind]
        for panel, name in zip(line, ("superposition", "features_per_dimension"), strict=True):
            _draw_ways(panel, of_kind, name)
            panel.set_title(kind)
    colours = ScalarMappable(Normalize(0, SIZE[0]), "viridis")
    where = panels.ravel().tolist()
    figure.colorbar(colours, ax=where, label="features with a direction of their own")
    return figure


LABELS = {
    "superposition": "superposition left: mean sum of squared cosines",
    "features_per_dimension": "represented features per dimension",
}


def _draw_ways(panel: Axes, points: Sequence[Point], name: str) -> None:
    for way, (mark, size) in MARKS.items():
        its = [point for point in points if point.way == way]
        if not its:
            continue
        x, y = [getattr(point, name) for point in its], [point.cost for point in its]
        panel.plot(x, y, color="0.8", linewidth=1, zorder=1)
        style = {"marker": mark, "s": size, "cmap": "viridis", "edgecolors": "black"}
        colours = [point.recovered for point in its]
        panel.scatter(x, y, c=colours, vmin=0, vmax=SIZE[0], label=way, **style)
        for point in its if name == "superposition" else ():
            place = (getattr(point, name), point.cost)
            panel.annotate(
                f"{point.strength:g}", place, (5, 4), textcoords="offset points", fontsize=7
            )
    panel.axhline(1.0, color="0.6", linestyle=":", linewidth=1)
    if name == "superposition":  # L1 on a ReLU layer ends far out: all features in a few neurons
        panel.set_xscale("symlog", linthresh=1.0)
        panel.xaxis.set_major_formatter("{x:g}")
    panel.set(yscale="log", xlabel=LABELS[name], ylabel="loss / best loss without superposition")
    panel.legend(frameon=False, fontsize=8)
