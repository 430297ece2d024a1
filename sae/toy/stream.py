"""Activations made of known features, so that a dictionary can be held against the truth."""
# Shapes: G = true features.

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.toy.features import Features


class SparseFeatures:
    """An endless stream of x = strengths @ directions, usable by `train`.

    Directions are random unit vectors [G, d_in] unless they are given. Sharkey et al. 2022, "Taking
    features out of superposition with sparse autoencoders".
    """

    def __init__(
        self,
        features: Features,
        d_in: int,
        *,
        directions: Float[Tensor, "G {d_in}"] | None = None,
        batch_tokens: int = 1024,
        seed: int = 0,
    ) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.features = features
        self._batch_tokens = batch_tokens
        if directions is None:
            drawn = torch.randn(features.n_features, d_in, generator=self._generator)
            directions = drawn / drawn.norm(dim=1, keepdim=True)
        self.directions: Float[Tensor, "G d_in"] = directions

    def __iter__(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        while True:
            yield self.sample_strengths(self._batch_tokens) @ self.directions

    def sample_strengths(self, n_tokens: int) -> Float[Tensor, "{n_tokens} G"]:
        """Strengths of the next tokens, which `iter` would have made activations of."""
        return self.features.sample(n_tokens, self._generator).mT

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])
