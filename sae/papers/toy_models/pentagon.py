"""Section 4, five features in the plane: a pentagon, and when it gives way to two digons."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sae.papers.claims import Gate
from sae.papers.toy_models.crossover import (
    RATIOS,
    M,
    N,
    P,
    crossover,
    digon_loss,
    exact_losses,
    of_branches,
    of_crossover,
)
from sae.papers.toy_models.pentagon_figures import draw_crossover, draw_sequence
from sae.papers.toy_models.section import Outcome, Scale, fit
from sae.toy import Independent, Kind, ToyConfig, ToyModels, ToyTrainConfig, stratified
from sae.toy.geometry import feature_dimensionality, norms

DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.1, P, 0.02)
DIGONS_FROM = 0.25
"""Denser features than this, but for the densest, end as two digons, and sparser ones as a
pentagon."""
CONTROLS = ("untrained", "linear", "dense")
GATES = (
    Gate(
        "pentagon/pentagon",
        "five equally important sparse features in the plane form a regular pentagon",
        "pentagon (figure)",
        ">= 75% of restarts: |D_f - 0.4| < 0.02, |W_f| in [1.10, 1.16], b_f in [-0.26, -0.23], "
        "loss in [0.00155, 0.0019]",
        "pentagons",
        lambda v: v["pentagons"] >= 0.75,
        CONTROLS,
    ),
    Gate(
        "pentagon/sequence",
        "with sparsity, the best solution goes from no structure to two digons to a pentagon",
        "two of five features, four, five (figure)",
        "best restart: D = 1/2 x 4, 0 at p = 0.5, 0.3; 2/5 x 5 at p <= 0.2, within 0.03; at p = 1 "
        "|W|^2 = 2 within 0.1",
        "sequence_error",
        lambda v: v["sequence_error"] < 0.03 and abs(v["dense_square"] - 2) < 0.1,
        CONTROLS,
    ),
    Gate(
        "pentagon/digon-branch",
        "two digons without the sparser feature are a solution, of known loss",
        "-",
        "found at >= 4 densities, loss within 3% of (2 p^2 / 3 + v(p_0)) / 5",
        "digon_error",
        lambda v: v["digon_found"] >= 4 and v["digon_error"] < 0.03,
        CONTROLS,
        judged_quick=False,
    ),
    Gate(
        "pentagon/crossover",
        "made sparser, one feature is dropped for two digons where the losses of the two cross: a "
        "phase change of the first order",
        "about 2.5 times less dense",
        "the losses of the best of both kinds cross once, at r in [0.22, 0.32], with slopes that "
        "differ by > 1.5 x",
        "crossing",
        lambda v: v["crossings"] == 1 and 0.22 <= v["crossing"] <= 0.32 and v["slope_ratio"] > 1.5,
        CONTROLS,
    ),
    Gate(
        "pentagon/deformation",
        "a sparser feature takes less of the plane, and at last none; a denser one takes more",
        "the others move towards it, or away (figure)",
        "the angle to its neighbours rises with r from 0.4 to 2, by > 5 degrees; at r = 0.1 its "
        "norm is < 0.05 and the others have D = 1/2 within 0.02",
        "angle_rise",
        lambda v: (
            v["angle_is_rising"]
            and v["angle_rise"] > 5
            and v["sparsest_norm"] < 0.05
            and v["sparsest_error"] < 0.02
        ),
        CONTROLS,
    ),
    Gate(
        "pentagon/crossover-elsewhere",
        "where they cross depends on the density of all, and on the importance of the one",
        "about 2.5 times less dense, at p = 0.05 and importance 1",
        "1 / r in [3.6, 4.2] at p = 0.05, more at 0.02, in [2.1, 2.6] at 0.1; in [2.5, 2.9] if "
        "importances are 0.9^i and the last varies",
        "times_sparser",
        lambda v: (
            3.6 <= v["times_sparser"] <= 4.2
            and v["times_sparser_by_branch"]["p = 0.02"] > v["times_sparser"]
            and 2.1 <= v["times_sparser_by_branch"]["p = 0.1"] <= 2.6
            and 2.5 <= v["times_sparser_by_branch"]["p = 0.05, I = 0.9^i"] <= 2.9
        ),
    ),
)


@dataclass(frozen=True)
class Sequence:
    """Models of uniform features, a setting a density."""

    densities: tuple[float, ...]
    models: ToyModels
    losses: Float[Tensor, "S R"]

    @property
    def best(self) -> tuple[Tensor, Tensor]:
        return torch.arange(len(self.losses)), self.losses.argmin(dim=1)

    @property
    def W(self) -> Float[Tensor, "S m n"]:
        """Of the best restarts."""
        return self.models.W.detach().cpu()[self.best]

    @property
    def densest(self) -> dict[str, Tensor]:
        """The state of the models of the first density."""
        return {k: v[:1].cpu() for k, v in self.models.state_dict().items()}


def run(scale: Scale) -> Outcome:
    """Sizes and densities of the scale are those of the uniform models, which are then alone."""
    densities = scale.densities or DENSITIES
    sequences = [_sequence(scale, densities, seed) for seed in scale.seeds]
    first = sequences[0]
    figures: dict[str, Figure] = {}
    if (scale.m or M) == 2:
        figures["pentagon"] = draw_sequence(first.densities, first.W)
    if not scale.has_gates:
        shown = [{"D": feature_dimensionality(s.W).tolist()} for s in sequences]
        return Outcome([], figures, {"densities": list(densities), "by_seed": shown})
    crossovers = [crossover(scale, seed) for seed in scale.seeds]
    measured = [
        _of_sequence(s) | of_crossover(c) | of_branches(scale, seed)
        for s, c, seed in zip(sequences, crossovers, scale.seeds, strict=True)
    ]
    controls = {
        name: [
            _control(scale, densities, name, s, seed)
            for s, seed in zip(sequences, scale.seeds, strict=True)
        ]
        for name in CONTROLS
    }
    figures["pentagon-crossover"] = draw_crossover(
        crossovers, digon_loss(P, torch.tensor(RATIOS)), 1 / measured[0]["times_sparser"]
    )
    numbers = {
        "densities": list(densities),
        "ratios": list(RATIOS),
        "by_seed": measured,
        "controls": controls,
        "losses": [c.losses.tolist() for c in crossovers],
        "W": crossovers[0].W_best.tolist(),
    }
    return Outcome(scale.judge("pentagon", GATES, measured, controls), figures, numbers)


def _control(
    scale: Scale, densities: tuple[float, ...], name: str, trained: Sequence, seed: int
) -> dict[str, Any]:
    dense = trained.densest if name == "dense" else None
    sequence = _sequence(scale, densities, seed, name, dense)
    return _of_sequence(sequence) | of_crossover(crossover(scale, seed, name, dense))


def _sequence(
    scale: Scale,
    densities: tuple[float, ...],
    seed: int,
    control: str = "",
    dense: dict[str, Tensor] | None = None,
) -> Sequence:
    """Trained models, or those of a control, of which the dense ones have this state."""
    kind: Kind = "linear" if control == "linear" else "relu_output"
    # At p = 0.2 six runs of ten miss the pentagon, which is the best there by 5%.
    n, restarts = scale.n or N, 2 if control == "linear" else scale.instances or 32
    cfg = ToyConfig(n_features=n, n_hidden=scale.m or M, kind=kind)
    models = ToyModels(cfg, settings=len(densities), restarts=restarts, seed=seed)
    features = Independent(torch.tensor(densities)[:, None].expand(-1, n).contiguous())
    if dense:
        models.load_state_dict({k: v.expand_as(models.get_parameter(k)) for k, v in dense.items()})
    models = models.to(scale.device)
    if control in ("", "linear"):
        n_steps = scale.steps or scale.choose(1500, 1000)
        n_steps = n_steps // 3 if control else n_steps
        how = ToyTrainConfig(n_steps=n_steps, batch_tokens=256, lr=1e-2, seed=seed)
        fit(models, features, how)
    return Sequence(densities, models, _losses(models, features, scale, seed))


def _losses(
    models: ToyModels, features: Independent, scale: Scale, seed: int
) -> Float[Tensor, "S R"]:
    """Exact of the paper's five features, whose patterns are few; of more, from a sample."""
    importance = torch.ones(features.n_features)
    if features.n_features == N:
        return exact_losses(models, features.probabilities, importance)
    generator = torch.Generator().manual_seed(10_000 + seed)
    x, weights = stratified(features, scale.choose(50_000, 20_000), generator)
    device = models.W.device
    return models.losses(x[:, None].to(device), importance.to(device), weights.to(device)).cpu()


def _of_sequence(found: Sequence) -> dict[str, Any]:
    at = found.densities.index(P)
    W, b = (t.detach().cpu()[at] for t in (found.models.W, found.models.b))
    is_pentagon = (feature_dimensionality(W) - 0.4).abs().amax(dim=1) < 0.02
    for value, low, high in ((norms(W), 1.10, 1.16), (b, -0.26, -0.23)):
        is_pentagon &= ((value > low) & (value < high)).all(dim=1)
    is_pentagon &= (found.losses[at] > 0.00155) & (found.losses[at] < 0.0019)
    D = feature_dimensionality(found.W).sort(dim=1, descending=True).values
    pentagon, digons = torch.full((N,), 0.4), torch.tensor([0.5, 0.5, 0.5, 0.5, 0.0])
    errors = [
        (of_p - (digons if p > DIGONS_FROM else pentagon)).abs().max().item()
        for p, of_p in zip(found.densities, D, strict=True)
        if p < 1
    ]
    return {
        "pentagons": is_pentagon.float().mean().item(),
        "pentagon_norm": norms(W)[is_pentagon].mean().item(),
        "pentagon_bias": b[is_pentagon].mean().item(),
        "pentagon_loss": found.losses[at][is_pentagon].mean().item(),
        "sequence_error": max(errors),
        "dense_square": found.W[0].square().sum().item(),
        "D": D.tolist(),
    }
