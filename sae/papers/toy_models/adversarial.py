"""Section 6: how vulnerable a model is to small steps, and how many features a dimension holds."""

from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sae.papers.claims import Gate
from sae.papers.toy_models.section import Outcome, Scale, fit
from sae.toy import Independent, Kind, ToyConfig, ToyModels, ToyTrainConfig
from sae.toy.adversarial import Vulnerability, vulnerability
from sae.toy.geometry import features_per_dimension

N, M = 100, 10
SPARSEST = 2.0
"""Power of ten of 1 / (1 - S): from one density to the next it grows by the same factor."""

GATES = (
    Gate(
        "adversarial/dense",
        "dense features: a step does what it does to a model without superposition",
        "1x (figure)",
        "V = (worst - clean) / epsilon^2 in [0.9, 1.1] at p = 1",
        "dense",
        lambda v: 0.9 <= v["dense"] <= 1.1,
        ("untrained",),
    ),
    Gate(
        "adversarial/linear",
        "a linear model is no more vulnerable where features are sparse",
        "-",
        "V in [0.9, 1.1] at every p",
        "linear_most",
        lambda v: v["linear_least"] >= 0.9 and v["linear_most"] <= 1.1,
        ("untrained", "relu"),
    ),
    Gate(
        "adversarial/superposition-is-vulnerable",
        "superposition makes a model more than 3 times as vulnerable",
        "> 3x a model without superposition",
        "V > 3, and > 3 x that of a linear model of the same p, wherever there are >= 2 features "
        "a dimension; < 1.1 at p = 1",
        "least_at_two",
        lambda v: min(v["least_at_two"], v["least_relative_at_two"]) > 3 and v["dense"] < 1.1,
        ("untrained", "linear", "dense", "random directions"),
    ),
    Gate(
        "adversarial/tracks-features-per-dimension",
        "vulnerability tracks the features a dimension holds",
        "closely (figure)",
        "Pearson correlation of V and features a dimension over p >= 0.95, largest V > 3",
        "pearson",
        lambda v: v["pearson"] >= 0.95 and v["largest"] > 3,
        ("untrained", "linear"),
    ),
    Gate(
        "adversarial/random-directions",
        "random steps do far less, as the model does not see most of such a step; those that it "
        "sees do as much",
        "-",
        "V of random directions < half of that of features, wherever there are >= 2 a dimension",
        "largest_random_share",
        lambda v: v["largest_random_share"] < 0.5,
        ("random in the row space",),
    ),
)

MEASURES = {
    "per_squared_length": "(worst - clean) / epsilon^2",
    "ratio": "worst / clean",
    "increase": "worst - clean",
}


def run(scale: Scale) -> Outcome:
    spaced = torch.logspace(0, SPARSEST, scale.choose(16, 6)).reciprocal()
    densities = scale.densities or tuple(spaced.tolist())
    curves = [_curves(scale, densities, seed) for seed in scale.seeds]
    measured = [_numbers(of_seed, "trained") for of_seed in curves]
    controls = {
        "untrained": [_numbers(of_seed, "untrained") for of_seed in curves],
        "linear": [_numbers(of_seed, "linear") for of_seed in curves],
        "random directions": [_numbers(of_seed, "random") for of_seed in curves],
        "random in the row space": [
            _numbers(of_seed, "trained", "row_space") for of_seed in curves
        ],
        "relu": [_as_linear(of_seed) for of_seed in curves],
        "dense": [_of_densest(of_seed) for of_seed in curves],
    }
    claims = scale.judge("adversarial", GATES, measured, controls)
    figures = {"adversarial": draw(curves[0])}
    return Outcome(claims, figures, {"by_seed": measured, "curves": curves})


def _curves(scale: Scale, densities: tuple[float, ...], seed: int) -> dict[str, Any]:
    """Every measure by density: of trained and untrained ReLU models, of linear ones, and of
    random directions. `row_space` are random ones among those that the model sees at all."""
    n, m = scale.n or N, scale.m or M
    p = torch.tensor(densities)
    features = Independent(p[:, None].expand(-1, n))
    generator = torch.Generator().manual_seed(10_000 + seed)
    n_tokens = scale.choose(2048, 1024)
    x = features.sample(n_tokens, generator)[:, None].to(scale.device)
    untrained = _models(scale, "relu_output", n, m, len(p), seed)
    trained = _fitted(scale, "relu_output", features, (n, m, len(p)), seed)
    linear = _fitted(scale, "linear", features, (n, m, len(p)), seed)
    random = _unit(torch.randn(*trained.W.shape[:2], n, n, generator=generator).to(scale.device))
    seen = _unit(
        torch.randn(*trained.W.shape[:2], n, m, generator=generator).to(scale.device) @ trained.W
    )
    of = {
        "trained": vulnerability(trained, x),
        "untrained": vulnerability(untrained, x),
        "linear": vulnerability(linear, x),
        "random": vulnerability(trained, x, directions=random),
        "row_space": vulnerability(trained, x, directions=seen.detach()),
    }
    models = {"untrained": untrained, "linear": linear}
    return {
        "one_over_density": (1 / p).tolist(),
        "epsilon": of["trained"].epsilon.tolist(),
        **{
            name: {
                **_medians(measures),
                "features_per_dimension": _median(
                    features_per_dimension(models.get(name, trained).W)
                ),
            }
            for name, measures in of.items()
        },
    }


def _fitted(
    scale: Scale, kind: Kind, features: Independent, size: tuple[int, int, int], seed: int
) -> ToyModels:
    """Linear models are as good as they get in fewer steps."""
    is_linear = kind == "linear"
    cfg = ToyTrainConfig(
        n_steps=scale.choose(400, 300) if is_linear else scale.steps or scale.choose(1000, 600),
        batch_tokens=256,
        lr=1e-2 if is_linear else scale.choose(5, 10) * 1e-3,
        seed=seed,
    )
    return fit(_models(scale, kind, *size, seed), features, cfg)


def _models(scale: Scale, kind: Kind, n: int, m: int, settings: int, seed: int) -> ToyModels:
    cfg = ToyConfig(n_features=n, n_hidden=m, kind=kind)
    restarts = scale.instances or 1
    return ToyModels(cfg, settings=settings, restarts=restarts, seed=seed).to(scale.device)


def _unit(directions: Tensor) -> Tensor:
    return directions / directions.norm(dim=-1, keepdim=True)


def _medians(found: Vulnerability) -> dict[str, list[float]]:
    return {measure: _median(getattr(found, measure)) for measure in MEASURES}


def _median(values: Float[Tensor, "S R"]) -> list[float]:
    """Over the restarts."""
    return values.detach().cpu().median(dim=1).values.tolist()


def _numbers(curves: dict[str, Any], which: str, random_one: str = "random") -> dict[str, Any]:
    """What the gates ask for, with the curve `which` in the place of the trained models', and
    `random_one` in that of random directions."""
    V, per_dimension, linear, random = (
        torch.tensor(curves[of][measure])
        for of, measure in (
            (which, "per_squared_length"),
            (which, "features_per_dimension"),
            ("untrained" if which == "untrained" else "linear", "per_squared_length"),
            (random_one, "per_squared_length"),
        )
    )
    increase = {of: torch.tensor(curves[of]["increase"]) for of in (which, "linear")}
    at_two = per_dimension >= 2
    none = [torch.nan]
    relative = increase[which] / increase["linear"]
    return {
        "dense": V[0].item(),
        "linear_least": linear.min().item(),
        "linear_most": linear.max().item(),
        "least_at_two": min(V[at_two].tolist() or none),
        "least_relative_at_two": min(relative[at_two].tolist() or none),
        "largest": V.max().item(),
        "pearson": torch.corrcoef(torch.stack((V, per_dimension)))[0, 1].item(),
        "largest_random_share": max((random / V)[at_two].tolist() or none),
    }


def _as_linear(curves: dict[str, Any]) -> dict[str, Any]:
    """A ReLU model, in the gate that is for linear ones."""
    V = curves["trained"]["per_squared_length"]
    return {"linear_least": min(V), "linear_most": max(V)}


def _of_densest(curves: dict[str, Any]) -> dict[str, Any]:
    """The models of p = 1, as if there were several features a dimension."""
    V = curves["trained"]["per_squared_length"][0]
    relative = curves["trained"]["increase"][0] / curves["linear"]["increase"][0]
    return {"least_at_two": V, "least_relative_at_two": relative, "dense": V}


def draw(curves: dict[str, Any]) -> Figure:
    """The paper's panel on the left, with the other two measures beside it."""
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    panels = figure.subplots(1, 3)
    x = curves["one_over_density"]
    styles = {
        "trained": ("ReLU, along features", "C0", "o-"),
        "row_space": ("ReLU, random in the row space of W", "C4", ":"),
        "random": ("ReLU, random", "C7", ":"),
        "linear": ("linear, along features", "C2", "--"),
    }
    for panel, (measure, title) in zip(panels, MEASURES.items(), strict=True):
        for name, (label, colour, style) in styles.items():
            panel.plot(x, curves[name][measure], style, color=colour, label=label, markersize=4)
        panel.set(xscale="log", xlabel="1 / (1 - S)", title=title)
    panels[0].set(ylabel="vulnerability", ylim=(0, None))
    other = panels[0].twinx()
    other.plot(x, curves["trained"]["features_per_dimension"], "s-", color="C1", markersize=4)
    other.set(ylim=(0, None))
    other.set_ylabel("features per dimension", color="C1")
    panels[1].legend(fontsize=8)
    figure.suptitle("The worst of steps of a tenth of the mean norm, one model a density")
    return figure
