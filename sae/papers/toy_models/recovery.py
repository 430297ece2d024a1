"""What dictionaries recover of features that are known, for every architecture.

Benchmark A: random directions. Benchmark B: the hidden layer of a toy model. Settings are the best
of small grids on another seed (docs/log.md).
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from sae.architectures import (
    AnySAEConfig,
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    TopKConfig,
)
from sae.papers.claims import Gate, Numbers
from sae.papers.toy_models.recovery_page import draw, table
from sae.papers.toy_models.section import Outcome, Scale, fit
from sae.toy import Independent, SparseFeatures, ToyConfig, ToyModels, ToyTrainConfig
from sae.toy.recovery import (
    Recovery,
    alignment,
    baselines,
    benchmark_a,
    benchmark_b,
    recipe,
    recovery,
)
from sae.toy.recovery import fit as fit_dictionaries
from sae.training import TrainConfig

D_SAE, D_IN = 128, 64
L1_COEFFS = (0.0, 0.03, 0.1, 0.3, 1.0)


def _jumprelu(l0_coeff: float, *, tied: bool = False) -> JumpReLUConfig:
    """Twice the bandwidth of the default."""
    return JumpReLUConfig(d_sae=D_SAE, l0_coeff=l0_coeff, tied=tied, bandwidth=0.07)


DICTIONARIES: dict[str, AnySAEConfig] = {
    **{f"relu, l1 {c:g}": ReLUConfig(d_sae=D_SAE, l1_coeff=c) for c in L1_COEFFS},
    "relu, l1 0.1, twice as wide": ReLUConfig(d_sae=2 * D_SAE, l1_coeff=0.1),
    "topk, k 4": TopKConfig(d_sae=D_SAE, k=4),
    "batch_topk, k 3": BatchTopKConfig(d_sae=D_SAE, k=3),
    "matryoshka, k 3, prefixes 64 and 128": MatryoshkaConfig(d_sae=D_SAE, k=3, prefixes=(64, 128)),
    "gated, l1 0.4": GatedConfig(d_sae=D_SAE, l1_coeff=0.4),
    "jumprelu, l0 0.01": _jumprelu(0.01),
    "relu tied, l1 0.2": ReLUConfig(d_sae=D_SAE, l1_coeff=0.2, tied=True),
    "topk tied, k 3": TopKConfig(d_sae=D_SAE, k=3, tied=True),
    "batch_topk tied, k 3": BatchTopKConfig(d_sae=D_SAE, k=3, tied=True),
    "matryoshka tied, k 2": MatryoshkaConfig(d_sae=D_SAE, k=2, tied=True),
    "gated tied, l1 0.8": GatedConfig(d_sae=D_SAE, l1_coeff=0.8, tied=True),
    "jumprelu tied, l0 0.03": _jumprelu(0.03, tied=True),
}
QUICK = ("relu, l1 0", "relu, l1 0.1", "topk, k 4")

CONTROLS = ("untrained", "linear", "dense", "no penalty")
"""Random directions, principal components, a dictionary of dense features, and one without a
penalty, which has the least error of all."""


def _recovers(id: str, row: str, mmcs: float, share: float, paper: str, claim: str) -> Gate:
    return Gate(
        f"recovery/{id}",
        claim,
        paper,
        f"{row}: MMCS >= {mmcs:g}, share of cosines above 0.9 >= {share:g}",
        f"{row}/mmcs",
        lambda v: v[f"{row}/mmcs"] >= mmcs and v[f"{row}/share_above_0_9"] >= share,
        CONTROLS,
        judged_quick=False,
    )


GOLDILOCKS = "near-perfect in a 'Goldilocks zone' of penalties (figure; arXiv 2501.17727)"
GATES = (
    _recovers("relu", "relu, l1 0.1", 0.98, 0.95, GOLDILOCKS, "an L1 dictionary finds them"),
    _recovers(
        *("wide", "relu, l1 0.1, twice as wide", 0.99, 0.98, "-"),
        "one that is twice as wide finds them all",
    ),
    _recovers("tied", "relu tied, l1 0.2", 0.96, 0.9, "-", "a tied one nearly"),
    _recovers("topk", "topk, k 4", 0.98, 0.95, "-", "TopK finds them, with AuxK"),
    _recovers("batch-topk", "batch_topk, k 3", 0.98, 0.95, "-", "so does BatchTopK"),
    _recovers(
        *("matryoshka", "matryoshka, k 3, prefixes 64 and 128", 0.98, 0.92, "-"),
        "Matryoshka too, with one nested width",
    ),
    _recovers("gated", "gated, l1 0.4", 0.98, 0.92, "-", "gated dictionaries too"),
    _recovers("jumprelu", "jumprelu, l0 0.01", 0.98, 0.92, "-", "JumpReLU too"),
    Gate(
        "recovery/interior-maximum",
        "too small a penalty and too large a one find less",
        GOLDILOCKS,
        "MMCS at l1 0, 0.03 and 1 is below that at 0.1; at 0 it is < 0.45 while FVU < 0.001",
        "relu, l1 0/mmcs",
        lambda v: (
            v["relu, l1 0.1/mmcs"] > max(v[f"relu, l1 {c}/mmcs"] for c in ("0", "0.03", "1"))
            and v["relu, l1 0/mmcs"] < 0.45
            and v["relu, l1 0/fvu"] < 1e-3
        ),
        ("untrained",),
    ),
    Gate(
        "recovery/toy-model",
        "a dictionary of a toy model's hidden layer finds its features (benchmark B)",
        "-",
        "n = 40, m = 20, 80 wide: MMCS >= 0.98",
        "toy model/mmcs",
        lambda v: v["toy model/mmcs"] >= 0.98,
        ("untrained",),
    ),
    Gate(
        "recovery/narrow-toy-model",
        "also where four features share a dimension",
        "-",
        "n = 40, m = 10, 80 wide: MMCS >= 0.98",
        "narrow toy model/mmcs",
        lambda v: v["narrow toy model/mmcs"] >= 0.98,
        ("untrained",),
    ),
    Gate(
        "recovery/pentagon",
        "even the five features of a pentagon in two dimensions",
        "-",
        "10 wide: all five cosines > 0.98, in 3 of 4 toy models",
        "pentagons",
        lambda v: v["pentagons"] >= 0.75,
        ("untrained",),
    ),
)


def run(scale: Scale) -> Outcome:
    names = [name for name in DICTIONARIES if not scale.quick or name in QUICK]
    quick = ("relu, l1 0.1", "topk, k 4", "toy model")
    gates = [gate for gate in GATES if not scale.quick or gate.value.split("/")[0] in quick]
    measured: list[Numbers] = []
    controls: dict[str, list[Numbers]] = {name: [] for name in CONTROLS}
    results: dict[str, list[Recovery]] = {name: [] for name in names}
    for seed in scale.seeds:
        found = benchmark(scale, names, seed)
        for name in names:
            results[name].append(found[name])
        toy = toy_models(scale, seed)
        measured.append({**_flat(found), **toy})
        for name, numbers in _controls(scale, found, toy, seed).items():
            controls[name].append(numbers)
    claims = scale.judge("recovery", gates, measured, controls)
    tables = {"recovery": table(results)}
    return Outcome(claims, {"recovery": draw(results)}, {"by_seed": measured}, tables)


def benchmark(
    scale: Scale, names: list[str], seed: int, stream: SparseFeatures | None = None
) -> dict[str, Recovery]:
    """Benchmark A: 128 features in 64 dimensions, or the features of another stream."""
    stream = stream or benchmark_a(seed, batch_tokens=256)
    trained = fit_dictionaries([DICTIONARIES[name] for name in names], stream, _how(scale, seed))
    return {name: recovery(its, stream) for name, its in zip(names, trained, strict=True)}


def toy_models(scale: Scale, seed: int) -> dict[str, Any]:
    """Benchmark B: the hidden layers of toy models. Beside every number, that of random guesses."""
    numbers = _of_toy_model("toy model", scale, seed, m=20, l1_coeff=0.1)
    if scale.quick:
        return numbers
    numbers |= _of_toy_model("narrow toy model", scale, seed, m=10, l1_coeff=0.2)
    found, guessed = [], []
    for W in _toy_weights(5, 2, 0.05, seed, restarts=4):
        stream = benchmark_b(W, torch.full((5,), 0.05), seed, batch_tokens=256)
        cfg = ReLUConfig(d_sae=10, l1_coeff=0.2)
        (dictionary,) = fit_dictionaries([cfg], stream, _how(scale, seed))
        found.append(recovery(dictionary, stream).worst_cosine)
        guesses = baselines(stream, cfg.d_sae, seed + len(guessed))["random"]
        guessed.append(alignment(W, guesses).worst_cosine)
    shares = (sum(cosine > 0.98 for cosine in worst) / 4 for worst in (found, guessed))
    return {**numbers, **dict(zip(("pentagons", "guessed pentagons"), shares, strict=True))}


def _of_toy_model(name: str, scale: Scale, seed: int, *, m: int, l1_coeff: float) -> dict[str, Any]:
    W, p = _toy_weights(40, m, 0.03, seed)[0], torch.full((40,), 0.03)
    stream = benchmark_b(W, p, seed, batch_tokens=256)
    cfg = ReLUConfig(d_sae=80, l1_coeff=l1_coeff)
    (dictionary,) = fit_dictionaries([cfg], stream, _how(scale, seed))
    guesses = baselines(stream, cfg.d_sae, seed)["random"]
    return {
        f"{name}/mmcs": recovery(dictionary, stream).mmcs,
        f"guessed {name}/mmcs": alignment(stream.directions, guesses).mmcs,
    }


def _how(scale: Scale, seed: int) -> TrainConfig:
    return recipe((scale.steps or scale.choose(1500, 1000)) * 256, seed=seed)


def _toy_weights(n: int, m: int, p: float, seed: int, restarts: int = 1) -> list[Tensor]:
    """[n, m]: the directions of the features in trained toy models."""
    models = ToyModels(ToyConfig(n_features=n, n_hidden=m), restarts=restarts, seed=seed)
    cfg = ToyTrainConfig(n_steps=1500, batch_tokens=256, lr=1e-2, seed=seed)
    fit(models, Independent(torch.full((n,), p)), cfg)
    return [W.T.contiguous() for W in models.W[0].detach()]


def _controls(
    scale: Scale, found: Mapping[str, Recovery], toy: Mapping[str, float], seed: int
) -> dict[str, Numbers]:
    """The same measures of what has learned nothing, or the wrong thing."""
    stream = benchmark_a(seed, batch_tokens=256)
    guesses = baselines(stream, D_SAE, seed)
    features = Independent(torch.ones(D_SAE))
    dense_stream = SparseFeatures(features, D_IN, batch_tokens=256, seed=seed)
    dense = benchmark(scale, ["relu, l1 0.1"], seed, dense_stream)["relu, l1 0.1"]
    untrained = {**asdict(alignment(stream.directions, guesses["random"])), "fvu": 1.0}
    linear = asdict(alignment(stream.directions, guesses["principal_components"]))
    guessed = {name: toy[f"guessed {name}"] for name in toy if f"guessed {name}" in toy}
    return {
        "untrained": {**_same(untrained, found), **guessed},
        "linear": _same(linear, found),
        "dense": _same(asdict(dense), found),
        "no penalty": _same(asdict(found["relu, l1 0"]), found),
    }


def _flat(found: Mapping[str, Recovery]) -> dict[str, Any]:
    return {
        f"{name}/{metric}": value
        for name, result in found.items()
        for metric, value in asdict(result).items()
    }


def _same(metrics: Mapping[str, float], names: Iterable[str]) -> dict[str, Any]:
    """One result in the place of every dictionary's."""
    return {f"{name}/{metric}": value for name in names for metric, value in metrics.items()}
