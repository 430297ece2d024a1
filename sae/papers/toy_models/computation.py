"""Section 8: a hidden layer that computes |x| of more features than it has neurons for."""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.papers.claims import Gate
from sae.papers.toy_models import computation_figures
from sae.papers.toy_models.section import Outcome, Scale, fit
from sae.toy import Independent, ToyConfig, ToyModels, ToyTrainConfig, stratified
from sae.toy.neurons import is_monosemantic, participation_ratio, paths, top_share

SMALL = 3, 6, 0.3
"""Features, neurons and density of the model that is small enough to be understood."""
N, M, RATIO = 100, 40, 0.8
"""Features, neurons, and the ratio of one feature's importance to that of the one before."""
BETWEEN = 0.1
"""A density at which there are both kinds of neurons."""
DENSITIES = (1.0, 0.1, 0.01, 0.001)

CONTROLS = ("untrained", "says x")
GATES = (
    Gate(
        "computation/small",
        "three features in six neurons: one neuron for x and one for -x of each",
        "one feature a neuron (figure)",
        "> 60% of 32 models at < 1% of the loss of the mean; > 90% of their neurons monosemantic",
        "solved",
        lambda v: v["solved"] > 0.6 and v["solved_monosemantic"] > 0.9,
        CONTROLS,
    ),
    Gate(
        "computation/polysemantic-if-sparse",
        "the sparser the features, the more of them a neuron works for",
        "monosemantic, then mixed, then all polysemantic (figure)",
        "median participation ratio < 1.2 at p = 1, > 4 at 0.01, rising; no monosemantic neuron "
        "at p <= 0.01",
        "participation_sparsest",
        lambda v: v["participation_rises"] and v["monosemantic_sparse"] == 0,
        ("untrained", "dense"),
        judged_quick=False,
    ),
    Gate(
        "computation/more-than-monosemantic",
        "sparse, it computes more features than neurons of one feature each could",
        "more features (figure)",
        "> 22 features with R^2 > 0.75 at p = 0.001 (20 can have a pair of neurons), loss < 0.9 x "
        "the best monosemantic",
        "computed_sparsest",
        lambda v: v["computed_sparsest"] > 22 and v["sparsest_ratio"] < 0.9,
        (*CONTROLS, "dense"),
        judged_quick=False,
    ),
    Gate(
        "computation/important-features-alone",
        "between, the most important features have monosemantic neurons",
        "most important: monosemantic; less: polysemantic",
        "at p = 0.1, mean rank of importance (weighted by |W| |W_out|) of monosemantic neurons' "
        "features below that of the others', mean of 4 models",
        "rank_gap",
        lambda v: v["rank_gap"] > 0,
        ("untrained",),
        judged_quick=False,
    ),
    Gate(
        "computation/inhibition",
        "shared neurons silence outputs that they would disturb, of features that do not excite "
        "them",
        "asymmetric superposition and inhibition (figure)",
        "at p = 0.01, median |W| where W_out < -1/4 below 1/10 of that where W_out > 1/4",
        "inhibitors",
        lambda v: v["inhibitors"] < 0.1,
        ("untrained", "dense"),
    ),
)


class SaysX(ToyConfig):
    """The control: the same network, taught to say x where it should say |x|."""

    def target(self, x: Tensor) -> Tensor:
        return x


def run(scale: Scale) -> Outcome:
    densities = scale.densities or DENSITIES
    found = [_of_seed(scale, densities, seed) for seed in scale.seeds]
    measured = [numbers["trained"] for numbers, _ in found]
    controls = {
        "untrained": [numbers["untrained"] for numbers, _ in found],
        "says x": [numbers["says x"] for numbers, _ in found],
        "dense": [_as_sparse(numbers["trained"]) for numbers, _ in found],
    }
    claims = scale.judge("computation", GATES, measured, controls)
    small, large = found[0][1]
    figures = {
        "computation-small": computation_figures.small(*small),
        "computation": computation_figures.large(paths(*large), densities),
        "computation-motif": computation_figures.motif(
            large[0][-2:], large[1][-2:], densities[-2:]
        ),
    }
    shown = {"W_small": small[0].tolist(), "W_out_small": small[1].tolist()}
    return Outcome(claims, figures, {"densities": list(densities), "by_seed": measured, **shown})


Weights = tuple[Tensor, Tensor]


def _of_seed(
    scale: Scale, densities: tuple[float, ...], seed: int
) -> tuple[dict[str, dict[str, Any]], tuple[Weights, Weights]]:
    """The numbers of the trained models and of the controls; weights of the best small model, and
    of the large ones."""
    small = {name: _small(scale, name, seed) for name in ("trained", *CONTROLS)}
    large = {name: _large(scale, name, densities, seed) for name in ("trained", *CONTROLS)}
    losses = {name: _small_losses(models, seed) for name, models in small.items()}
    best = int(losses["trained"].argmin())
    gaps = {name: _rank_gap(scale, name, seed) for name in ("trained", "untrained")}
    numbers = {
        name: _small_numbers(small[name], losses[name])
        | _large_numbers(large[name], densities, seed)
        | {"rank_gap": gaps.get(name, torch.nan)}
        for name in small
    }
    return numbers, (_weights(small["trained"], best), _weights(large["trained"], 0))


def _weights(models: ToyModels, restart: int) -> Weights:
    """Of every density; without the first axis if there is but one."""
    W, W_out = (w.detach().cpu()[:, restart] for w in (models.W, models.W_out))
    return (W[0], W_out[0]) if models.settings == 1 else (W, W_out)


def _models(
    scale: Scale, name: str, size: tuple[int, int], counts: tuple[int, int], seed: int
) -> ToyModels:
    cfg_class = SaysX if name == "says x" else ToyConfig
    cfg = cfg_class(n_features=size[0], n_hidden=size[1], kind="absolute")
    models = ToyModels(cfg, settings=counts[0], restarts=counts[1], seed=seed)
    return models.to(scale.device)


def _small(scale: Scale, name: str, seed: int) -> ToyModels:
    n, m, density = SMALL
    models = _models(scale, name, (n, m), (1, scale.choose(32, 12)), seed)
    if name == "untrained":
        return models
    features = Independent(torch.full((n,), density), signed=True)
    steps = scale.choose(2000, 1000) // (1 if name == "trained" else 4)
    return fit(
        models, features, ToyTrainConfig(n_steps=steps, batch_tokens=256, lr=1e-2, seed=seed)
    )


def _small_losses(models: ToyModels, seed: int) -> Float[Tensor, " R"]:
    """Of saying |x|, over that of always saying the mean."""
    n, _, p = SMALL
    generator = torch.Generator().manual_seed(10_000 + seed)
    x = Independent(torch.full((n,), p), signed=True).sample(8192, generator)[None, None]
    x = x.to(models.W.device)
    losses = models.losses(x, torch.ones(n, device=x.device), target=x.abs())[0].cpu()
    return losses / (p / 3 - p**2 / 4)


def _small_numbers(models: ToyModels, losses: Float[Tensor, " R"]) -> dict[str, Any]:
    solved = losses < 0.01
    alone = is_monosemantic(models.W[0].detach().cpu()).float()[solved]
    return {
        "solved": solved.float().mean().item(),
        "solved_monosemantic": alone.mean().item(),
    }


def _rank_gap(scale: Scale, name: str, seed: int) -> float:
    """How much less important the features of shared neurons are, mean of four models; NaN where
    there is but one kind of neurons."""
    if not scale.has_gates:
        return torch.nan
    n = N
    models = _models(scale, name, (n, M), (1, scale.choose(4, 2)), seed)
    if name != "untrained":
        features = Independent(torch.full((n,), BETWEEN), signed=True)
        steps = scale.choose(2000, 800)
        cfg = ToyTrainConfig(n_steps=steps, batch_tokens=256, lr=4e-3, seed=seed)
        fit(models, features, cfg, _importance(n) / BETWEEN)
    of = paths(models.W[0].detach().cpu(), models.W_out[0].detach().cpu())
    alone, ranks = top_share(of) > 0.9, torch.arange(float(n))
    rank = (of * ranks).sum(dim=2) / of.sum(dim=2)
    gaps = [r[~a].mean() - r[a].mean() for r, a in zip(rank, alone, strict=True)]
    return torch.stack(gaps).mean().item()


def _large(scale: Scale, name: str, densities: tuple[float, ...], seed: int) -> ToyModels:
    """Losses are divided by the density, so that gradients of the sparsest are no smaller."""
    n, m = scale.n or N, scale.m or M
    p = torch.tensor(densities)[:, None]
    models = _models(scale, name, (n, m), (len(p), scale.instances or 1), seed)
    if name == "untrained":
        return models
    n_steps = scale.steps or scale.choose(4000, 1000)
    cfg = ToyTrainConfig(
        n_steps=n_steps if name == "trained" else min(n_steps, 500),
        batch_tokens=256,
        lr=scale.choose(2, 5) * 1e-3,
        seed=seed,
    )
    return fit(models, Independent(p.expand(-1, n), signed=True), cfg, _importance(n) / p)


def _importance(n: int) -> Float[Tensor, " n"]:
    return RATIO ** torch.arange(float(n))


@torch.no_grad()
def squared_errors(
    models: ToyModels, densities: tuple[float, ...], seed: int
) -> Float[Tensor, "S n"]:
    """Of saying |x|, by feature, of the first restart."""
    n, device = models.cfg.n_features, models.W.device
    features = Independent(torch.tensor(densities)[:, None].expand(-1, n), signed=True)
    generator = torch.Generator().manual_seed(10_000 + seed)
    x, weights = (t.to(device) for t in stratified(features, 4096, generator))
    errors = (models(x[:, None])[:, 0] - x.abs()).square()
    return (errors * weights[:, None]).sum(dim=2).cpu()


def _large_numbers(models: ToyModels, densities: tuple[float, ...], seed: int) -> dict[str, Any]:
    n, m = models.cfg.n_features, models.cfg.n_hidden
    p, importance = torch.tensor(densities), _importance(n)
    variance = p / 3 - p.square() / 4
    errors = squared_errors(models, densities, seed)
    explained = 1 - errors / variance[:, None]
    monosemantic_loss = variance * importance[m // 2 :].sum()
    W, W_out = _weights(models, 0)
    of = paths(W, W_out)
    alone = top_share(of) > 0.9
    inhibitors = [_inhibitors(*of_density) for of_density in zip(W, W_out, strict=True)]
    participation = participation_ratio(of).median(dim=-1).values
    return _summed_up(
        {
            "participation": participation.tolist(),
            "monosemantic": alone.sum(dim=-1).tolist(),
            "computed": (explained > 0.75).sum(dim=-1).tolist(),
            "ratios": ((errors * importance).sum(dim=-1) / monosemantic_loss).tolist(),
            "inhibition": inhibitors,
            "median_explained": explained[:, :5].median(dim=-1).values.tolist(),
        }
    )


def _inhibitors(W: Float[Tensor, "m n"], W_out: Float[Tensor, "n m"]) -> float:
    """How much less a feature excites the neurons that inhibit its output than those that say it;
    NaN where there are none of either."""
    silenced, said = W.abs()[W_out.T < -0.25], W.abs()[W_out.T > 0.25]
    return (silenced.median() / said.median()).item()


def _summed_up(by_density: dict[str, list[Any]]) -> dict[str, Any]:
    """With what the gates ask for."""
    participation = by_density["participation"]
    rises = all(a < b for a, b in pairwise(participation))
    return by_density | {
        "participation_rises": rises
        and participation[0] < 1.2
        and min(participation[2:], default=0) > 4,
        "participation_sparsest": participation[-1],
        "monosemantic_sparse": max(by_density["monosemantic"][2:], default=0),
        "inhibitors": by_density["inhibition"][-2:][0],
        "computed_sparsest": by_density["computed"][-1],
        "sparsest_ratio": by_density["ratios"][-1],
    }


def _as_sparse(trained: dict[str, Any]) -> dict[str, Any]:
    """The densest model, in the place of the sparser ones."""
    names = ("participation", "monosemantic", "computed", "ratios", "inhibition")
    return _summed_up({name: trained[name][:1] * len(trained[name]) for name in names})
