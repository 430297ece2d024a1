"""The figures of section 8."""

from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sae.toy.neurons import top_share


def small(W: Float[Tensor, "m n"], W_out: Float[Tensor, "n m"]) -> Figure:
    """The weights into the neurons and out of them, a row a neuron."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    order = W.abs().argmax(dim=1).argsort(stable=True)
    for panel, weights, title in zip(panels, (W, W_out.T), ("W", "W_out'"), strict=True):
        panel.imshow(weights[order].numpy(), cmap="RdBu", vmin=-2, vmax=2)
        panel.set(title=title, xlabel="feature", ylabel="neuron", xticks=range(W.shape[1]))
    figure.colorbar(panels[0].images[0], ax=list(panels))
    return figure


def large(of: Float[Tensor, "S m n"], densities: tuple[float, ...]) -> Figure:
    """Of each neuron, the share of its |W| |W_out| that every feature has, stacked: the features
    in rising order of their share, from the top."""
    figure = Figure(figsize=(3.2 * len(of), 3.8), layout="constrained")
    for panel, weights, density in zip(
        figure.subplots(1, len(of), sharey=True, squeeze=False)[0], of, densities, strict=True
    ):
        alone = top_share(weights) > 0.9
        order = top_share(weights).argsort(descending=True)
        shares = (weights / weights.sum(dim=1, keepdim=True))[order].sort(descending=True).values
        ends = torch.zeros(len(shares))
        for rank, part in enumerate(shares.T[:20]):
            colours = ["C0" if alone[neuron] else ("C1" if rank % 2 else "C3") for neuron in order]
            panel.bar(range(len(part)), part, bottom=ends, color=colours, width=1.0)
            ends = ends + part
        panel.set(title=f"p = {density:g}: {int(alone.sum())} neurons of one", xlabel="neuron")
        panel.set_ylim(0, 1)
    figure.axes[0].set_ylabel("share of |W| |W_out| by feature")
    return figure


def motif(
    W: Float[Tensor, "S m n"], W_out: Float[Tensor, "S n m"], densities: tuple[float, ...]
) -> Figure:
    """On the left the motif by hand; then what trained neurons have in and out of each feature."""
    figure = Figure(figsize=(5 * (1 + len(W)), 4.4), layout="constrained")
    by_hand, *panels = figure.subplots(1, 1 + len(W))
    _draw_by_hand(by_hand)
    for panel, into, out, density in zip(panels, W, W_out.mT, densities, strict=True):
        inhibits = out < -0.1
        for part, colour, label in ((~inhibits, "C0", "says"), (inhibits, "C3", "inhibits")):
            panel.scatter(into[part], out[part], s=5, color=colour, alpha=0.5, label=label)
        panel.set(xlabel="W of a neuron and a feature", ylabel="W_out of the two")
        panel.set_title(f"trained, p = {density:g}", fontsize=10)
        panel.legend(fontsize=8)
    return figure


def _draw_by_hand(panel: Any) -> None:
    """One neuron says a where it is positive and b where it is negative. It disturbs b far more
    than a: a second one, which only a excites, silences b."""
    a = torch.linspace(-1, 1, 101)
    from_a, from_b = (2 * a).relu(), (-0.5 * a).relu()
    panel.plot(a, 0.5 * from_a, color="C0", label="a, of a alone")
    panel.plot(a, 2 * from_b, color="C1", label="b, of b alone")
    panel.plot(a, 0.5 * from_b, "--", color="C0", label="a, of b alone: 1/4")
    panel.plot(a, 2 * from_a, "--", color="C3", label="b, of a alone: 4")
    panel.plot(a, (2 * from_a - 4 * a.relu()).relu(), ":", color="C2", label="the same, inhibited")
    panel.set(xlabel="the active feature", ylabel="output", ylim=(-0.1, 4.1))
    panel.set_title("W = [2, -1/2], W_out = [1/2, 2], by hand", fontsize=10)
    panel.legend(fontsize=8)
