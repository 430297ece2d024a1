"""How often features fire, and how much too small they are, from one pass over activations.

Shrinkage of a feature. With its contribution p = acts_i W_dec_i, and x_hat what all features make
of x together, t = x - (x_hat - p) is what the other features leave for it, and

    shrinkage_i = E|p|^2 / E[p . t] = E|p|^2 / (E|p|^2 + E[p . (x - x_hat)])

which is the relative reconstruction bias (Rajamanoharan et al. 2024, arXiv 2404.16014, eq. 10) of
p as a reconstruction of t: the feature would explain most if it were divided by this number, with
all others as they are. Below 1 it is too small, above 1 too large. It says what to do with one
feature alone: of two copies that are half as large as they should be together, each is too small by
the whole of what is missing.
"""
# Shapes: F = features.

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.analysis.stability.dictionaries import SparseDictionary, walked
from sae.codes import Codes, fire_counts
from sae.kernels import dot_rows

RARE = (1e-5, 1e-6)
"""A feature is rare that fires on a smaller share of the tokens."""
DENSE = (0.01, 0.1)
"""A feature is dense that fires on a larger one."""
LEAST_EXPECTED = 3.0
"""Fires that a feature of just this density would have to be expected to have, before a share is
said: with 3 it is silent by chance in one of twenty cases (the rule of three)."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The features beyond a density. None where there are too few tokens to tell."""

    of_features: float | None
    """Their share of all features."""
    of_firing: float | None
    """Their share of all fires: of L0, that is."""


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What the features do on the tokens of the pass."""

    n_tokens: int
    l0: float
    dead_share: float
    """Of the features, those that never fired."""
    dead_density_below: float
    """What is known of those: with 95 % confidence they fire on a smaller share of tokens."""
    rare: Mapping[float, Group]
    """By density, of features below it: dead ones are among them."""
    dense: Mapping[float, Group]
    """By density, of features above it."""


@dataclass(frozen=True)
class Pass:
    """The sums of one pass."""

    fires: Int[Tensor, " F"]
    n_tokens: int
    shrinkage: Float[Tensor, " F"] | None
    """NaN for features that never fired. None where no feature has a contribution of its own: the
    dictionary undoes a normalisation of its input, or decodes through more than its rows."""

    @property
    def density(self) -> Float[Tensor, " F"]:
        return self.fires.to(torch.float64) / self.n_tokens

    def summary(self) -> Activity:
        density, n = self.density, self.n_tokens
        return Activity(
            n_tokens=n,
            l0=self.fires.sum().item() / n,
            dead_share=(self.fires == 0).double().mean().item(),
            dead_density_below=1.0 - 0.05 ** (1.0 / n),
            rare={at: self._group(density < at, at) for at in RARE},
            dense={at: self._group(density > at, at) for at in DENSE},
        )

    def _group(self, mask: Tensor, density: float) -> Group:
        if self.n_tokens * density < LEAST_EXPECTED * (1 - 1e-9):
            return Group(of_features=None, of_firing=None)
        all_fires = self.fires.sum().item()
        return Group(
            of_features=mask.double().mean().item(),
            of_firing=self.fires[mask].sum().item() / all_fires if all_fires else None,
        )


@torch.no_grad()
def one_pass(dictionary: SparseDictionary, batches: Iterable[Float[Tensor, "_ d_in"]]) -> Pass:
    """Gone through once. `InputError` where there are no activations, or of another width."""
    d_sae, d_in = dictionary.W_dec.shape
    device = dictionary.W_dec.device
    n_tokens, fires = 0, torch.zeros(d_sae, dtype=torch.int64)
    own, with_error = torch.zeros(2, d_sae, dtype=torch.float64)
    is_sum: bool | None = None
    for batch in walked(batches, d_in):
        x = batch.to(device)
        acts = dictionary.encode_sparse(x)
        n_tokens += len(x)
        fires += fire_counts(acts).cpu()
        if is_sum is None:
            is_sum = _is_sum_of_rows(dictionary, x, acts)
        if is_sum:
            _add_products(own, with_error, dictionary, acts, x - dictionary.decode_for(x, acts))
    if not is_sum:
        return Pass(fires, n_tokens, None)
    # A feature that makes things worse whatever its size has no size that would be right.
    target = own + with_error
    defined = (own > 0) & (target > 0)
    return Pass(fires, n_tokens, torch.where(defined, own / target.clamp_min(1e-300), torch.nan))


def _add_products(
    own: Tensor, with_error: Tensor, dictionary: SparseDictionary, acts: Codes, error: Tensor
) -> None:
    """Add |p|^2 and p . error of every feature and token of a batch."""
    W_dec = dictionary.W_dec.detach()
    active = (acts.values != 0).flatten()
    features = acts.indices.flatten()[active].cpu()
    values = acts.values.flatten()[active].to("cpu", torch.float64)
    along = dot_rows(acts.indices, error.to(W_dec), W_dec).flatten()[active]
    squares = W_dec.to(torch.float64).square().sum(dim=1).cpu()
    own.index_add_(0, features, values.square() * squares[features])
    with_error.index_add_(0, features, values * along.to("cpu", torch.float64))


def _is_sum_of_rows(dictionary: SparseDictionary, x: Tensor, acts: Codes) -> bool:
    nothing = Codes(acts.indices, torch.zeros_like(acts.values), acts.d_sae)
    added = dictionary.decode_for(x, acts) - dictionary.decode_for(x, nothing)
    scale = added.abs().max().item()
    return torch.allclose(added, acts.decode(dictionary.W_dec), rtol=1e-2, atol=1e-3 * scale)
