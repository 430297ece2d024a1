"""Nested dictionaries in one. Bussmann, Nabeshima, Karvonen and Nanda 2025, "Learning Multi-Level
Features with Matryoshka Sparse Autoencoders" (arXiv 2503.17547).

The first w features must reconstruct x by themselves, for each w of `prefixes`; features are chosen
as in BatchTopK, over all of them.

    x_hat_w = acts[:w] W_dec[:w] + b_dec
    loss = sum over w of |x - x_hat_w|^2 + auxk_coeff * |error - what dead ones make of it|^2
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from activation_cache.common.errors import InputError
from sae.architectures.batch_topk import BatchTopK
from sae.architectures.topk import FixedL0Config
from sae.trainable import Entries, Penalties


@dataclass(frozen=True, kw_only=True)
class MatryoshkaConfig(FixedL0Config):
    """The Matryoshka dictionary."""

    architecture: ClassVar[str] = "matryoshka"
    title: ClassVar[str] = "Matryoshka"
    sparse_by: ClassVar[str] = "the same, with nested widths"
    activation = "jumprelu"
    chooses_over_the_batch: ClassVar[bool] = True

    prefixes: tuple[int, ...] = ()
    """Nested width; repeatable (1/16, 1/8, 1/4, 1/2, all). They rise to d_sae."""

    def __post_init__(self) -> None:
        super().__post_init__()
        default = sorted({max(1, self.d_sae // part) for part in (16, 8, 4, 2, 1)})
        object.__setattr__(self, "prefixes", tuple(self.prefixes or default))
        rising = all(a < b for a, b in zip((0, *self.prefixes), self.prefixes, strict=False))
        if not rising or self.prefixes[-1] != self.d_sae:
            raise InputError(
                f"prefixes must rise from at least 1 to d_sae ({self.d_sae}), got {self.prefixes}"
            )

    @property
    def coefficients(self) -> Mapping[str, float]:
        return {**super().coefficients, "nested": 1.0}

    def build(self, d_in: int, *, seed: int = 0) -> "MatryoshkaSAE":
        return MatryoshkaSAE(self, d_in, seed=seed)


class MatryoshkaSAE(BatchTopK[MatryoshkaConfig]):
    def activate_entries(self, entries: Entries, target: Tensor) -> tuple[Tensor, Penalties]:
        """With `nested`, the squared errors of all prefixes but the whole, summed over d_in."""
        acts, _ = super().activate_entries(entries, target)
        total = target.new_zeros(())
        for width in self.cfg.prefixes[:-1]:
            rebuilt = entries.sum_rows(acts, self.W_dec, first=width)
            total = total + (rebuilt + self.b_dec - target).square().sum(dim=1).mean()
        return acts, {"nested": total}
