"""Section 3: a feature is ignored, shares a dimension, or has its own, and the change is sudden."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.papers.claims import Gate
from sae.papers.toy_models.phase_cases import Case, Found
from sae.papers.toy_models.phase_figures import draw_diagrams, draw_slice
from sae.papers.toy_models.section import Outcome, Scale, fit
from sae.toy import Independent, Kind, ToyConfig, ToyModels, ToyTrainConfig
from sae.toy.phases import (
    OTHER,
    TWO,
    boundary,
    every_pattern,
    label,
    margin,
)

CONTROLS = ("untrained", "linear", "dense")
CLEAR = 0.25
"""Theory is clear where its second best solution is worse by this share of the best."""
TIE = 1e-3
"""And says nothing where it is worse by less than this one."""
SLICE_IMPORTANCE = 0.3
GATES = (
    Gate(
        "phase/agreement",
        "which features one dimension represents is what theory says of two features",
        "theory and experiment agree (figure)",
        ">= 99% of cells where theory decides by > 25%, >= 95% of all without a tie",
        "two_agreement",
        lambda v: v["two_clear_agreement"] >= 0.99 and v["two_agreement"] >= 0.95,
        CONTROLS,
        judged_quick=False,
    ),
    Gate(
        "phase/loss",
        "no trained model is worse than the best ideal solution",
        "-",
        "loss <= 1.05 x analytic in every cell",
        "two_worst_ratio",
        lambda v: v["two_worst_ratio"] <= 1.05,
        CONTROLS,
        judged_quick=False,
    ),
    Gate(
        "phase/boundary",
        "there are three phases, and superposition ends where theory says",
        "three (figure)",
        "3 labels, right in >= 90% of clear cells; last antipodal p within 1.5 steps of the grid "
        "of the curve, at every I_2 but 1",
        "two_boundary_error",
        lambda v: (
            v["two_labels"] == 3
            and v["two_clear_agreement"] >= 0.9
            and v["two_boundary_error"] <= 1.5
        ),
        CONTROLS,
    ),
    Gate(
        "phase/first-order",
        "the change is of the first order: the best solution jumps, and its loss has a kink",
        "first order",
        "at I_2 = 0.3, |w_2| falls by > 0.4 at one step of p and by < 0.15 at any other; slope of "
        "the loss > 1.5 x that beyond",
        "slice_jump",
        lambda v: (
            v["slice_jump"] > 0.4 and v["slice_drift"] < 0.15 and v["slice_slope_ratio"] > 1.5
        ),
        CONTROLS,
    ),
    Gate(
        "phase/three-features",
        "the same of three features in two dimensions",
        "theory and experiment agree (figure)",
        ">= 99% of cells where theory decides by > 25%, >= 90% of all without a tie; loss <= 1.05 "
        "x analytic",
        "three_agreement",
        lambda v: (
            v["three_clear_agreement"] >= 0.99
            and v["three_agreement"] >= 0.9
            and v["three_worst_ratio"] <= 1.05
        ),
        CONTROLS,
        judged_quick=False,
    ),
)


def run(scale: Scale) -> Outcome:
    """`n` and `m` of the scale say nothing here: the ideal solutions are those of two sizes."""
    cases = _cases(scale)
    found = [
        {name: _evaluated(case, _fitted(scale, case, seed)) for name, case in cases.items()}
        for seed in scale.seeds
    ]
    measured = [_numbers(of_seed) for of_seed in found]
    controls = {
        control: [
            _numbers({k: _control(scale, control, f, seed) for k, f in of_seed.items()})
            for seed, of_seed in zip(scale.seeds, found, strict=True)
        ]
        for control in CONTROLS
    }
    figures = {
        "phase": draw_diagrams([found[0]["two"], found[0]["three"]]),
        "phase-slice": draw_slice([f["slice"] for f in found]),
    }
    shown = {
        name: {
            "importances": list(f.case.importances),
            "densities": list(f.case.densities),
            "labels": f.labels.tolist(),
            "losses": f.losses.tolist(),
            "W": f.W.tolist(),
        }
        for name, f in found[0].items()
    }
    claims = scale.judge("phase", GATES, measured, controls)
    return Outcome(claims, figures, {"by_seed": measured, "controls": controls, "first": shown})


def _cases(scale: Scale) -> dict[str, Case]:
    size = scale.choose(11, 7)
    importances = tuple(torch.logspace(-1, 1, size).tolist())
    # What is seen too rarely takes more steps than there are in the quick run.
    usual = torch.logspace(-1.5 if scale.quick else -2, 0, size).tolist()
    densities = tuple(sorted(scale.densities or usual))
    edge = boundary(torch.tensor(SLICE_IMPORTANCE))
    near = tuple((edge * torch.logspace(-0.3, 0.25, scale.choose(34, 12))).tolist())
    return {
        "two": Case(2, 32, importances, densities),
        "three": Case(3, 12, importances, densities),
        "slice": Case(2, 32, (SLICE_IMPORTANCE,), near),
    }


def _untrained(scale: Scale, case: Case, seed: int, kind: Kind = "relu_output") -> ToyModels:
    """Twice the paper's restarts, or two linear models, which have no local minima."""
    restarts = 2 if kind == "linear" else scale.instances or scale.choose(20, 8)
    cfg = ToyConfig(n_features=case.n, n_hidden=case.n - 1, kind=kind)
    models = ToyModels(cfg, settings=len(case.cells[0]), restarts=restarts, seed=seed)
    return models.to(scale.device)


def _fitted(scale: Scale, case: Case, seed: int, kind: Kind = "relu_output") -> ToyModels:
    cfg = ToyTrainConfig(
        n_steps=scale.steps or scale.choose(1000, 300),
        batch_tokens=scale.choose(512, 256),
        lr=3e-2,
        seed=seed,
    )
    models = _untrained(scale, case, seed, kind)
    return fit(models, Independent(case.probabilities.to(scale.device)), cfg, case.weights)


def _control(scale: Scale, name: str, found: Found, seed: int) -> Found:
    """Models that are untrained, or linear, or the best for the densest features of their row."""
    case = found.case
    if name == "linear":
        return _evaluated(case, _fitted(scale, case, seed, "linear"))
    models = _untrained(scale, case, seed)
    if name == "dense":
        per_row = len(case.densities)
        last = torch.arange(len(case.cells[0])) // per_row * per_row + per_row - 1
        best = last, found.losses.argmin(dim=1)[last]
        for k, v in found.models.state_dict().items():
            models.get_parameter(k).data.copy_(v[best][:, None])
    return _evaluated(case, models)


def _evaluated(case: Case, models: ToyModels) -> Found:
    device = models.W.device
    x, chances = every_pattern(case.probabilities, case.points)
    x = x.to(device).expand(len(chances), 1, -1, -1)
    losses = case.n * models.losses(x, case.weights.to(device), chances.to(device)).cpu()
    best = torch.arange(len(losses)), losses.argmin(dim=1)
    W = models.W.detach().cpu()[best]
    return Found(case, models, losses, W, label(W))


def _numbers(found: dict[str, Found]) -> dict[str, Any]:
    """What the gates ask for."""
    numbers: dict[str, Any] = {}
    for name in ("two", "three"):
        f = found[name]
        agrees, by = (f.labels == f.theory.argmin(dim=1)).float(), margin(f.theory)
        ratios = f.losses.amin(dim=1) / f.theory.amin(dim=1)
        numbers |= {
            f"{name}_agreement": agrees[by > TIE].mean().item(),
            f"{name}_clear_agreement": agrees[by > CLEAR].mean().item(),
            f"{name}_worst_ratio": ratios.max().item(),
            f"{name}_median_ratio": ratios.median().item(),
            f"{name}_labels": len({*f.labels.tolist()} - {OTHER}),
        }
    return numbers | {"two_boundary_error": _boundary_error(found["two"])} | _jump(found["slice"])


def _boundary_error(found: Found) -> float:
    """The largest distance, in steps of p, from the curve to the last pair that shares. Where both
    features are as important, dense models mix them at no cost, and look like such a pair."""
    if len(found.case.densities) < 2:
        return math.nan
    importance, p = (axis.view(len(found.case.importances), -1) for axis in found.case.cells)
    shares = found.labels.view_as(p) == TWO.index("antipodal")
    last = torch.where(shares, p, 0.0).amax(dim=1)
    steps = (last / boundary(importance[:, 0])).log() / (p[0, 1] / p[0, 0]).log()
    return steps[(importance[:, 0] - 1).abs() > 1e-3].abs().max().item()


def _jump(found: Found) -> dict[str, Any]:
    """The largest fall of |w_2| from one p to the next, the largest other change, and how much
    steeper the least loss is before the fall than after it, over a quarter of the slice."""
    w, p, loss = found.W[:, 0, 1].abs(), found.case.cells[1], found.losses.amin(dim=1)
    falls = w[:-1] - w[1:]
    at, reach = int(falls.argmax()), len(p) // 4
    others = torch.cat((falls[:at], falls[at + 1 :])).abs()
    before, after = slice(max(0, at - reach), at + 1), slice(at + 1, at + 2 + reach)
    slopes = [_slope(p[part], loss[part]) for part in (before, after)]
    return {
        "slice_jump": falls[at].item(),
        "slice_drift": others.max().item(),
        "slice_slope_ratio": slopes[0] / slopes[1],
        "slice_p": (p[at] * p[at + 1]).sqrt().item(),
    }


def _slope(x: Float[Tensor, " k"], y: Float[Tensor, " k"]) -> float:
    """Of the least squares line; NaN of one point."""
    x = x - x.mean()
    return (x @ y / x.square().sum()).item()
