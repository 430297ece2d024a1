"""The figures of pentagons and digons."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType
from torch import Tensor

from sae.toy.geometry import components, turned

if TYPE_CHECKING:
    from sae.papers.toy_models.crossover import Crossover


def draw_sequence(densities: Sequence[float], best: Float[Tensor, "S 2 n"]) -> Figure:
    """The best arrangement in the plane for every density, the densest first."""
    figure = Figure(figsize=(2.1 * len(densities), 2.6), layout="constrained")
    panels = figure.subplots(1, len(densities), squeeze=False)[0]
    for panel, p, W in zip(panels, densities, best, strict=True):
        draw_arrangement(panel, turned(W))
        names = [c.name for c in components(W)] if p < 1 else ["no structure"]
        what = ", ".join(f"{names.count(k)} {k}s" if names.count(k) > 1 else k for k in {*names})
        panel.set_title(f"p = {p:g}\n{what}", fontsize=9)
    return figure


def draw_arrangement(
    panel: Axes, W: Float[Tensor, "2 n"], colours: Sequence[ColorType] | None = None
) -> None:
    """The features as arrows from the origin; without colours, in the order of a map of them."""
    if colours is None:
        colours = list(colormaps["viridis"](torch.linspace(0, 0.9, W.shape[1]).numpy()))
    for colour, (x, y) in zip(colours, W.T.tolist(), strict=True):
        panel.plot([0, x], [0, y], color=colour, linewidth=1.5)
        panel.plot([x], [y], "o", color=colour, markersize=6)
    panel.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", xticks=[], yticks=[])


def draw_crossover(
    found: list["Crossover"], digons: Float[Tensor, " S"], crossing: float
) -> Figure:
    """The best arrangement at every ratio of densities, and the losses of all restarts."""
    ratios = found[0].ratios
    figure = Figure(figsize=(1.25 * len(ratios), 6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 2.6), squeeze=False)[:, 0]
    panels = above.subplots(1, len(ratios))
    shades = colormaps["plasma"](torch.linspace(0, 0.85, len(ratios)).numpy())
    for panel, ratio, W, shade in zip(panels, ratios, found[0].W_best, shades, strict=True):
        draw_arrangement(panel, _first_up(W), [shade, *["0.55"] * (W.shape[1] - 1)])
        panel.set_title(f"{ratio:g}", fontsize=9)
    above.suptitle("best restart, by the density of the coloured feature over that of the others")
    panel = below.subplots()
    best = torch.stack([c.best(c.has_all) for c in found]).amin(dim=0)
    panel.plot(ratios, digons, color="C0", label="two digons: (2 p^2 / 3 + v(p_0)) / 5")
    panel.plot(ratios, best, color="C3", label="best with all five features")
    for c in found:
        for kinds, colour in ((c.has_digons, "C0"), (c.has_all, "C3")):
            _draw_restarts(panel, c, kinds, colour)
        _draw_restarts(panel, c, ~(c.has_digons | c.has_all), "black")
    panel.axvline(crossing, color="grey", linestyle=":", label=f"they cross at {crossing:.2f}")
    panel.axvline(0.4, color="grey", linestyle="--", label="the paper: 2.5 times less dense")
    panel.plot([], [], "k.", label="neither")
    panel.set(
        xscale="log",
        xlabel="relative density",
        ylabel="loss (mean over features)",
        ylim=(0, 0.0042),
    )
    panel.set_xticks(ratios, [f"{r:g}" for r in ratios])
    panel.minorticks_off()
    panel.legend(fontsize=9)
    return figure


def _draw_restarts(panel: Axes, found: "Crossover", of: Tensor, colour: str) -> None:
    ratios = torch.tensor(found.ratios)[:, None].expand_as(found.losses)
    panel.plot(ratios[of], found.losses[of], ".", color=colour, markersize=5, alpha=0.4)


def _first_up(W: Float[Tensor, "2 n"]) -> Float[Tensor, "2 n"]:
    """Turned so that the first feature is the one that points up, unless it is all but absent."""
    scale = torch.ones(W.shape[1])
    scale[0] = 10
    return turned(W * scale) / scale
