"""One of five features in the plane is made sparser, until two digons of the others are better."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.papers.toy_models.section import Scale, fit
from sae.toy import Independent, Kind, ToyConfig, ToyModels, ToyTrainConfig
from sae.toy.geometry import feature_dimensionality, norms
from sae.toy.phases import every_pattern, variance

N, M, P = 5, 2, 0.05
RATIOS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.4, 2.0)
"""Density of one feature over that of the others."""
BRANCHES = {
    "p = 0.02": (0.02, 1.0),
    "p = 0.05": (P, 1.0),
    "p = 0.1": (0.1, 1.0),
    "p = 0.05, I = 0.9^i": (P, 0.9),
}
"""Settings in which the crossing is looked for: p, and the ratio of importances, by which the
feature that varies is the last. The paper's is the second."""


@dataclass(frozen=True)
class Crossover:
    """Models of five features of which the first is sparser or denser, a setting a ratio."""

    ratios: tuple[float, ...]
    W: Float[Tensor, "S R m n"]
    losses: Float[Tensor, "S R"]

    @property
    def has_all(self) -> Bool[Tensor, "S R"]:
        return (norms(self.W) > 0.5).all(dim=2)

    @property
    def has_digons(self) -> Bool[Tensor, "S R"]:
        """Without the first feature: four in opposite pairs."""
        D, lengths = feature_dimensionality(self.W), norms(self.W)
        in_pairs = (D[..., 1:] - 0.5).abs().amax(dim=2) < 0.02
        return in_pairs & (lengths[..., 0] < 0.1) & (lengths[..., 1:] > 0.5).all(dim=2)

    def best(self, of: Bool[Tensor, "S R"]) -> Float[Tensor, " S"]:
        """The least loss of these restarts; infinite where there is none."""
        return torch.where(of, self.losses, math.inf).amin(dim=1)

    @property
    def W_best(self) -> Float[Tensor, "S m n"]:
        return self.W[torch.arange(len(self.W)), self.losses.argmin(dim=1)]


def crossover(
    scale: Scale, seed: int, control: str = "", dense: dict[str, Tensor] | None = None
) -> Crossover:
    """Trained models, or those of a control, of which the dense ones have this state."""
    kind: Kind = "linear" if control == "linear" else "relu_output"
    p = torch.full((len(RATIOS), N), P)
    p[:, 0] *= torch.tensor(RATIOS)
    restarts = 2 if control == "linear" else scale.instances or scale.choose(12, 8)
    if dense:
        restarts = dense["W"].shape[1]
    cfg = ToyConfig(n_features=N, n_hidden=M, kind=kind)
    models = ToyModels(cfg, settings=len(p), restarts=restarts, seed=seed)
    if dense:
        models.load_state_dict({k: v.expand_as(models.get_parameter(k)) for k, v in dense.items()})
    models = models.to(scale.device)
    if control in ("", "linear"):
        how = _how(scale, seed)
        how = replace(how, n_steps=how.n_steps // 3) if control else how
        fit(models, Independent(p.to(scale.device)), how)
    losses = exact_losses(models, p, torch.ones(N))
    return Crossover(RATIOS, models.W.detach().cpu(), losses)


def _how(scale: Scale, seed: int) -> ToyTrainConfig:
    n_steps = scale.steps or scale.choose(2000, 700)
    return ToyTrainConfig(n_steps=n_steps, batch_tokens=scale.choose(512, 256), lr=1e-2, seed=seed)


def exact_losses(
    models: ToyModels, p: Float[Tensor, "S n"], importance: Float[Tensor, "*S n"]
) -> Float[Tensor, "S R"]:
    x, weights = every_pattern(p, 6)
    device = models.W.device
    seen = x.to(device).expand(len(p), 1, -1, -1)
    return models.losses(seen, importance.to(device), weights.to(device)).cpu()


# What the gates ask for --------------------------------------------------------------------------


def of_crossover(found: Crossover) -> dict[str, Any]:
    ratios = torch.tensor(found.ratios)
    digons, pentagons = found.best(found.has_digons), found.best(found.has_all)
    errors = (digons / digon_loss(P, ratios) - 1)[digons < math.inf].abs()
    crossings = _crossings(ratios, digons, pentagons)
    at, slope_ratio = crossings[0] if crossings else (math.nan, math.nan)
    angles = _angles(found.W_best)[ratios >= 0.4]
    first = found.W_best[0]
    others = (feature_dimensionality(first)[1:] - 0.5).abs().max()
    return {
        "digon_found": len(errors),
        "digon_error": errors.max().item() if len(errors) else math.inf,
        "crossings": len(crossings),
        "crossing": at,
        "slope_ratio": slope_ratio,
        "share_with_all": found.has_all.float().mean(dim=1).tolist(),
        "angles": angles.tolist(),
        "angle_rise": (angles[-1] - angles[0]).item(),
        "angle_is_rising": bool((angles.diff() > 0).all()),
        "sparsest_norm": norms(first)[0].item(),
        "sparsest_error": others.item(),
    }


def digon_loss(p: float, ratios: Float[Tensor, " S"], decay: float = 1.0) -> Float[Tensor, " S"]:
    """Of two digons that leave out the last feature, the mean over all five."""
    importance = decay ** torch.arange(float(N))
    pairs = p**2 / 6 * importance[:-1].sum()
    return (pairs + importance[-1] * variance(p * ratios)) / N


def _crossings(
    ratios: Float[Tensor, " S"], digons: Float[Tensor, " S"], pentagons: Float[Tensor, " S"]
) -> list[tuple[float, float]]:
    """Where digons become the worse of the two, and how much faster their loss rises there."""
    known = (digons < math.inf) & (pentagons < math.inf)
    r, digons, pentagons = ratios[known].log(), digons[known], pentagons[known]
    excess = (digons / pentagons).log()
    found: list[tuple[float, float]] = []
    for i in range(len(r) - 1):
        if (excess[i] < 0) != (excess[i + 1] < 0):
            at = r[i] - excess[i] * (r[i + 1] - r[i]) / (excess[i + 1] - excess[i])
            slopes = (digons[i + 1] - digons[i]) / (pentagons[i + 1] - pentagons[i])
            found.append((at.exp().item(), slopes.item()))
    return found


def _angles(W: Float[Tensor, "S 2 n"]) -> Float[Tensor, " S"]:
    """Between the first feature and its two neighbours, in degrees: the mean of both."""
    unit = W / norms(W)[:, None].clamp_min(1e-12)
    cosines = (unit[:, :, :1] * unit[:, :, 1:]).sum(dim=1)
    nearest = cosines.clamp(-1, 1).acos().sort(dim=1).values[:, :2]
    return nearest.mean(dim=1).rad2deg()


def of_branches(scale: Scale, seed: int) -> dict[str, Any]:
    """Where pentagons that start as such, and are deformed, cross the digons' loss."""
    ratios = torch.logspace(-0.9, -0.2, scale.choose(13, 9))
    p, decay = torch.tensor(list(BRANCHES.values())).repeat_interleave(len(ratios), dim=0).T
    densities = p[:, None].repeat(1, N)
    densities[:, -1] *= ratios.repeat(len(BRANCHES))
    importance = decay[:, None] ** torch.arange(float(N))
    models = _pentagons(len(p), seed).to(scale.device)
    fit(models, Independent(densities.to(scale.device)), _how(scale, seed), importance)
    losses = exact_losses(models, densities, importance)
    is_whole = (norms(models.W.detach().cpu()) > 0.5).all(dim=2)
    pentagons = torch.where(is_whole, losses, math.inf).amin(dim=1).view(len(BRANCHES), -1)
    times = {}
    for (name, setting), of_it in zip(BRANCHES.items(), pentagons, strict=True):
        crossings = _crossings(ratios, digon_loss(setting[0], ratios, setting[1]), of_it)
        times[name] = 1 / crossings[0][0] if crossings else math.nan
    return {
        "times_sparser": times["p = 0.05"],
        "times_sparser_by_branch": times,
        "branch_ratios": ratios.tolist(),
        "branch_losses": pentagons.tolist(),
    }


def _pentagons(settings: int, seed: int) -> ToyModels:
    """Regular ones with a little noise, of the size that they have at p = 0.05."""
    models = ToyModels(
        ToyConfig(n_features=N, n_hidden=M), settings=settings, restarts=2, seed=seed
    )
    angle = torch.arange(N) * 2 * math.pi / N
    with torch.no_grad():
        models.W.mul_(0.05).add_(1.13 * torch.stack((angle.cos(), angle.sin())))
        models.b.fill_(-0.24)
    return models
