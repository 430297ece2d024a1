"""Section 2: a linear model keeps the most important features, one with a ReLU more of them."""

from collections.abc import Callable

import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sae.papers.claims import Gate, Numbers
from sae.papers.toy_models.section import Outcome, Scale, fit
from sae.toy import Independent, Kind, ToyConfig, ToyModels, ToyTrainConfig, stratified
from sae.toy.geometry import interference, is_represented, norms

DENSITIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
SIZES = {"small": (20, 5, 0.7), "large": (80, 20, 0.9)}
"""n, m, and the ratio of one feature's importance to that of the one before."""

CONTROLS = ("untrained", "linear", "dense")
GATES = (
    Gate(
        "demonstrate/linear-is-pca",
        "a linear model represents the m most important features orthogonally, at every density",
        "top 5 (read off the figure)",
        "max |W'W - diag(1 x m, 0)| < 0.02 at every p",
        "linear_product_error",
        lambda v: v["linear_product_error"] < 0.02,
        ("untrained",),
        judged_quick=False,
    ),
    Gate(
        "demonstrate/linear-bias",
        "what it does not represent, its bias replaces by the mean",
        "-",
        "|b_f - p/2| < 0.01 for f >= m at every p",
        "linear_bias_error",
        lambda v: v["linear_bias_error"] < 0.01,
        ("untrained",),
        judged_quick=False,
    ),
    Gate(
        "demonstrate/linear-loss",
        "its loss is what PCA leaves",
        "-",
        "within 2% of v(p) sum_{f >= m} I_f / n at every p",
        "linear_loss_error",
        lambda v: v["linear_loss_error"] < 0.02,
        ("untrained",),
        judged_quick=False,
    ),
    Gate(
        "demonstrate/dense-relu-is-linear",
        "a ReLU model of dense features does what the linear model does",
        "as the linear model (figure)",
        "max |W'W - diag(1 x m, 0)| < 0.02 at p = 1",
        "dense_product_error",
        lambda v: v["dense_product_error"] < 0.02,
        ("untrained",),
        judged_quick=False,
    ),
    Gate(
        "demonstrate/more-features-than-dimensions",
        "a ReLU model of sparse features represents more than it has dimensions, and gains by it",
        "more as sparsity rises (figure)",
        ">= 9 represented and loss < 0.4 x the linear optimum at p <= 0.03",
        "represented_sparse",
        lambda v: v["represented_sparse"] >= 9 and v["worst_sparse_ratio"] < 0.4,
        CONTROLS,
    ),
    Gate(
        "demonstrate/more-the-sparser",
        "the more, the sparser they are",
        "more as sparsity rises (figure)",
        ">= 11 represented and loss < 0.4 x the linear optimum at p <= 0.003",
        "represented_sparsest",
        lambda v: v["represented_sparsest"] >= 11 and v["worst_sparse_ratio"] < 0.4,
        CONTROLS,
    ),
)


def run(scale: Scale) -> Outcome:
    densities = scale.densities or DENSITIES
    n, m, ratio = SIZES["small"]
    size = scale.n or n, scale.m or m, ratio
    measured: list[Numbers] = []
    controls: dict[str, list[Numbers]] = {name: [] for name in CONTROLS}
    figures: dict[str, Figure] = {}
    for seed in scale.seeds:
        models = _models(scale, size, len(densities), seed)
        controls["untrained"].append(_numbers(models, ratio, densities, seed))
        _train(models, scale, ratio, densities, seed)
        measured.append(_numbers(models, ratio, densities, seed))
        linear = {"linear": models["linear"], "relu_output": models["linear"]}
        controls["linear"].append(_numbers(linear, ratio, densities, seed))
        controls["dense"].append(_of_the_densest(measured[-1]))
        if not figures:
            figures["demonstrate"] = draw(models, densities, size)
    if scale.has_gates:
        large = _models(scale, SIZES["large"], len(densities), scale.seeds[0])
        _train(large, scale, SIZES["large"][2], densities, scale.seeds[0])
        figures["demonstrate-large"] = draw(large, densities, SIZES["large"])
    claims = scale.judge("demonstrate", GATES, measured, controls)
    return Outcome(claims, figures, {"densities": list(densities), "by_seed": measured})


def _models(
    scale: Scale, size: tuple[int, int, float], settings: int, seed: int
) -> dict[str, ToyModels]:
    """A linear and a ReLU model for every density."""
    n, m, _ = size
    kinds: tuple[Kind, ...] = ("linear", "relu_output")
    restarts = scale.instances or 1
    return {
        kind: ToyModels(
            ToyConfig(n_features=n, n_hidden=m, kind=kind),
            settings=settings,
            restarts=restarts,
            seed=seed,
        ).to(scale.device)
        for kind in kinds
    }


def _train(
    models: dict[str, ToyModels],
    scale: Scale,
    ratio: float,
    densities: tuple[float, ...],
    seed: int,
) -> None:
    for of_kind in models.values():
        n = of_kind.cfg.n_features
        is_large = n > SIZES["small"][0]
        full, quick = (2000, 1000) if is_large else (5000, 3000)
        cfg = ToyTrainConfig(
            n_steps=scale.steps or scale.choose(full, quick),
            batch_tokens=512 if is_large else 1024,
            lr=5e-3,
            seed=seed,
        )
        features = Independent(torch.tensor(densities)[:, None].expand(-1, n))
        fit(of_kind, features, cfg, ratio ** torch.arange(float(n)))


def _numbers(
    models: dict[str, ToyModels], ratio: float, densities: tuple[float, ...], seed: int
) -> Numbers:
    """What the gates ask for, of the best restart of every density."""
    n, m = models["linear"].cfg.n_features, models["linear"].cfg.n_hidden
    p, importance = torch.tensor(densities), ratio ** torch.arange(float(n))
    generator = torch.Generator().manual_seed(10_000 + seed)
    x, weights = stratified(Independent(p[:, None].expand(-1, n)), 100_000, generator)
    optimum = (p / 3 - p.square() / 4) * importance[m:].sum() / n
    best: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for kind, of_kind in models.items():
        device = of_kind.W.device
        losses = of_kind.losses(x[:, None].to(device), importance, weights.to(device)).cpu()
        lowest, at = losses.min(dim=1)
        rows = torch.arange(len(p))
        W, b = of_kind.W.detach().cpu()[rows, at], of_kind.b.detach().cpu()[rows, at]
        best[kind] = lowest / optimum, W, b
    linear_ratios, W_linear, b_linear = best["linear"]
    ratios, W, _ = best["relu_output"]
    pca = torch.diag((torch.arange(n) < m).float())
    represented = is_represented(W).sum(dim=1)
    return {
        "linear_product_error": (W_linear.mT @ W_linear - pca).abs().max().item(),
        "linear_bias_error": (b_linear - p[:, None] / 2)[:, m:].abs().max().item(),
        "linear_loss_error": (linear_ratios - 1).abs().max().item(),
        "dense_product_error": (W[0].T @ W[0] - pca).abs().max().item(),
        "worst_sparse_ratio": _over(ratios[p <= 0.03], max),
        "represented_sparse": _over(represented[p <= 0.03], min),
        "represented_sparsest": _over(represented[p <= 0.003], min),
        "ratios": ratios.tolist(),
        "represented": represented.tolist(),
    }


def _over(values: Tensor, choose: Callable[[list[float]], float]) -> float:
    return choose(values.to(torch.float64).tolist()) if len(values) else float("nan")


def _of_the_densest(numbers: Numbers) -> Numbers:
    """The same claims, of the model at p = 1."""
    return {
        "worst_sparse_ratio": numbers["ratios"][0],
        "represented_sparse": numbers["represented"][0],
        "represented_sparsest": numbers["represented"][0],
    }


def draw(
    models: dict[str, ToyModels], densities: tuple[float, ...], size: tuple[int, int, float]
) -> Figure:
    """The paper's panels: W'W beside b, and below, norms coloured by superposition."""
    columns = [("linear", models["linear"], 0)]
    columns += [(f"ReLU, p = {p:g}", models["relu_output"], i) for i, p in enumerate(densities)]
    figure = Figure(figsize=(2.2 * len(columns), 5.8), layout="constrained")
    figure.suptitle("n = {}, m = {}, importance {:g}^i".format(*size))
    above, below = figure.subplots(2, len(columns), height_ratios=(1.0, 1.4), squeeze=False)
    for i, (name, of_kind, setting) in enumerate(columns):
        W, b = of_kind.W[setting, 0].detach().cpu(), of_kind.b[setting, 0].detach().cpu()
        with_bias = torch.cat((W.T @ W, b[:, None].expand(-1, max(1, len(b) // 10))), dim=1)
        above[i].imshow(with_bias.numpy(), cmap="RdBu", vmin=-1.2, vmax=1.2)
        above[i].axvline(len(b) - 0.5, color="black", linewidth=1)
        above[i].set_title(name, fontsize=10)
        colours = colormaps["viridis"](interference(W).clamp(max=1.0).numpy())
        below[i].barh(range(len(b)), norms(W).numpy(), color=colours, height=0.9)
        below[i].set(xlim=(0, 1.4), ylim=(len(b) - 0.5, -0.5), xlabel="|W_f|")
        for panel in (above[i], below[i]):
            panel.tick_params(labelleft=i == 0, labelsize=8)
            panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    above[0].set_ylabel("W'W  |  b")
    below[0].set_ylabel("feature")
    for panels, limits, colours, label in (
        (above, (-1.2, 1.2), "RdBu", ""),
        (below, (0.0, 1.0), "viridis", "interference"),
    ):
        scale = ScalarMappable(Normalize(*limits), colours)
        figure.colorbar(scale, ax=list(panels), fraction=0.015, label=label)
    return figure
