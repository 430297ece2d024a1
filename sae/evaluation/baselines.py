"""What any dictionary should be compared with, as dictionaries: they can be evaluated like one.

Those with features take as many for each token as the dictionary has on average, `k`. Where a
baseline chooses its features for each token, it takes the largest and then projects the token onto
them, which is the best that it can do with its choice.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.codes import Codes
from sae.provenance import Provenance

ROWS_AT_ONCE = 256
"""Tokens whose chosen directions are in memory at once."""

FIT_ROWS = 16_384
"""Of the activations, how many ICA and NMF are fitted on."""

N_ITERATIONS = 200
"""Of ICA and NMF at most."""


ANYWHERE = Provenance()
"""Baselines fit the site whose activations they are given."""


@dataclass(frozen=True)
class Moments:
    """What the activations that a baseline is fitted on have in common."""

    mean: Float[Tensor, " d"]
    components: Float[Tensor, "d d"]
    """Principal components as rows, those of the largest variance first."""
    rows: Float[Tensor, "rows d"]
    """The first of the activations."""

    @classmethod
    def of(cls, batches: Iterable[Float[Tensor, "_ d"]]) -> "Moments":
        """From one pass over batches, in float64."""
        n, mean, scatter, kept = 0, None, None, list[Tensor]()
        for batch in batches:
            x = batch.to("cpu", torch.float64)
            if sum(map(len, kept)) < FIT_ROWS:
                kept.append(batch.to("cpu", torch.float32))
            if not len(x):
                continue
            if mean is None or scatter is None:
                mean = torch.zeros(x.shape[1], dtype=torch.float64)
                scatter = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
            deviation, n = x.mean(dim=0) - mean, n + len(x)
            centred = x - x.mean(dim=0)
            share = len(x) / n
            scatter += centred.T @ centred + deviation.outer(deviation) * len(x) * (1 - share)
            mean = mean + deviation * share
        if mean is None or scatter is None or n < 2:
            raise InputError("baselines are fitted on activations, and there are none: give text")
        components = torch.linalg.eigh(scatter).eigenvectors.flip(1).T
        return cls(mean, components.contiguous(), torch.cat(kept)[:FIT_ROWS])


@dataclass(frozen=True)
class Identity:
    """The activation itself, each component a feature."""

    provenance: Provenance = ANYWHERE

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@dataclass(frozen=True)
class Constant:
    """The same vector whatever comes in, and one feature that is never active."""

    vector: Float[Tensor, " d"]
    provenance: Provenance = ANYWHERE

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.vector.to(x).expand_as(x), x.new_zeros(len(x), 1)


@dataclass(frozen=True)
class Directions:
    """Directions around a centre, of which each token takes `k`: its largest ones, or the first."""

    centre: Float[Tensor, " d"]
    rows: Float[Tensor, "n d"]
    """Of length 1."""
    k: int
    chooses: bool = True
    """Whether each token takes its own."""
    orthogonal: bool = False
    provenance: Provenance = ANYWHERE

    def reconstruct(self, x: Float[Tensor, "tokens d"]) -> tuple[Tensor, Codes]:
        each = [self._reconstruct(part) for part in x.split(ROWS_AT_ONCE)]
        x_hat, indices, values = (torch.cat(of) for of in zip(*each, strict=True))
        return x_hat, Codes(indices, values, len(self.rows))

    def _reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, centre = self.rows.to(x), self.centre.to(x)
        projections = (x - centre) @ rows.T
        if self.chooses:
            indices = projections.abs().topk(self.k, dim=1).indices
        else:
            indices = torch.arange(self.k, device=x.device).expand(len(x), -1)
        chosen, values = rows[indices], projections.gather(1, indices)
        if not self.orthogonal:  # least squares on those that were chosen
            gram = chosen @ chosen.transpose(1, 2)
            gram.diagonal(dim1=1, dim2=2).add_(1e-4)
            values = torch.linalg.solve(gram, values[:, :, None]).squeeze(2)
        return centre + (values[:, None, :] @ chosen).squeeze(1), indices, values


Fit = Callable[[Moments, int, int, int], Any]
"""Makes a baseline of moments, `k`, `d_sae` and a seed."""


def _random(of: Moments, k: int, d_sae: int, seed: int) -> Directions:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(d_sae, len(of.mean), dtype=torch.float64, generator=generator)
    return Directions(of.mean, torch.nn.functional.normalize(rows, dim=1), k)


def _ica(of: Moments, k: int, d_sae: int, seed: int) -> Directions:
    """FastICA's directions, as many as there are dimensions."""
    from sklearn.decomposition import FastICA

    ica: Any = FastICA(random_state=seed, max_iter=N_ITERATIONS, tol=1e-3, whiten="unit-variance")
    with _unconverged():
        ica.fit(of.rows.numpy())
    return _unit(of.mean, ica.mixing_.T, k)


def _nmf(of: Moments, k: int, d_sae: int, seed: int) -> Directions:
    """Of what is above the mean and what is below it, side by side, neither of them negative."""
    from sklearn.decomposition import MiniBatchNMF

    x = (of.rows - of.mean.float()).numpy()
    parts = torch.from_numpy(x).relu(), torch.from_numpy(-x).relu()
    n: Any = len(of.mean)
    nmf = MiniBatchNMF(n, random_state=seed, max_iter=N_ITERATIONS, init="random")
    with _unconverged():
        nmf.fit(torch.cat(parts, dim=1).numpy())
    above, below = torch.from_numpy(nmf.components_).chunk(2, dim=1)
    return _unit(of.mean, (above - below).numpy(), k)


@contextmanager
def _unconverged() -> Iterator[None]:
    """Real activations seldom converge in a bounded time, and a baseline has to be no better."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _unit(centre: Tensor, rows: Any, k: int) -> Directions:
    made = torch.from_numpy(rows).to(torch.float64)
    made = torch.nn.functional.normalize(made[made.norm(dim=1) > 0], dim=1)
    return Directions(centre, made, min(k, len(made)))


BASELINES: Mapping[str, tuple[str, Fit]] = {
    "identity": ("the activation itself", lambda of, k, n, s: Identity()),
    "mean": ("the mean of training activations", lambda of, k, n, s: Constant(of.mean)),
    "zero": ("zero", lambda of, k, n, s: Constant(torch.zeros_like(of.mean))),
    "random": ("k of d_sae random directions, the largest for each token", _random),
    "neurons": (
        "the k components that are furthest from their mean, for each token",
        lambda of, k, n, s: Directions(
            of.mean, torch.eye(len(of.mean)), min(k, len(of.mean)), orthogonal=True
        ),
    ),
    "pca": (
        "the first k principal components",
        lambda of, k, n, s: Directions(
            of.mean, of.components, min(k, len(of.mean)), chooses=False, orthogonal=True
        ),
    ),
    "pca_top_k": (
        "the k principal components that are largest, for each token",
        lambda of, k, n, s: Directions(
            of.mean, of.components, min(k, len(of.mean)), orthogonal=True
        ),
    ),
    "ica": ("the k independent components that are largest, for each token", _ica),
    "nmf": ("the k parts of a non-negative factorisation that are largest, for each token", _nmf),
}
"""By name: what it is, and how it is made."""

SLOW = ("ica", "nmf")
"""On request alone."""


def fit_baselines(
    moments: Moments, k: int, d_sae: int, *, also: Iterable[str] = (), seed: int = 0
) -> dict[str, Any]:
    """Baselines with `k` features a token, of a dictionary with `d_sae` features, by name.

    `also` names those of `SLOW` that are wanted too.
    """
    wanted = [name for name in BASELINES if name not in SLOW or name in set(also)]
    return {name: BASELINES[name][1](moments, max(1, k), d_sae, seed) for name in wanted}
