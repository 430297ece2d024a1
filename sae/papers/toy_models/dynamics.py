"""Section 5: features jump between a few dimensionalities, and sets of them move as one."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sae.papers.claims import Gate
from sae.papers.toy_models import dynamics_figures
from sae.papers.toy_models.section import Outcome, Scale
from sae.toy import (
    CorrelatedSets,
    Features,
    Independent,
    Kind,
    ToyConfig,
    ToyModels,
    ToyTrainConfig,
    train_toy,
)
from sae.toy.geometry import feature_dimensionality, is_represented

N, M, DENSITY = 100, 10, 1 / 3.41
"""Uniform features that end in digons."""
SETS, SET_SIZE, SET_DENSITY = 2, 3, 0.05
EVERY = 10
"""Steps between two looks."""
WINDOW = 10
"""Looks over which the loss and the jumps are compared."""
VARIANTS = {
    "trained": ("relu_output", None),
    "linear": ("linear", None),
    "dense": ("relu_output", 1.0),
    "independent": ("relu_output", None),
}
"""Kind of model, and density where it is not that of the experiment. The last is of sets only."""

CONTROLS = ("untrained", "linear", "dense")
GATES = (
    Gate(
        "dynamics/levels",
        "features end at a few discrete dimensionalities: in digons, or not represented",
        "0 and 1/2 (figure)",
        ">= 14 represented features within 0.02 of D = 1/2, and >= 90% of them",
        "at_half",
        lambda v: v["at_half"] >= 14 and v["share_at_half"] >= 0.9,
        CONTROLS,
        judged_quick=False,
    ),
    Gate(
        "dynamics/jumps",
        "they get there in jumps: most of the time they are at a level, not between two",
        "jumps (figure)",
        "median rise from 1/4 to 0.45 in <= 12% of the steps; represented features >= 65% of "
        "the time within 0.05 of 0 or 1/2",
        "median_rise",
        lambda v: v["median_rise"] <= 0.12 and v["share_of_time_at_levels"] >= 0.65,
        CONTROLS,
        judged_quick=False,
    ),
    Gate(
        "dynamics/loss-falls-with-jumps",
        "below what a linear model can do, the loss falls when features jump",
        "drops at the steps of the jumps (figure)",
        "correlation over windows of 100 steps of the fall of the loss and of sum |change of D_f| "
        ">= 0.85, and the last loss < 0.97 x the linear optimum",
        "correlation",
        lambda v: v["correlation"] >= 0.85 and v["last_loss"] < 0.97,
        CONTROLS,
        judged_quick=False,
    ),
    Gate(
        "dynamics/octahedron",
        "two correlated sets of three end as an octahedron, features opposite to those of the "
        "other set",
        "octahedron (figure)",
        ">= 40% of 16 models have all three opposites (cosine < -0.95) in the other set; sets "
        "bunch on the way",
        "octahedra",
        lambda v: v["octahedra"] >= 0.4 and v["rise"] > 0.1,
        ("untrained", "linear", "dense", "independent"),
        judged_quick=False,
    ),
    Gate(
        "dynamics/bunching",
        "on the way, each set bunches together and then opens",
        "bunched, then apart (figure)",
        "mean cosine within sets rises above 0.1 and by > 0.1, and ends < 0.05",
        "peak",
        lambda v: v["peak"] > 0.1 and v["rise"] > 0.1 and v["last_within"] < 0.05,
        ("untrained", "linear", "dense", "independent"),
    ),
)


@dataclass(frozen=True)
class Trace:
    """The weights of models every `EVERY` steps, from before the first on, and their losses."""

    W: Float[Tensor, "T R m n"]
    loss: Float[Tensor, "T R"]

    @property
    def untrained(self) -> "Trace":
        """That of models which never learn."""
        return Trace(self.W[:1].expand_as(self.W), self.loss[:1].expand_as(self.loss))

    @property
    def steps(self) -> range:
        return range(0, EVERY * len(self.W), EVERY)


def run(scale: Scale) -> Outcome:
    size = scale.n or N, scale.m or M
    density = scale.densities[0] if scale.densities else DENSITY
    measured: list[dict[str, Any]] = []
    names = ("untrained", "linear", "dense", "independent")
    controls: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    first: dict[str, Trace] = {}
    for seed in scale.seeds:
        jumps = _jumps(scale, size, density, seed)
        sets = _sets(scale, seed)
        first = first or {"jumps": jumps["trained"], "sets": sets["trained"]}
        found = {name: _set_numbers(trace) for name, trace in sets.items()}
        for name, trace in jumps.items():
            found[name] |= _jump_numbers(trace, linear_optimum(*size, _density(name, density)))
        measured.append(found.pop("trained"))
        for name, numbers in found.items():
            controls[name].append(numbers)
    claims = scale.judge("dynamics", GATES, measured, controls)
    figures = _figures(first["jumps"], first["sets"], linear_optimum(*size, density))
    return Outcome(claims, figures, {"by_seed": measured, **_shown(first)})


def linear_optimum(n: int, m: int, density: float) -> float:
    """The loss of the best linear model: that of n - m features that it drops."""
    return (1 - m / n) * (density / 3 - density**2 / 4)


def _density(variant: str, density: float) -> float:
    return VARIANTS.get(variant, ("", None))[1] or density


def _jumps(scale: Scale, size: tuple[int, int], density: float, seed: int) -> dict[str, Trace]:
    """Uniform features; the controls are fitted for a third of the steps."""
    n_steps = scale.steps or scale.choose(3000, 1000)
    traces = {}
    for name in ("trained", "linear", "dense"):
        models = _models(scale, VARIANTS[name][0], size, 1, seed)
        features = Independent(torch.full(size[:1], _density(name, density)))
        steps = n_steps if name == "trained" else n_steps // 3
        traces[name] = watch(models, features, _recipe(steps, 512, scale.choose(2, 4), seed))
    return traces | {"untrained": traces["trained"].untrained}


def _sets(scale: Scale, seed: int) -> dict[str, Trace]:
    n_steps = scale.choose(3000, 1000)
    traces = {}
    for name, (kind, _) in VARIANTS.items():
        models = _models(scale, kind, (SETS * SET_SIZE, SET_SIZE), scale.choose(16, 12), seed)
        p = torch.full((SETS,), _density(name, SET_DENSITY))
        features = CorrelatedSets(p, SET_SIZE)
        if name == "independent":
            features = Independent(p.repeat_interleave(SET_SIZE))
        steps = n_steps if name == "trained" else n_steps // 2
        traces[name] = watch(models, features, _recipe(steps, 256, scale.choose(2, 5), seed))
    return traces | {"untrained": traces["trained"].untrained}


def _models(scale: Scale, kind: Kind, size: tuple[int, int], restarts: int, seed: int) -> ToyModels:
    cfg = ToyConfig(n_features=size[0], n_hidden=size[1], kind=kind)
    return ToyModels(cfg, restarts=restarts, seed=seed).to(scale.device)


def _recipe(n_steps: int, batch_tokens: int, thousandths: int, seed: int) -> ToyTrainConfig:
    """A constant learning rate: what happens when is then not the schedule's doing."""
    return ToyTrainConfig(
        n_steps=n_steps,
        batch_tokens=batch_tokens,
        lr=thousandths * 1e-3,
        schedule="constant",
        seed=seed,
    )


def watch(models: ToyModels, features: Features, cfg: ToyTrainConfig) -> Trace:
    """Train models, and look at them on the same tokens every time."""
    generator = torch.Generator().manual_seed(10_000 + cfg.seed)
    x = features.sample(2048, generator)[None, None].to(models.W.device)
    importance = torch.ones(models.cfg.n_features, device=models.W.device)
    W, loss = [], []

    def look() -> None:
        W.append(models.W.detach()[0].cpu().clone())
        loss.append(models.losses(x, importance)[0].cpu())

    look()
    for step in train_toy(models, features, cfg):
        if step % EVERY == 0:
            look()
    return Trace(torch.stack(W), torch.stack(loss))


def _jump_numbers(trace: Trace, optimum: float) -> dict[str, Any]:
    """Of the first model."""
    D, loss = feature_dimensionality(trace.W[:, 0]), trace.loss[:, 0]
    represented = is_represented(trace.W[-1, 0])
    at_half = represented & ((D[-1] - 0.5).abs() < 0.02)
    at_level = ((D - 0.5).abs() < 0.05) | (D < 0.05)
    rises = [_rise(D[:, f]) for f in at_half.nonzero().flatten().tolist()]
    return {
        "at_half": int(at_half.sum()),
        "share_at_half": int(at_half.sum()) / max(1, int(represented.sum())),
        "median_rise": torch.tensor(rises or [torch.nan]).median().item(),
        "share_of_time_at_levels": at_level[:, represented].float().mean().item(),
        "correlation": _correlation(D, loss, optimum),
        "last_loss": loss[-1].item() / optimum,
    }


def _rise(D: Float[Tensor, " T"]) -> float:
    """The share of looks between the last at D < 1/4 and the first past 0.45 for good."""
    below = (D < 0.45).nonzero()
    arrival = int(below.max()) + 1 if len(below) else 0
    low = (D[:arrival] < 0.25).nonzero()
    return (arrival - (int(low.max()) if len(low) else 0)) / len(D)


def changes(
    D: Float[Tensor, "T n"], loss: Float[Tensor, " T"]
) -> tuple[Float[Tensor, " w"], Float[Tensor, " w"]]:
    """By window: how far the loss falls, and how far all dimensionalities move."""
    return -loss[::WINDOW].diff(), D[::WINDOW].diff(dim=0).abs().sum(dim=1)


def _correlation(D: Float[Tensor, "T n"], loss: Float[Tensor, " T"], optimum: float) -> float:
    """From where the loss is below what a linear model reaches; NaN where it never is."""
    past = (loss < optimum).nonzero()
    if not len(past) or len(D) - int(past[0]) < 3 * WINDOW:
        return torch.nan
    falls = changes(D[int(past[0]) :], loss[int(past[0]) :])
    return torch.corrcoef(torch.stack(falls))[0, 1].item()


def cosines_of_sets(
    W: Float[Tensor, "*i m n"],
) -> tuple[Float[Tensor, "*i pairs"], Float[Tensor, "*i set other"]]:
    """Between the features of the same set, and between those of the first and the other."""
    unit = W / W.norm(dim=-2, keepdim=True).clamp_min(1e-12)
    cosines = unit.mT @ unit
    of = torch.arange(W.shape[-1]) // SET_SIZE
    pairs = torch.triu(of[:, None] == of, diagonal=1)
    return cosines[..., pairs], cosines[..., :SET_SIZE, SET_SIZE:]


def is_octahedron(W: Float[Tensor, "*i m n"]) -> Tensor:
    """Whether each feature of a set has its opposite in the other."""
    _, across = cosines_of_sets(W)
    return ((across < -0.95).sum(dim=-1) == 1).all(dim=-1)


def _set_numbers(trace: Trace) -> dict[str, Any]:
    within = cosines_of_sets(trace.W)[0].mean(dim=(1, 2))
    return {
        "octahedra": is_octahedron(trace.W[-1]).float().mean().item(),
        "peak": within.max().item(),
        "rise": (within.max() - within[0]).item(),
        "last_within": within[-1].item(),
    }


def _figures(jumps: Trace, sets: Trace, optimum: float) -> dict[str, Figure]:
    D, loss, model = feature_dimensionality(jumps.W[:, 0]), jumps.loss[:, 0], shown(sets)
    within, across = cosines_of_sets(sets.W[:, model])
    return {
        "dynamics": dynamics_figures.jumps(
            jumps.steps, D, is_represented(jumps.W[-1, 0]), (loss, optimum), changes(D, loss)
        ),
        "dynamics-octahedron": dynamics_figures.sets(
            sets.steps, sets.W[:, model], sets.loss[:, model], (within, across.flatten(1))
        ),
    }


def _shown(first: dict[str, Trace]) -> dict[str, Any]:
    """What the figures are made of, every fifth look."""
    jumps, sets = first["jumps"], first["sets"]
    within, across = cosines_of_sets(sets.W[::5, shown(sets)])
    return {
        "steps": list(jumps.steps[::5]),
        "dimensionality": feature_dimensionality(jumps.W[::5, 0]).tolist(),
        "loss": jumps.loss[::5, 0].tolist(),
        "cosines_within_sets": within.tolist(),
        "cosines_across_sets": across.flatten(1).tolist(),
        "loss_of_sets": sets.loss[::5, shown(sets)].tolist(),
    }


def shown(sets: Trace) -> int:
    """The first model that ends as an octahedron, or the first."""
    return int(is_octahedron(sets.W[-1]).float().argmax())
