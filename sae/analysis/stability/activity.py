"""What is added up of activations in one pass: pairs of features, and what each one reconstructs.

All sums are float64. Nothing of size d_sae x d_sae is ever made: of two dictionaries, only the
products of the pairs that were asked for are summed.
"""
# Shapes: F = features of one dictionary, B = tokens of a batch.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.analysis.stability.dictionaries import (
    SparseDictionary,
    decoder_rows,
    refuse_what_does_not_fit,
    walked,
    without,
)
from sae.codes import Codes
from sae.kernels import backend_for


@dataclass(frozen=True)
class Pairing:
    """For each feature of dictionary `a` a feature of dictionary `b`; -1 for none."""

    a: int
    b: int
    partner: Int[Tensor, " F"]


class PairSums:
    """Sums over tokens of each feature's activation, its square, and products of pairs."""

    def __init__(self, widths: Sequence[int], pairings: Sequence[Pairing]) -> None:
        self._widths, self._pairings = widths, pairings
        self._has = [(p.partner >= 0).numpy() for p in pairings]
        self._partners = [p.partner.clamp_min(0).numpy() for p in pairings]
        self._n = 0
        self.fires = [np.zeros(width, np.int64) for width in widths]
        self._sums = [np.zeros(width) for width in widths]
        self._squares = [np.zeros(width) for width in widths]
        self._products = [np.zeros(len(p.partner)) for p in pairings]

    def add(self, n_tokens: int, acts: Sequence[csr_array]) -> None:
        """The activations of one batch, [n_tokens, F] of each dictionary."""
        self._n += n_tokens
        for i, of in enumerate(acts):
            self.fires[i] += np.bincount(of.indices, minlength=self._widths[i])
            self._sums[i] += of.sum(axis=0)
            self._squares[i] += (of * of).sum(axis=0)
        by_column = [of.tocsc() for of in acts]
        for products, pairing, its in zip(
            self._products, self._pairings, self._partners, strict=True
        ):
            products += (by_column[pairing.a] * by_column[pairing.b][:, its]).sum(axis=0)

    def correlations(self, number: int) -> Float[Tensor, " F"]:
        """Pearson's, of the two activations of each pair of a pairing. 0 where there is no pair, or
        one of them never changes.

        A correlation is 0 for independent features however often they are active; a cosine is not:
        0.75 for two that are active, uniformly in [0, 1], on every token.
        """
        pairing, partner = self._pairings[number], self._partners[number]
        mean_a = self._sums[pairing.a] / self._n
        mean_b = (self._sums[pairing.b] / self._n)[partner]
        covariance = self._products[number] / self._n - mean_a * mean_b
        variance_a = self._squares[pairing.a] / self._n - mean_a**2
        variance_b = (self._squares[pairing.b] / self._n)[partner] - mean_b**2
        both = np.sqrt(np.maximum(variance_a * variance_b, 0.0))
        known = self._has[number] & (both > 1e-12 * (mean_a**2 + mean_b**2))
        return torch.from_numpy(np.where(known, covariance / np.where(known, both, 1.0), 0.0))


class Reconstructed:
    """What each feature of a dictionary is worth to its reconstruction, beside its twins'."""

    def __init__(self, dictionary: SparseDictionary, n_twins: int) -> None:
        W_dec = dictionary.W_dec.detach()
        self._directions = decoder_rows(dictionary).to(W_dec.device)
        self._norms = W_dec.norm(dim=1).to("cpu", torch.float64)
        self._n = 0
        d_sae, d_in = W_dec.shape
        self._x, self._x_hat = (torch.zeros(d_in, dtype=torch.float64) for _ in range(2))
        self._x_square = self._x_hat_square = self._error = 0.0
        names = ["n", "acts", "along", "along_square", "error", "removal", "share"]
        self._of = {name: torch.zeros(d_sae, dtype=torch.float64) for name in names}
        self._of_twins = torch.zeros(n_twins, d_sae, dtype=torch.float64)

    def add(self, x: Tensor, x_hat: Tensor, acts: Codes, of_twins: Sequence[Tensor]) -> None:
        """One batch: its reconstruction by the dictionary, and those by the twins."""
        exact, exact_hat = (of.to("cpu", torch.float64) for of in (x, x_hat))
        self._n += len(x)
        self._x += exact.sum(dim=0)
        self._x_hat += exact_hat.sum(dim=0)
        self._x_square += exact.square().sum().item()
        self._x_hat_square += exact_hat.square().sum().item()
        self._error += (exact - exact_hat).square().sum().item()
        active = (acts.values != 0).flatten().cpu()
        feature = acts.indices.flatten().cpu()[active]
        backend = backend_for(self._directions.device)

        def along(of: Tensor) -> Tensor:
            """The component of each token in the direction of each of its active features."""
            products = backend.dot_rows(acts.by_feature, of.to(self._directions), self._directions)
            return products.flatten().to("cpu", torch.float64)[active]

        h = acts.values.flatten().to("cpu", torch.float64)[active] * self._norms[feature]
        of_x, error = along(x), along(x - x_hat)
        terms = {
            "n": torch.ones_like(h),
            "acts": h,
            "along": of_x,
            "along_square": of_x.square(),
            "error": error.square(),
            "removal": 2.0 * h * error + h.square(),
            "share": h * along(x_hat),
        }
        for name, term in terms.items():
            self._of[name].index_add_(0, feature, term)
        for total, twin in zip(self._of_twins, of_twins, strict=True):
            total.index_add_(0, feature, along(x - twin).square())

    @property
    def variance(self) -> float:
        """The squared distances of the activations from their mean, summed."""
        return self._x_square - self._x.square().sum().item() / self._n

    @property
    def fvu(self) -> float:
        return self._error / self.variance if self.variance > 0 else float("nan")

    def removal_loss(self) -> Float[Tensor, " F"]:
        """By how much FVU grows when the contribution of one feature alone is left out."""
        return self._of["removal"] / self.variance

    def variance_share(self) -> Float[Tensor, " F"]:
        """Covariance of a feature's contribution with the reconstruction, over the variance of the
        reconstruction. Over all features it sums to 1, so shares of groups add up; one is negative
        where the others mostly undo what it adds."""
        mean = (self._directions.to("cpu", torch.float64) @ self._x_hat) / self._n
        total = self._x_hat_square - self._x_hat.square().sum().item() / self._n
        return (self._of["share"] - mean * self._of["acts"]) / (
            total if total > 0 else float("nan")
        )

    def unexplained_along(self) -> Float[Tensor, "n F"]:
        """Squared error along a feature's direction on the tokens where it is active, over the
        squared distance of these tokens from the mean of all, along it: of the dictionary, then of
        each twin. NaN for features that are never active."""
        mean = (self._directions.to("cpu", torch.float64) @ self._x) / self._n
        of = self._of
        spread = of["along_square"] - 2.0 * mean * of["along"] + of["n"] * mean.square()
        spread = torch.where(of["n"] > 0, spread.clamp_min(1e-30), float("nan"))
        return torch.cat([of["error"][None], self._of_twins]) / spread


@dataclass(frozen=True)
class Activity:
    """The sums of one pass over the activations."""

    pairs: PairSums
    reconstructed: list[Reconstructed]
    """Of the dictionaries, not of their twins."""


@torch.no_grad()
def measure(
    dictionaries: Sequence[SparseDictionary],
    twins: Sequence[SparseDictionary],
    pairings: Sequence[Pairing],
    batches: Iterable[Float[Tensor, "_ d_in"]],
) -> Activity:
    """One pass over the batches for all dictionaries. Pairings number twins after dictionaries.

    `InputError` where there are no activations, or a dictionary's reconstruction is no sum of its
    features' contributions.
    """
    every = [*dictionaries, *twins]
    refuse_what_does_not_fit(every)
    pairs = PairSums([len(d.W_dec) for d in every], pairings)
    reconstructed = [Reconstructed(d, len(twins)) for d in dictionaries]
    is_first = True
    for x in walked(batches, every[0].W_dec.shape[1]):
        codes = [d.encode_sparse(x.to(d.W_dec.device)) for d in every]
        x_hats = [
            d.decode_for(x.to(d.W_dec.device), of).to(x) for d, of in zip(every, codes, strict=True)
        ]
        if is_first:
            for number, (d, of) in enumerate(
                zip(dictionaries, codes[: len(dictionaries)], strict=True)
            ):
                _refuse_what_is_no_sum(number, d, x.to(d.W_dec.device), of)
            is_first = False
        pairs.add(len(x), [sparse(of) for of in codes])
        of_twins = x_hats[len(dictionaries) :]
        for its, x_hat, of in zip(
            reconstructed, x_hats[: len(dictionaries)], codes[: len(dictionaries)], strict=True
        ):
            its.add(x, x_hat, of, of_twins)
    return Activity(pairs, reconstructed)


@torch.no_grad()
def fvu_of(
    dictionaries: Sequence[SparseDictionary],
    left_out: Sequence[Tensor],
    batches: Iterable[Float[Tensor, "_ d_in"]],
) -> list[float]:
    """FVU of each dictionary without the features of its mask [F], pooled and centred."""
    lesser = [without(d, mask) for d, mask in zip(dictionaries, left_out, strict=True)]
    errors = [0.0] * len(lesser)
    n, total, square = 0, torch.zeros((), dtype=torch.float64), 0.0
    for x in walked(batches, dictionaries[0].W_dec.shape[1]):
        exact = x.to("cpu", torch.float64)
        n, total, square = (
            n + len(x),
            total + exact.sum(dim=0),
            square + exact.square().sum().item(),
        )
        for i, d in enumerate(lesser):
            x_hat = d.reconstruct(x.to(d.W_dec.device))[0]
            errors[i] += (exact - x_hat.to("cpu", torch.float64)).square().sum().item()
    variance = square - total.square().sum().item() / n
    return [error / variance if variance > 0 else float("nan") for error in errors]


def sparse(acts: Codes) -> csr_array:
    """The activations [tokens, d_sae] as a SciPy array, in float64 and without padding."""
    values = acts.values.to("cpu", torch.float64)
    rows, places = (values != 0).nonzero(as_tuple=True)
    columns = acts.indices.cpu()[rows, places].numpy()
    return csr_array(
        (values[rows, places].numpy(), (rows.numpy(), columns)), shape=(len(values), acts.d_sae)
    )


def _refuse_what_is_no_sum(number: int, d: SparseDictionary, x: Tensor, acts: Codes) -> None:
    nothing = Codes(acts.indices, torch.zeros_like(acts.values), acts.d_sae)
    added = d.decode_for(x, acts) - d.decode_for(x, nothing)
    if not torch.allclose(
        added, acts.decode(d.W_dec), rtol=1e-2, atol=1e-3 * added.abs().max().item()
    ):
        raise InputError(
            f"dictionary {number} undoes a normalisation of its input, so that no feature has a "
            f"contribution of its own: give one whose reconstruction is acts @ W_dec and an offset"
        )
