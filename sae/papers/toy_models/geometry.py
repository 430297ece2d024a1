"""Section 4: as features get sparser, each gets a smaller and peculiar share of a dimension."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter
from torch import Tensor

from sae.papers.claims import Gate, Numbers
from sae.papers.toy_models.section import Outcome, Scale, fit
from sae.toy import Independent, Kind, ToyConfig, ToyModels, ToyTrainConfig
from sae.toy.geometry import (
    SHAPES,
    components,
    dimensions_per_feature,
    feature_dimensionality,
    is_represented,
)

GATE_POINTS = (1.0, 1.3, 1.7, 2.2, 3.0, 4.0, 6.0, 10.0)
"""Of 1 / (1 - S), where S is the sparsity: how rare a feature is."""
REDUCED_POINTS = tuple(sorted((*GATE_POINTS, 1.15, 1.5, 1.95, 2.6, 3.41, 4.64, 5.2, 7.7)))
PAPER, REDUCED = (400, 30), (100, 10)
"""n and m."""

LEVELS = {name: d / k for (k, d), name in SHAPES.items()}
CONTROLS = ("untrained", "linear", "dense")
GATES = (
    Gate(
        "geometry/dense",
        "dense features have one dimension each",
        "D* = 1 (sticky)",
        "|D* - 1| < 0.03 at 1/(1-S) <= 1.3",
        "dense_error",
        lambda v: v["dense_error"] < 0.03,
        ("untrained",),
    ),
    Gate(
        "geometry/digons",
        "there is a density at which all represented features are in digons",
        "D* sticks at 1/2",
        "D* in [0.48, 0.52] and >= 90% of represented features at 1/2 +- 0.02, at 1/(1-S) = 3",
        "dstar_digons",
        lambda v: 0.48 <= v["dstar_digons"] <= 0.52 and v["share_digons"] >= 0.9,
        CONTROLS,
    ),
    Gate(
        "geometry/falls",
        "dimensions per feature fall as features get sparser",
        "D* falls (figure)",
        "D* strictly decreasing from 1/(1-S) = 1.7, and < 0.25 at 10",
        "dstar_sparsest",
        lambda v: v["is_decreasing"] and v["dstar_sparsest"] < 0.25,
        CONTROLS,
    ),
    Gate(
        "geometry/beyond-digons",
        "past the digons, features are in pentagons and square antiprisms",
        "2/5 and 3/8 (figure)",
        "n = 100, m = 10: of >= 20 represented features at 1/(1-S) = 4.64, a quarter within 0.02 "
        "of 2/5 or 3/8",
        "share_beyond",
        lambda v: v["share_beyond"] >= 0.25 and v["represented_beyond"] >= 20,
        CONTROLS,
        judged_quick=False,
    ),
)


def run(scale: Scale) -> Outcome:
    n, m = REDUCED if scale.quick else PAPER
    size, points = (scale.n or n, scale.m or m), _points(scale)
    measured: list[Numbers] = []
    controls: dict[str, list[Numbers]] = {name: [] for name in CONTROLS}
    figures: dict[str, Figure] = {}
    for seed in scale.seeds:
        W = _trained(scale, size, points, seed)
        figures.setdefault("geometry", draw(W, points, size))
        if not scale.has_gates:
            measured.append(_curve(W, points))
            continue
        reduced = W if size == REDUCED else _trained(scale, REDUCED, REDUCED_POINTS, seed)
        figures.setdefault("geometry-reduced", draw(reduced, REDUCED_POINTS, REDUCED))
        measured.append(_numbers(W, points, reduced))
        random = _models(REDUCED, len(REDUCED_POINTS), seed).W[:, 0].detach()
        controls["untrained"].append(_numbers(random, REDUCED_POINTS, random))
        linear = _trained(scale, REDUCED, REDUCED_POINTS, seed, kind="linear")
        controls["linear"].append(_numbers(linear, REDUCED_POINTS, linear))
        dense = reduced[:1].expand_as(reduced)
        controls["dense"].append(_numbers(dense, REDUCED_POINTS, dense))
    claims = scale.judge("geometry", GATES, measured, controls)
    return Outcome(claims, figures, {"points": list(points), "by_seed": measured})


def _points(scale: Scale) -> tuple[float, ...]:
    """Where the curve is measured; `instances` asks for more points between those of the gates."""
    if scale.densities:
        return tuple(sorted(1 / p for p in scale.densities))
    if scale.quick:
        return REDUCED_POINTS
    more = max(0, (scale.instances or 0) - len(GATE_POINTS))
    between = np.geomspace(1.0, 10.0, more + 2)[1:-1]
    return tuple(sorted((*GATE_POINTS, *(float(x) for x in between))))


def _models(
    size: tuple[int, int], settings: int, seed: int, kind: Kind = "relu_output"
) -> ToyModels:
    cfg = ToyConfig(n_features=size[0], n_hidden=size[1], kind=kind)
    return ToyModels(cfg, settings=settings, seed=seed)


def _trained(
    scale: Scale,
    size: tuple[int, int],
    points: tuple[float, ...],
    seed: int,
    kind: Kind = "relu_output",
) -> Float[Tensor, "points m n"]:
    models = _models(size, len(points), seed, kind).to(scale.device)
    features = Independent((1 / torch.tensor(points))[:, None].expand(-1, size[0]))
    cfg = ToyTrainConfig(
        n_steps=scale.steps or (1000 if kind == "linear" else scale.choose(2500, 1500)),
        batch_tokens=scale.choose(512, 256),
        lr=scale.choose(5, 10) * 1e-3,
        seed=seed,
    )
    return fit(models, features, cfg).W[:, 0].detach().cpu()


def _curve(W: Float[Tensor, "points m n"], points: tuple[float, ...]) -> dict[str, Any]:
    """D*, how many features are represented, and in which shapes they are, at every point."""
    shapes = [Counter(c.name for c in components(at)) for at in W]
    return {
        "points": list(points),
        "dimensions_per_feature": dimensions_per_feature(W).tolist(),
        "represented": is_represented(W).sum(dim=1).tolist(),
        "shapes": [dict(counted) for counted in shapes],
    }


def _numbers(
    W: Float[Tensor, "points m n"],
    points: tuple[float, ...],
    reduced: Float[Tensor, "more_points m2 n2"],
) -> Numbers:
    """What the gates ask for."""
    dstar = dimensions_per_feature(W).tolist()
    digons = points.index(3.0)
    falling = dstar[points.index(1.7) :]
    beyond = reduced[REDUCED_POINTS.index(4.64)]
    return {
        **_curve(W, points),
        "dense_error": max(abs(d - 1) for d, x in zip(dstar, points, strict=True) if x <= 1.3),
        "dstar_digons": dstar[digons],
        "share_digons": _share_at(W[digons], LEVELS["digon"]),
        "is_decreasing": all(a > b for a, b in pairwise(falling)),
        "dstar_sparsest": falling[-1],
        "represented_beyond": int(is_represented(beyond).sum()),
        "share_beyond": _share_at(beyond, LEVELS["pentagon"], LEVELS["square antiprism"]),
    }


def _share_at(W: Float[Tensor, "m n"], *levels: float) -> float:
    """Of the represented features, those whose dimensionality is within 0.02 of a level."""
    D = feature_dimensionality(W)[is_represented(W)]
    near = torch.stack([(D - level).abs() < 0.02 for level in levels]).any(dim=0)
    return near.float().mean().item() if len(D) else 0.0


def draw(
    W: Float[Tensor, "points m n"], points: tuple[float, ...], size: tuple[int, int]
) -> Figure:
    """The paper's panel: D* as a line, the D_f of represented features as dots on it."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    panel = figure.subplots()
    panel.set_title("dimensions per feature, n = {}, m = {}".format(*size))
    for name, level in LEVELS.items():
        panel.axhline(level, color="0.85", linewidth=1, zorder=0)
        place = {"xycoords": ("axes fraction", "data"), "fontsize": 8}
        align = {"pentagon": "bottom", "square antiprism": "top"}.get(name, "center")
        panel.annotate(f"{name} {level:.3g}", (1.01, level), va=align, **place)
    generator = np.random.default_rng(0)
    dots: list[tuple[float, float]] = []
    for x, at in zip(points, W, strict=True):
        for D in feature_dimensionality(at)[is_represented(at)].tolist():
            dots.append((x * np.exp(generator.uniform(-0.02, 0.02)), D))
    if dots:
        style = {"s": 9, "alpha": 0.35, "color": "tab:blue", "linewidths": 0}
        panel.scatter(*zip(*dots, strict=True), label="D_f of represented features", **style)
    panel.plot(
        points, dimensions_per_feature(W).numpy(), "o-", color="tab:red", label="D* = m / |W|²"
    )
    panel.set(
        xscale="log",
        xlabel="1 / (1 - S), how rare a feature is",
        ylabel="dimensions per feature",
        ylim=(0, 1.1),
    )
    panel.xaxis.set_major_locator(FixedLocator([1, 2, 3, 4, 6, 10]))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.legend(frameon=False, loc="upper right")
    return figure
