"""Activations made of known sparse features, so that a dictionary can be held against the truth."""
# Shapes: G = true features.

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class SparseFeatures:
    """An endless stream of x = sum of strengths * directions, usable by `train`.

    Every direction is a random unit vector. Feature i is active with probability
    `probabilities[i]`, independently of the others, with a strength uniform in [0, 1]. Sharkey et
    al. 2022, "Taking features out of superposition with sparse autoencoders".
    """

    def __init__(
        self,
        probabilities: Float[Tensor, " G"],
        d_in: int,
        *,
        batch_tokens: int = 1024,
        seed: int = 0,
    ) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._probabilities = probabilities
        self._batch_tokens = batch_tokens
        directions = torch.randn(len(probabilities), d_in, generator=self._generator)
        self.directions: Float[Tensor, "G d_in"] = directions / directions.norm(dim=1, keepdim=True)

    def __iter__(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        while True:
            yield self.sample_strengths(self._batch_tokens) @ self.directions

    def sample_strengths(self, n_tokens: int) -> Float[Tensor, "n_tokens G"]:
        shape = (n_tokens, len(self._probabilities))
        active = torch.rand(shape, generator=self._generator) < self._probabilities
        return torch.rand(shape, generator=self._generator) * active

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])
