"""Section 4: features that come together get dimensions that are apart, and the other way round."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sae.papers.claims import Gate
from sae.papers.toy_models.pentagon_figures import draw_arrangement
from sae.papers.toy_models.section import Outcome, Scale, fit
from sae.toy import (
    AnticorrelatedSets,
    CorrelatedSets,
    Features,
    Independent,
    Kind,
    ToyConfig,
    ToyModels,
    ToyTrainConfig,
)
from sae.toy.geometry import norms, turned

P = 0.05
SPARSEST = 0.03
DENSITIES = (1.0, 0.7, 0.5, 0.35, 0.2, 0.15, 0.1, 0.07, P, SPARSEST)
"""In which three sets of two features are watched as they collapse."""
WHOLE = 0.8
"""A set with a higher score has collapsed to one direction, its principal component."""
STAGES = {0.7: 3, 0.5: 3, 0.35: 2, 0.2: 2, 0.1: 1, SPARSEST: 0}
"""How many of the three sets have, by density. At 0.07 and 0.05 runs differ: none and one have
nearly the same loss."""

CONTROL_RESTARTS = 4
USUAL = ("untrained", "linear", "dense")
CONTROLS = (*USUAL, "independent")
"""Four independent features make two digons, and those are across the sets by chance: that is no
control of orthogonal sets of two."""
GATES = (
    Gate(
        "correlated/two-correlated",
        "features that are active together are orthogonal to each other",
        "orthogonal (figure)",
        "2 sets of 2: |cos| < 0.1 within both, and all four represented",
        "correlated_cosine",
        lambda v: v["correlated_cosine"] < 0.1 and v["correlated_norm"] > 0.8,
        USUAL,
    ),
    Gate(
        "correlated/two-anticorrelated",
        "features that are never active together are opposites of each other",
        "antipodal (figure)",
        "2 sets of 2: cos < -0.95 within both, all four represented, and loss < 1e-6",
        "anticorrelated_cosine",
        lambda v: (
            v["anticorrelated_cosine"] < -0.95
            and v["anticorrelated_norm"] > 0.8
            and v["anticorrelated_loss"] < 1e-6
        ),
        CONTROLS,
        judged_quick=False,
    ),
    Gate(
        "correlated/three-correlated",
        "where there is no room for that, they lie side by side",
        "side by side (figure)",
        "3 sets of 2, p = 0.03: cos > 0.3 within all three, and all six represented",
        "side_by_side_cosine",
        lambda v: v["side_by_side_cosine"] > 0.3 and v["side_by_side_norm"] > 0.8,
        CONTROLS,
        judged_quick=False,
    ),
    Gate(
        "correlated/collapse",
        "the denser they are, the more sets collapse to their principal components",
        "PCA-like at p > 0.5; two sets collapsed at 0.15 to 0.2, one at 0.05 to 0.15, none below",
        "sets with 1 - |W_a - W_b| / |W_a + W_b| > 0.8: 3 at p = 0.7, 0.5, 2 at 0.35, 0.2, 1 at "
        "0.1, 0 at 0.03",
        "collapse_errors",
        lambda v: v["collapse_errors"] == 0,
        CONTROLS,
        judged_quick=False,
    ),
    Gate(
        "correlated/local-bases",
        "in larger models every correlated set has an almost orthogonal basis of its own",
        "local almost-orthogonal bases (figure)",
        "2 sets of 10 in 10 dimensions: within them |cos| < 0.1 and norms > 0.9, and mean |cos| "
        "between them > 0.15",
        "basis_cosine",
        lambda v: v["basis_cosine"] < 0.1 and v["basis_norm"] > 0.9 and v["between_cosine"] > 0.15,
        CONTROLS,
    ),
)


@dataclass(frozen=True)
class Case:
    """Sets of features, and how many dimensions they have."""

    n_sets: int
    set_size: int
    m: int
    densities: tuple[float, ...]
    features: Callable[[Tensor, int], Features]
    """Of the probabilities [settings, sets] and the size of a set."""
    restarts: int = 16

    def sets(self, densities: tuple[float, ...], *, independent: bool = False) -> Features:
        p = torch.tensor(densities)[:, None].expand(-1, self.n_sets).contiguous()
        if independent:
            return Independent(p.repeat_interleave(self.set_size, dim=1))
        return self.features(p, self.set_size)


CASES = {
    "correlated": Case(2, 2, 2, (P,), CorrelatedSets),
    "anticorrelated": Case(2, 2, 2, (P,), AnticorrelatedSets),
    "collapse": Case(3, 2, 2, DENSITIES, CorrelatedSets),
    "bases": Case(2, 10, 10, (P,), CorrelatedSets, restarts=4),
}


def run(scale: Scale) -> Outcome:
    """Densities of the scale are those of the collapse; its sizes say nothing of sets."""
    cases = CASES
    if scale.densities:
        cases = {"collapse": Case(3, 2, 2, scale.densities, CorrelatedSets)}
    found = [
        {name: _best(scale, case, seed) for name, case in cases.items()} for seed in scale.seeds
    ]
    densities = list(cases["collapse"].densities)
    figures = {"correlated-collapse": draw_collapse(densities, [f["collapse"].W for f in found])}
    if not scale.has_gates:
        shown = [{"scores": collapse_scores(f["collapse"].W).tolist()} for f in found]
        return Outcome([], figures, {"densities": densities, "by_seed": shown})
    measured = [_numbers(f) for f in found]
    of_controls = {
        control: [
            {name: _best(scale, case, seed, control) for name, case in cases.items()}
            for seed in scale.seeds
        ]
        for control in CONTROLS
    }
    controls = {name: [_numbers(f) for f in of_it] for name, of_it in of_controls.items()}
    independent = of_controls["independent"][0]
    figures["correlated"] = draw_arrangements(found[0], independent)
    figures["correlated-bases"] = draw_bases(found[0]["bases"].W, independent["bases"].W)
    numbers = {"densities": densities, "by_seed": measured, "controls": controls}
    numbers["W"] = {name: best.W.tolist() for name, best in found[0].items()}
    return Outcome(scale.judge("correlated", GATES, measured, controls), figures, numbers)


@dataclass(frozen=True)
class Best:
    """The best restart at every density."""

    W: Float[Tensor, "S m n"]
    loss: Float[Tensor, " S"]


def _best(scale: Scale, case: Case, seed: int, control: str = "") -> Best:
    """Trained models, or those of a control: untrained; linear; trained
    on features that are always active; or on independent ones."""
    kind: Kind = "linear" if control == "linear" else "relu_output"
    n = case.n_sets * case.set_size
    many = scale.instances or scale.choose(case.restarts, case.restarts // 2)
    restarts = CONTROL_RESTARTS if control else many
    settings = len(case.densities)
    cfg = ToyConfig(n_features=n, n_hidden=case.m, kind=kind)
    models = ToyModels(cfg, settings=settings, restarts=restarts, seed=seed).to(scale.device)
    densities = (1.0,) * settings if control == "dense" else case.densities
    seen = case.sets(densities, independent=control in ("dense", "independent"))
    if control != "untrained":
        n_steps = scale.steps or scale.choose(1500, 500)
        n_steps = n_steps // 4 if control else n_steps
        how = ToyTrainConfig(n_steps=n_steps, batch_tokens=256, lr=2e-2, seed=seed)
        fit(models, seen, how)
    generator = torch.Generator(scale.device).manual_seed(10_000 + seed)
    x = seen.sample(scale.choose(30_000, 8_000), generator)[:, None]
    importance = torch.ones(n, device=x.device)
    weights = x.new_full((settings, x.shape[-1]), 1 / x.shape[-1])
    losses = models.losses(x, importance, weights).cpu()
    W = models.W.detach().cpu()[torch.arange(settings), losses.argmin(dim=1)]
    return Best(W, losses.amin(dim=1))


def cosines(W: Float[Tensor, "*i m n"]) -> Float[Tensor, "*i n n"]:
    unit = W / norms(W)[..., None, :].clamp_min(1e-12)
    return unit.mT @ unit


def cosines_of_pairs(W: Float[Tensor, "*i m n"]) -> Float[Tensor, "*i pairs"]:
    """Within every set of two."""
    return cosines(W).diagonal(offset=1, dim1=-2, dim2=-1)[..., ::2]


def collapse_scores(W: Float[Tensor, "*i m n"]) -> Float[Tensor, "*i pairs"]:
    """1 - |W_a - W_b| / |W_a + W_b|: 1 where a set has one direction, 0 where it has two that are
    orthogonal and as long as each other, below 0 where they point away from each other."""
    a, b = W[..., 0::2], W[..., 1::2]
    return 1 - norms(a - b) / norms(a + b).clamp_min(1e-12)


def _numbers(best: dict[str, Best]) -> dict[str, Any]:
    """What the gates ask for."""
    numbers: dict[str, Any] = {"anticorrelated_loss": best["anticorrelated"].loss[0].item()}
    found = {name: of_it.W for name, of_it in best.items()}
    at = {name: W[0] for name, W in found.items()}
    at["side_by_side"] = found["collapse"][DENSITIES.index(SPARSEST)]
    for name in ("correlated", "anticorrelated", "side_by_side"):
        pairs = cosines_of_pairs(at[name])
        worst = {"correlated": pairs.abs().max(), "anticorrelated": pairs.max()}
        numbers[f"{name}_cosine"] = worst.get(name, pairs.min()).item()
        numbers[f"{name}_norm"] = norms(at[name]).min().item()
    scores = collapse_scores(found["collapse"])
    collapsed = (scores > WHOLE).sum(dim=1)
    counts = dict(zip(DENSITIES, collapsed.tolist(), strict=True))
    within = torch.block_diag(*[torch.ones(10, 10)] * 2).bool() & ~torch.eye(20).bool()
    between = torch.block_diag(*[torch.ones(10, 10)] * 2) == 0
    of_bases = cosines(at["bases"]).abs()
    return numbers | {
        "collapsed": collapsed.tolist(),
        "collapse_errors": sum(counts[p] != wanted for p, wanted in STAGES.items()),
        "scores": scores.tolist(),
        "basis_cosine": of_bases[within].max().item(),
        "between_cosine": of_bases[between].mean().item(),
        "basis_norm": norms(at["bases"]).min().item(),
    }


def draw_arrangements(found: dict[str, Best], independent: dict[str, Best]) -> Figure:
    """The best arrangement in the plane of every case, a colour a set."""
    at = DENSITIES.index(SPARSEST)
    shown = {
        "2 correlated sets of 2:\northogonal within a set": found["correlated"].W[0],
        "2 anticorrelated sets of 2:\nopposite within a set": found["anticorrelated"].W[0],
        "3 correlated sets of 2:\nside by side within a set": found["collapse"].W[at],
        "6 independent features\n(control, same colours)": independent["collapse"].W[at],
    }
    figure = Figure(figsize=(11, 3.3), layout="constrained")
    for panel, (title, W) in zip(figure.subplots(1, 4), shown.items(), strict=True):
        colours = [f"C{f // 2}" for f in range(W.shape[1])]
        draw_arrangement(panel, turned(W), colours)
        panel.set_title(title, fontsize=9)
    return figure


def draw_collapse(densities: list[float], found: list[Float[Tensor, "S m n"]]) -> Figure:
    """Above, the best arrangement at every density; below, the scores of the sets, sorted."""
    figure = Figure(figsize=(1.3 * len(densities), 5.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 2.2), squeeze=False)[:, 0]
    panels = above.subplots(1, len(densities), squeeze=False)[0]
    order = sorted(range(len(densities)), key=lambda i: densities[i])
    for panel, i in zip(panels, order, strict=True):
        draw_arrangement(panel, turned(found[0][i]), [f"C{f // 2}" for f in range(6)])
        panel.set_title(f"p = {densities[i]:g}", fontsize=9)
    panel = below.subplots()
    for W in found:
        scores = collapse_scores(W).sort(dim=1).values[order].clamp_min(-0.2)
        panel.plot([densities[i] for i in order], scores, "o-", color="C0", alpha=0.4)
    panel.axhline(WHOLE, color="grey", linestyle=":")
    panel.set(xscale="log", xlabel="density p of a set", ylim=(-0.2, 1.05))
    panel.set_ylabel("score of each set: 0 orthogonal, 1 one direction")
    panel.set_xticks(densities, [f"{p:g}" for p in densities])
    panel.minorticks_off()
    return figure


def draw_bases(found: Tensor, independent: Tensor) -> Figure:
    """W'W of two sets of ten features in ten dimensions, and of as many independent ones."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = "2 correlated sets of 10, m = 10", "20 independent features, m = 10 (control)"
    for panel, title, W in zip(panels, titles, (found[0], independent[0]), strict=True):
        panel.imshow(W.T @ W, cmap="RdBu", vmin=-1.1, vmax=1.1)
        for line in (panel.axhline, panel.axvline):
            line(9.5, color="black", linewidth=1)
        panel.set(title=title, xlabel="feature")
        panel.set(xticks=range(0, 20, 5), yticks=range(0, 20, 5))
    panels[0].set_ylabel("feature")
    figure.colorbar(panels[0].images[0], ax=list(panels), label="W'W")
    return figure
