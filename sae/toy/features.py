"""Synthetic sparse features: how often each is active, and which are active together.

Strengths are uniform in [0, 1] where a feature is active, and 0 elsewhere. A distribution with
probabilities [settings, ...] has several settings. All of them are made of the same random numbers,
so that what differs between two settings is never the luck of the draw. A feature's tokens lie
together in memory, which is what products with few features want.
"""
# Shapes: S = settings, B = tokens, G = features.

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError


class Features(ABC):
    """A distribution of the strengths of features."""

    n_features: int

    @abstractmethod
    def sample(self, n_tokens: int, generator: torch.Generator) -> Float[Tensor, "*S G {n_tokens}"]:
        """Strengths in independent tokens, on the device of the generator."""


class Independent(Features):
    """Features that are active independently of each other.

    `probabilities` is [G] or [settings, G]. Strengths are uniform in [0, 1], or in [-1, 1] where
    they are `signed`.
    """

    def __init__(self, probabilities: Float[Tensor, "*S G"], *, signed: bool = False) -> None:
        self.probabilities = checked(probabilities)
        self.signed = signed
        self.n_features = probabilities.shape[-1]

    def sample(self, n_tokens: int, generator: torch.Generator) -> Float[Tensor, "*S G {n_tokens}"]:
        """One draw decides both: below p a feature is active, and how far below is its strength."""
        u = _uniform(self.n_features, n_tokens, generator)
        tiny = torch.finfo(u.dtype).tiny  # u = 0 and p = 0 make -inf, not NaN
        p = self.probabilities.to(u.device)[..., None].clamp_min(tiny)
        if self.signed:
            return (1.0 - 2.0 * u / p) * (u < p)
        return torch.addcdiv(u.new_ones(()), u, p, value=-1.0).clamp_min_(0.0)


class CorrelatedSets(Features):
    """Sets of features that are active together; their strengths are independent.

    Feature i is in set i // `set_size`; `probabilities` is [n_sets] or [settings, n_sets]. Elhage
    et al. 2022, "Correlated and anticorrelated features".
    """

    def __init__(self, probabilities: Float[Tensor, "*S sets"], set_size: int) -> None:
        self.probabilities = checked(probabilities)
        self.set_size = set_size
        self.n_features = set_size * probabilities.shape[-1]

    def sample(self, n_tokens: int, generator: torch.Generator) -> Float[Tensor, "*S G {n_tokens}"]:
        on = _uniform(self.probabilities.shape[-1], n_tokens, generator)
        on = on < self.probabilities.to(on.device)[..., None]
        strengths = _uniform(self.n_features, n_tokens, generator)
        return strengths * on.repeat_interleave(self.set_size, dim=-2)


class AnticorrelatedSets(CorrelatedSets):
    """Sets of which, where they are active, one member is, chosen at random."""

    def sample(self, n_tokens: int, generator: torch.Generator) -> Float[Tensor, "*S G {n_tokens}"]:
        shape, device = (self.n_features // self.set_size, 1, n_tokens), generator.device
        chosen = torch.randint(self.set_size, shape, generator=generator, device=device)
        is_chosen = chosen == torch.arange(self.set_size, device=device)[:, None]
        return super().sample(n_tokens, generator) * is_chosen.flatten(0, 1)


class Hierarchical(Features):
    """Features that can be active only where their parent is.

    `parents` has the index of every feature's parent, which comes before it, or -1 for a root;
    `probabilities` [G] is how often a feature is active where its parent is.
    """

    def __init__(self, probabilities: Float[Tensor, " G"], parents: list[int]) -> None:
        self.probabilities = checked(probabilities)
        self.parents = parents
        self.n_features = len(probabilities)
        if len(parents) != self.n_features or any(p >= i for i, p in enumerate(parents)):
            raise InputError(
                f"parents {parents} are not one for each of {self.n_features} features, each "
                f"before its children: give -1 for a root"
            )

    def sample(self, n_tokens: int, generator: torch.Generator) -> Float[Tensor, "*S G {n_tokens}"]:
        strengths = Independent(self.probabilities).sample(n_tokens, generator)
        for feature, parent in enumerate(self.parents):
            if parent >= 0:
                strengths[feature] *= strengths[parent] > 0
        return strengths


def zipf(n_features: int, mean_active: float, exponent: float = 1.0) -> Float[Tensor, " G"]:
    """Probabilities that fall as a power of the rank, `mean_active` features at a time."""
    return _scaled(torch.arange(1.0, n_features + 1) ** -exponent, mean_active)


def geometric(n_features: int, mean_active: float, ratio: float = 0.99) -> Float[Tensor, " G"]:
    """Probabilities that fall by a factor from one feature to the next (Sharkey et al. 2022)."""
    return _scaled(ratio ** torch.arange(float(n_features)), mean_active)


def checked(probabilities: Float[Tensor, "*S G"]) -> Float[Tensor, "*S G"]:
    """The same, or `InputError` where one is no probability."""
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        worst = probabilities.flatten()[(probabilities.flatten() - 0.5).abs().argmax()].item()
        raise InputError(f"probabilities must lie in [0, 1], got {worst:g}")
    return probabilities


def _scaled(frequencies: Float[Tensor, " G"], mean_active: float) -> Float[Tensor, " G"]:
    return checked(frequencies * (mean_active / frequencies.sum()))


def _uniform(n: int, n_tokens: int, generator: torch.Generator) -> Float[Tensor, "{n} {n_tokens}"]:
    return torch.rand(n, n_tokens, generator=generator, device=generator.device)
