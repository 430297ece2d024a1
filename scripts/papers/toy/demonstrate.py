"""Section 2: a linear model keeps the most important features, one with a ReLU more of them."""

from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from papers.claims import Gate, judge
from papers.toy.section import Outcome, Scale, fit
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
    ),
    Gate(
        "demonstrate/linear-bias",
        "what it does not represent, its bias replaces by the mean",
        "-",
        "|b_f - p/2| < 0.01 for f >= m at every p",
        "linear_bias_error",
        lambda v: v["linear_bias_error"] < 0.01,
        ("untrained",),
    ),
    Gate(
        "demonstrate/linear-loss",
        "its loss is what PCA leaves",
        "-",
        "within 2% of v(p) sum_{f >= m} I_f / n at every p",
        "linear_loss_error",
        lambda v: v["linear_loss_error"] < 0.02,
        ("untrained",),
    ),
    Gate(
        "demonstrate/dense-relu-is-linear",
        "a ReLU model of dense features does what the linear model does",
        "as the linear model (figure)",
        "max |W'W - diag(1 x m, 0)| < 0.02 at p = 1",
        "dense_product_error",
        lambda v: v["dense_product_error"] < 0.02,
        ("untrained",),
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
        ">= 12 represented and loss < 0.4 x the linear optimum at p <= 0.003",
        "represented_sparsest",
        lambda v: v["represented_sparsest"] >= 12 and v["worst_sparse_ratio"] < 0.4,
        CONTROLS,
    ),
)


def run(scale: Scale) -> Outcome:
    n, m, ratio = SIZES["small"]
    n, m = scale.n or n, scale.m or m
    densities = scale.densities or DENSITIES
    fits = [_fits(scale, n, m, ratio, densities, seed) for seed in scale.seeds]
    untrained = [
        {
            kind: ToyModels(models.cfg, settings=len(densities), seed=seed)
            for kind, models in f.items()
        }
        for f, seed in zip(fits, scale.seeds, strict=True)
    ]
    as_linear = [{"linear": f["linear"], "relu_output": f["linear"]} for f in fits]
    measured, of_untrained, of_linear = (
        [
            _numbers(models, ratio, densities, seed)
            for models, seed in zip(many, scale.seeds, strict=True)
        ]
        for many in (fits, untrained, as_linear)
    )
    of_dense = [
        {
            "worst_sparse_ratio": v["ratios"][0],
            "represented_sparse": v["represented"][0],
            "represented_sparsest": v["represented"][0],
        }
        for v in measured
    ]
    controls = {"untrained": of_untrained, "linear": of_linear, "dense": of_dense}
    claims = judge("demonstrate", GATES, measured, controls) if scale.has_gates else []
    figures = {"demonstrate": draw(fits[0], densities, f"n = {n}, m = {m}, importance {ratio}^i")}
    if scale.has_gates:
        n, m, ratio = SIZES["large"]
        large = _fits(scale, n, m, ratio, densities, scale.seeds[0])
        figures["demonstrate-large"] = draw(
            large, densities, f"n = {n}, m = {m}, importance {ratio}^i"
        )
    return Outcome(claims, figures, {"densities": list(densities), "by_seed": measured})


def _fits(
    scale: Scale, n: int, m: int, ratio: float, densities: tuple[float, ...], seed: int
) -> dict[Kind, ToyModels]:
    """Linear and ReLU models, a setting a density."""
    features = Independent(torch.tensor(densities)[:, None].expand(-1, n))
    cfg = ToyTrainConfig(
        n_steps=scale.steps or scale.choose(5000, 1500),
        batch_tokens=scale.choose(1024, 512),
        lr=scale.choose(5, 10) * 1e-3,
        seed=seed,
    )
    kinds: tuple[Kind, ...] = ("linear", "relu_output")
    models = {
        kind: ToyModels(
            ToyConfig(n_features=n, n_hidden=m, kind=kind),
            settings=len(densities),
            restarts=scale.instances or 1,
            seed=seed,
        ).to(scale.device)
        for kind in kinds
    }
    importance = ratio ** torch.arange(float(n))
    return {kind: fit(of_kind, features, cfg, importance) for kind, of_kind in models.items()}


def _numbers(
    models: dict[Kind, ToyModels], ratio: float, densities: tuple[float, ...], seed: int
) -> dict[str, Any]:
    """What the gates ask for, of the best restart of each density."""
    linear, relu = models["linear"], models["relu_output"]
    n, m = linear.cfg.n_features, linear.cfg.n_hidden
    p = torch.tensor(densities)
    importance = ratio ** torch.arange(float(n))
    generator = torch.Generator().manual_seed(10_000 + seed)
    x, weights = stratified(Independent(p[:, None].expand(-1, n)), 100_000, generator)
    optimum = (p / 3 - p.square() / 4) * importance[m:].sum() / n
    ratios = {}
    for kind, of_kind in models.items():
        losses = of_kind.losses(
            x[:, None].to(of_kind.W.device), importance, weights.to(of_kind.W.device)
        )
        ratios[kind] = losses.cpu().amin(dim=1) / optimum
    W_linear, W_relu = linear.W[:, 0].detach().cpu(), relu.W[:, 0].detach().cpu()
    wanted = torch.diag((torch.arange(n) < m).float())
    represented = is_represented(W_relu).sum(dim=1)
    sparse, sparsest = p <= 0.03, p <= 0.003
    return {
        "linear_product_error": (W_linear.mT @ W_linear - wanted).abs().max().item(),
        "linear_bias_error": (linear.b[:, 0].cpu() - p[:, None] / 2)[:, m:].abs().max().item(),
        "linear_loss_error": (ratios["linear"] - 1).abs().max().item(),
        "dense_product_error": (W_relu[0].T @ W_relu[0] - wanted).abs().max().item(),
        "worst_sparse_ratio": ratios["relu_output"][sparse].max().item(),
        "represented_sparse": represented[sparse].min().item(),
        "represented_sparsest": represented[sparsest].min().item(),
        "ratios": ratios["relu_output"].tolist(),
        "represented": represented.tolist(),
    }


def draw(models: dict[Kind, ToyModels], densities: tuple[float, ...], title: str) -> Figure:
    """The paper's panels: W'W beside b, and below, norms coloured by superposition."""
    columns = [("linear", models["linear"], 0)]
    columns += [(f"ReLU, p = {p:g}", models["relu_output"], i) for i, p in enumerate(densities)]
    figure = Figure(figsize=(2.2 * len(columns), 5.8), layout="constrained")
    figure.suptitle(title)
    above, below = figure.subplots(2, len(columns), height_ratios=(1.0, 1.4), squeeze=False)
    for i, (name, of_kind, setting) in enumerate(columns):
        W, b = of_kind.W[setting, 0].detach().cpu(), of_kind.b[setting, 0].detach().cpu()
        image = above[i].imshow(
            torch.cat((W.T @ W, b[:, None].expand(-1, len(b) // 10)), dim=1),
            cmap="RdBu",
            vmin=-1.2,
            vmax=1.2,
        )
        above[i].axvline(len(b) - 0.5, color="black", linewidth=1)
        above[i].set_title(name, fontsize=10)
        colours = colormaps["viridis"](interference(W).clamp(max=1.0).numpy())
        below[i].barh(range(len(b)), norms(W).numpy(), color=colours, height=0.9)
        below[i].set(xlim=(0, 1.4), ylim=(len(b) - 0.5, -0.5), xlabel="|W_f|")
        for panel in (above[i], below[i]):
            panel.tick_params(labelleft=i == 0, labelsize=8)
    above[0].set_ylabel("W'W  |  b")
    below[0].set_ylabel("feature")
    figure.colorbar(image, ax=list(above), fraction=0.015)
    of_interference = ScalarMappable(Normalize(0, 1), "viridis")
    figure.colorbar(of_interference, ax=list(below), fraction=0.015, label="interference")
    return figure
