"""Section 7: a ReLU in the hidden layer gives neurons a meaning, one feature's or several's."""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from sae.papers.claims import Gate
from sae.papers.toy_models.section import Outcome, Scale, fit
from sae.toy import Independent, Kind, ToyConfig, ToyModels, ToyTrainConfig, stratified
from sae.toy.geometry import is_represented
from sae.toy.neurons import is_monosemantic, is_pair_code

N, M, RATIO = 10, 5, 0.75
"""Features, neurons, and the ratio of one feature's importance to that of the one before."""
TABLE = {0.7: (5, 5), 0.35: (6, 3), 0.15: (7, 2), 0.07: (8, 0), 0.04: (9, 0), 0.02: (10, 0)}
"""Represented features and monosemantic neurons of the best model, by density."""
EXACT = (0.7, 0.35)

CONTROLS = ("untrained", "linear hidden layer", "dense")
GATES = (
    Gate(
        "privileged/monosemantic-if-dense",
        "not very sparse features have a neuron each, of their own",
        "all monosemantic above 1 - S = 0.5",
        "5 features, 5 monosemantic neurons at p = 0.7",
        "monosemantic_dense",
        lambda v: v["table"]["0.7"] == [5, 5],
        ("untrained", "linear hidden layer"),
    ),
    Gate(
        "privileged/between",
        "then some neurons are shared: three features in two, by a binary code",
        "3, and 3 features in 2 neurons, at 0.2 to 0.5; 2, and 5 in 3; 8 in 5 at 0.05 to 0.08",
        "6 features and 3 monosemantic neurons at p = 0.35; 7 and 2 at 0.15, 8 and 0 at 0.07, 9 "
        "and 0 at 0.04, give or take 1 feature and 2 neurons",
        "features_at_0.07",
        lambda v: v["exact"] and v["features_apart"] <= 1 and v["neurons_apart"] <= 2,
        CONTROLS,
        judged_quick=False,
    ),
    Gate(
        "privileged/pair-code",
        "the sparsest features have a pair of neurons each, all ten pairs of five neurons",
        "each feature in a pair of neurons",
        "the best model at p = 0.02 has a distinct pair of neurons for each of 10 features",
        "pair_codes",
        lambda v: v["best_is_pair_code"] and v["table"]["0.02"] == [10, 0],
        CONTROLS,
        judged_quick=False,
    ),
    Gate(
        "privileged/superposition-pays",
        "the sparser, the more superposition gains over a neuron a feature",
        "-",
        "best loss / that of 5 monosemantic neurons: > 0.99 at p = 0.7, < 0.99 at 0.35, < 0.4 at "
        "0.02, and falling",
        "sparsest_ratio",
        lambda v: v["ratios_fall"],
        ("untrained", "dense"),
        judged_quick=False,
    ),
    Gate(
        "privileged/rotation",
        "the ReLU is what makes the basis special: rotated, such a model is another one",
        "a privileged basis (argument)",
        "W -> OW moves the loss by > 10% at every p",
        "rotated",
        lambda v: v["rotated"] > 0.1,
        ("linear hidden layer",),
    ),
)


def run(scale: Scale) -> Outcome:
    densities = scale.densities or tuple(TABLE)
    fits = [_fits(scale, densities, seed) for seed in scale.seeds]
    found = [
        {name: _numbers(*best, densities, seed) for name, best in of_seed.items()}
        for of_seed, seed in zip(fits, scale.seeds, strict=True)
    ]
    measured = [numbers["trained"] for numbers in found]
    controls = {
        "untrained": [numbers["untrained"] for numbers in found],
        "linear hidden layer": [numbers["linear"] for numbers in found],
        "dense": [_as_sparse(numbers["trained"]) for numbers in found],
    }
    claims = scale.judge("privileged", GATES, measured, controls)
    models, best = fits[0]["trained"]
    W = torch.stack([models.W[s, r].detach().cpu() for s, r in enumerate(best.tolist())])
    return Outcome(
        claims,
        {"privileged": draw(W, densities)},
        {"densities": list(densities), "W": W.tolist(), "by_seed": measured},
    )


Best = tuple[ToyModels, Float[Tensor, " S"]]
"""Models, and which restart of each density has the lowest loss."""


def _fits(scale: Scale, densities: tuple[float, ...], seed: int) -> dict[str, Best]:
    """Models of each density; those with a linear hidden layer need fewer restarts."""
    n, m = scale.n or N, scale.m or M
    features = Independent(torch.tensor(densities)[:, None].expand(-1, n))
    restarts = scale.instances or scale.choose(64, 32)
    n_steps, batch = scale.steps or scale.choose(3000, 1500), scale.choose(256, 128)

    def models(kind: Kind, restarts: int) -> ToyModels:
        cfg = ToyConfig(n_features=n, n_hidden=m, kind=kind)
        built = ToyModels(cfg, settings=len(densities), restarts=restarts, seed=seed)
        return built.to(scale.device)

    cfg = ToyTrainConfig(n_steps=n_steps, batch_tokens=batch, lr=1e-2, seed=seed)
    short = ToyTrainConfig(n_steps=min(n_steps, 1000), batch_tokens=batch, lr=1e-2, seed=seed)
    importance = _importance(n)
    of = {
        "trained": fit(models("relu_hidden", restarts), features, cfg, importance),
        "untrained": models("relu_hidden", restarts),
        "linear": fit(models("relu_output", 8), features, short, importance),
    }
    return {name: (each, _losses(each, densities, seed).argmin(dim=1)) for name, each in of.items()}


def _importance(n: int) -> Float[Tensor, " n"]:
    return RATIO ** torch.arange(float(n))


def _losses(models: ToyModels, densities: tuple[float, ...], seed: int) -> Float[Tensor, "S R"]:
    """On tokens that no model has seen, chosen so that few are enough where features are rare."""
    n, device = models.cfg.n_features, models.W.device
    features = Independent(torch.tensor(densities)[:, None].expand(-1, n))
    x, weights = stratified(features, 8192, torch.Generator().manual_seed(10_000 + seed))
    importance = _importance(n).to(device)
    return models.losses(x[:, None].to(device), importance, weights.to(device)).cpu()


def _numbers(
    models: ToyModels, best: Tensor, densities: tuple[float, ...], seed: int
) -> dict[str, Any]:
    """What the gates ask for, of the best restart of each density."""
    n, m = models.cfg.n_features, models.cfg.n_hidden
    p, at = torch.tensor(densities), torch.arange(len(densities))
    losses = _losses(models, densities, seed)[at, best]
    monosemantic_loss = (p / 3 - p.square() / 4) * _importance(n)[m:].sum() / n
    ratios = (losses / monosemantic_loss).tolist()
    all_W = models.W.detach().cpu()
    W = all_W[at, best]
    features = is_represented(W).sum(dim=1).tolist()
    neurons = is_monosemantic(W).sum(dim=1).tolist()
    table = {f"{d:g}": [f, k] for d, f, k in zip(densities, features, neurons, strict=True)}
    moved = (_losses(turned(models, seed), densities, seed)[at, best] / losses - 1).abs()
    return {
        "table": table,
        "ratios": dict(zip(table, ratios, strict=True)),
        "pair_codes": is_pair_code(all_W[-1]).float().mean().item(),
        "best_is_pair_code": bool(is_pair_code(W[-1])),
        "sparsest_ratio": ratios[-1],
        "rotated": moved.min().item(),
        **_compared(table, ratios),
    }


def _compared(table: dict[str, list[int]], ratios: list[float]) -> dict[str, Any]:
    """Our table beside `TABLE`, at the densities that both have."""
    both = [(d, table[f"{d:g}"], wanted) for d, wanted in TABLE.items() if f"{d:g}" in table]
    features, neurons = (
        {d: abs(found[i] - wanted[i]) for d, found, wanted in both} for i in (0, 1)
    )
    falls = all(a > b for a, b in pairwise(ratios))
    return {
        "monosemantic_dense": table.get("0.7", [0, 0])[1],
        "features_at_0.07": table.get("0.07", [0, 0])[0],
        "exact": all(features.get(d, 1) == neurons.get(d, 1) == 0 for d in EXACT),
        "features_apart": max(features.values(), default=N),
        "neurons_apart": max(neurons.values(), default=M),
        "ratios_fall": falls and ratios[0] > 0.99 and ratios[1] < 0.99 and ratios[-1] < 0.4,
    }


@torch.no_grad()
def turned(models: ToyModels, seed: int) -> ToyModels:
    """The same models with W -> OW, O a random rotation of the hidden layer for each."""
    generator = torch.Generator().manual_seed(20_000 + seed)
    m = models.cfg.n_hidden
    drawn = torch.randn(*models.W.shape[:2], m, m, generator=generator)
    rotations = torch.linalg.qr(drawn).Q.to(models.W.device)
    copy = ToyModels(models.cfg, settings=models.settings, restarts=models.restarts)
    copy.to(models.W.device).load_state_dict(models.state_dict())
    copy.W.copy_(rotations @ models.W)
    return copy


def _as_sparse(trained: dict[str, Any]) -> dict[str, Any]:
    """The densest models, in the place of all the sparser ones."""
    table: dict[str, list[int]] = trained["table"]
    dense = next(iter(table.values()))
    table = {density: dense for density in table}
    ratios = list(trained["ratios"].values())[:1] * len(table)
    return {
        "table": table,
        "pair_codes": 0.0,
        "best_is_pair_code": False,
        "sparsest_ratio": ratios[-1],
        **_compared(table, ratios),
    }


def draw(W: Float[Tensor, "S m n"], densities: tuple[float, ...]) -> Figure:
    """For each density W, and below it what each neuron has of every feature, stacked."""
    figure = Figure(figsize=(2.5 * len(W), 6), layout="constrained")
    above, below = figure.subplots(2, len(W), height_ratios=(1.0, 1.1), squeeze=False)
    n_features, mono = is_represented(W).sum(dim=1), is_monosemantic(W)
    colours = colormaps["tab10" if W.shape[2] <= 10 else "viridis"]
    for i, density in enumerate(densities):
        above[i].imshow(W[i].T.numpy(), cmap="RdBu", vmin=-1.5, vmax=1.5)
        above[i].set_title(
            f"p = {density:g}\n{n_features[i]} features, {mono[i].sum()} neurons of one",
            fontsize=10,
        )
        for neuron, weights in enumerate(W[i]):
            _stack(below[i], neuron, weights, colours)
        below[i].axhline(0, color="black", linewidth=0.8)
        below[i].set(xlabel="neuron", ylim=(-4.2, 4.2))
        for panel in (above[i], below[i]):
            panel.tick_params(labelleft=i == 0, labelsize=8)
    above[0].set_ylabel("feature")
    below[0].set_ylabel("weights, stacked")
    figure.colorbar(above[0].images[0], ax=list(above), fraction=0.015, label="W")
    return figure


def _stack(panel: Any, neuron: int, weights: Float[Tensor, " n"], colours: Any) -> None:
    """Positive weights upwards, negative ones downwards, each feature in its colour."""
    ends = {True: 0.0, False: 0.0}
    scale = 1 if len(weights) <= 10 else 256 / len(weights)
    for feature, weight in enumerate(weights.tolist()):
        colour = colours(int(feature * scale))
        panel.bar(neuron, weight, bottom=ends[weight > 0], color=colour, width=0.8)
        ends[weight > 0] += weight
