"""The figures of section 5."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

MOMENTS = (0.0, 0.03, 0.07, 0.2, 1.0)
"""Shares of the training at which the directions are drawn."""


def jumps(
    steps: range,
    D: Float[Tensor, "T n"],
    represented: Bool[Tensor, " n"],
    loss_and_optimum: tuple[Float[Tensor, " T"], float],
    changes: tuple[Float[Tensor, " w"], Float[Tensor, " w"]],
) -> Figure:
    """The paper's panels, and below how far everything moves in each window of steps."""
    loss, optimum = loss_and_optimum
    figure = Figure(figsize=(8, 8), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(2.2, 1.2, 1.0))
    above.plot(steps, D[:, ~represented].numpy(), color="0.75", linewidth=0.8)
    above.plot(steps, D[:, represented].numpy(), linewidth=1)
    for level in (0.0, 0.5):
        above.axhline(level, color="black", linewidth=0.6, linestyle=":")
    above.set(ylabel="D_f", title="Dimensionality of features (grey: not represented at the end)")
    middle.plot(steps, loss, color="black")
    middle.axhline(optimum, color="C2", linestyle="--", label="the best linear model")
    middle.set(ylabel="loss")
    middle.legend()
    fall, moved = changes
    windows = torch.linspace(steps[0], steps[-1], len(fall) + 1)
    below.stairs(fall, windows, color="black")
    below.set(ylabel="fall of the loss", xlabel="steps")
    if len(fall) > 2:  # the first fall is that of the linear phase, far larger
        below.set_ylim(0, 3 * float(fall[2:].max()))
    other = below.twinx()
    other.stairs(moved, windows, color="C1")
    other.set(ylim=(0, None))
    other.set_ylabel("sum of |change of D_f|", color="C1")
    return figure


def sets(
    steps: range,
    W: Float[Tensor, "T m n"],
    loss: Float[Tensor, " T"],
    within_and_across: tuple[Float[Tensor, "T pairs"], Float[Tensor, "T others"]],
) -> Figure:
    """One model: its directions at five moments; below, their cosines and its loss."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    grid = figure.add_gridspec(3, len(MOMENTS), height_ratios=(1.5, 1.2, 0.8))
    looks = [int(share * (len(steps) - 1)) for share in MOMENTS]
    for i, look in enumerate(looks):
        panel: Any = figure.add_subplot(grid[0, i], projection="3d")
        _draw_directions(panel, W[look])
        panel.set_title(f"step {steps[look]}", fontsize=10)
    cosines, below = figure.add_subplot(grid[1, :]), figure.add_subplot(grid[2, :])
    labels = (("C0", "same set"), ("C3", "across sets"))
    for part, (colour, label) in zip(within_and_across, labels, strict=True):
        lines = cosines.plot(steps, part.numpy(), color=colour, linewidth=1)
        lines[0].set_label(label)
    cosines.set(ylabel="cosines of directions", ylim=(-1.05, 1.05))
    cosines.legend(loc="upper right")
    below.plot(steps, loss, color="black")
    below.set(ylabel="loss", xlabel="steps", yscale="log")
    for panel in (cosines, below):
        panel.set_xlim(0, steps[-1])
        for look in looks:
            panel.axvline(steps[look], color="0.8", linewidth=0.8, zorder=0)
    return figure


def _draw_directions(panel: Any, W: Float[Tensor, "m n"]) -> None:
    """Both sets, each with its colour and its ends joined."""
    for ends, colour in zip(W.tensor_split(2, dim=1), ("C0", "C1"), strict=True):
        panel.plot(*torch.cat((ends, ends[:, :1]), dim=1), color=colour, linewidth=1)
        for end in ends.T:
            line = torch.stack((torch.zeros(3), end), dim=1)
            panel.plot(*line, color=colour, marker="o", markevery=[1])
    panel.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    panel.set_box_aspect((1, 1, 1))
    panel.tick_params(labelbottom=False, labelleft=False, labelright=False)
