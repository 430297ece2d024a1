"""The figures of section 3."""

from dataclasses import replace

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from sae.papers.toy_models.phase_cases import Case, Found
from sae.toy.geometry import interference, norms
from sae.toy.phases import SOLUTIONS, boundary, ideal_losses, margin

COLOURS = {"ignored": "#f2efe6", "own": "#2f6db5", "shared": "#d9603b"}


def draw_diagrams(found: list[Found]) -> Figure:
    """The paper's diagrams: what becomes of the last feature, in theory and in trained models."""
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    for row, best in zip(figure.subplots(2, 3), found, strict=True):
        case, (importance, p) = best.case, best.case.cells
        _draw_theory(row[0], case)
        fate = _blend(norms(best.W)[:, -1], interference(best.W)[:, -1])
        _mesh(row[1], case, fate)
        restarts = best.losses.shape[1]
        row[1].set_title(f"n = {case.n}, m = {case.n - 1}: trained, best of {restarts}")
        wrong = (best.labels != best.theory.argmin(dim=1)) & (margin(best.theory) > 1e-3)
        row[1].plot(importance[wrong], p[wrong], "kx", markersize=5, label="theory says otherwise")
        row[1].legend(loc="lower left", fontsize=8)
        image = _mesh(row[2], case, best.losses.amin(dim=1) / best.theory.amin(dim=1))
        image.set(cmap="PuOr", clim=(0.7, 1.3))
        figure.colorbar(image, ax=row[2], label="loss of the best / of the best ideal solution")
        row[2].set_title("what training gains")
        row[0].set_ylabel("density p = 1 - S")
        for panel in row:
            panel.set(xlim=(0.1, 10), ylim=(min(0.9, case.densities[0]), 1))
            panel.set(xscale="log", yscale="log", xlabel=f"importance of feature {case.n}")
    names = {"ignored": "not represented", "own": "has a dimension", "shared": "in superposition"}
    patches = [Patch(color=COLOURS[k], label=f"last feature {name}") for k, name in names.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=3)
    return figure


def _draw_theory(panel: Axes, case: Case) -> None:
    size = 160
    axes = (tuple(torch.logspace(low, low + 2, size).tolist()) for low in (-1, -2))
    fine = replace(case, **dict(zip(("importances", "densities"), axes, strict=True)))
    best = ideal_losses(case.n, *fine.cells).argmin(dim=1)
    extra = ("ignored", "own", "shared", "own")
    _mesh(panel, fine, torch.tensor([to_rgb(COLOURS[k]) for k in extra])[best])
    for index, solution in enumerate(SOLUTIONS[case.n]):
        cells = [axis[best == index].log10().mean().item() for axis in fine.cells]
        panel.text(10 ** cells[0], 10 ** cells[1], solution, ha="center", va="center")
    panel.set_title(f"n = {case.n}, m = {case.n - 1}: theory")


def _blend(length: Float[Tensor, " k"], shared: Float[Tensor, " k"]) -> Float[Tensor, "k 3"]:
    """From ignored, by length, to its own dimension or a shared one, by interference."""
    ignored, own, both = (torch.tensor(to_rgb(COLOURS[k])) for k in ("ignored", "own", "shared"))
    represented = torch.lerp(own, both, shared.clamp(0, 1)[:, None])
    return torch.lerp(ignored, represented, length.clamp(0, 1)[:, None])


def _mesh(panel: Axes, case: Case, values: Float[Tensor, "cells *rgb"]) -> QuadMesh:
    shape = len(case.importances), len(case.densities)
    grid = values.unflatten(0, shape).transpose(0, 1)
    return panel.pcolormesh(_edges(case.importances), _edges(case.densities), grid.numpy())


def _edges(values: tuple[float, ...]) -> list[float]:
    """Of cells around values on a log axis."""
    if len(values) == 1:
        return [values[0] / 1.5, values[0] * 1.5]
    logs = torch.tensor(values).log()
    middles = (logs[1:] + logs[:-1]) / 2
    ends = 2 * logs[:1] - middles[:1], 2 * logs[-1:] - middles[-1:]
    return torch.cat((ends[0], middles, ends[1])).exp().tolist()


def draw_slice(found: list[Found]) -> Figure:
    """Every restart's loss by density, and the length of the second feature in the best."""
    case, p, theory = found[0].case, found[0].case.cells[1], found[0].theory
    importance = case.importances[0]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index in (0, 2):
        name = SOLUTIONS[case.n][index]
        left.plot(p, theory[:, index], label=f"{name}, in theory", color=("C0", "", "C3")[index])
    for f in found:
        left.plot(p, f.losses, ".", color="black", markersize=3, alpha=0.3)
        right.plot(p, f.W[:, 0, 1].abs(), ".-", linewidth=1, markersize=4)
    left.plot([], [], "k.", label="trained, every restart")
    left.set(ylabel="loss, summed over features", ylim=(0, 1.3 * theory.amin(dim=1).max().item()))
    right.set(ylabel="|w_2| of the best restart, a line a seed")
    left.legend(fontsize=8)
    for panel in (left, right):
        panel.axvline(boundary(torch.tensor(importance)).item(), color="grey", linestyle=":")
        panel.set_xlabel(f"density p, at importance {importance:g} of feature 2")
    return figure
