"""The activations of a text at one site, for whoever reads them several times."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache import LanguageModel
from activation_cache.common.types import TextBatch


@dataclass(frozen=True)
class SiteRows:
    """The rows [tokens, d_in] of each batch that count. They are computed each time that they are
    gone through: passes up to the site cost less memory than all their numbers."""

    model: LanguageModel
    hook_name: str
    batches: Sequence[TextBatch]

    @torch.no_grad()
    def __iter__(self) -> Iterator[Float[Tensor, "_ d_in"]]:
        for batch in self.batches:
            x = self.model.activations(batch.tokens, [self.hook_name])[self.hook_name]
            yield x[batch.counted.to(x.device)]
