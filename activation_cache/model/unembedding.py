"""The last product of a model apart from the rest: what it gives out can be very large."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class _Reached(Exception):
    """Ends a forward pass in front of the unembedding."""


@dataclass(frozen=True)
class Unembedding:
    """The module that makes logits, and what the model does to them afterwards."""

    hf: Any
    module: Any
    after: Callable[[Tensor], Tensor] | None
    """None where there is no such module, or something unknown follows it."""

    @classmethod
    @torch.no_grad()
    def of(cls, hf: Any) -> "Unembedding":
        """Found with a forward pass: after the product comes nothing, a scale, or a soft cap."""
        module = hf.get_output_embeddings()
        if module is None:
            return cls(hf, module, None)
        products: list[Tensor] = []
        handle = module.register_forward_hook(lambda _m, _a, y: products.append(y))
        tokens = torch.arange(min(8, hf.get_input_embeddings().weight.shape[0]))[None]
        logits = hf(tokens.to(hf.device), use_cache=False).logits
        handle.remove()
        (y,) = products
        scale = float((logits.double() * y.double()).sum() / y.double().square().sum())
        cap = getattr(hf.config.get_text_config(), "final_logit_softcapping", None)
        candidates: list[Callable[[Tensor], Tensor]] = [lambda x: x, lambda x: x * scale]
        candidates += [] if cap is None else [lambda x: cap * torch.tanh(x / cap)]
        is_close = partial(torch.allclose, rtol=8 * torch.finfo(logits.dtype).eps, atol=1e-6)
        known = (f for f in candidates if is_close(f(y).to(logits.dtype), logits))
        return cls(hf, module, next(known, None))

    @property
    def is_known(self) -> bool:
        return self.after is not None

    @torch.no_grad()
    def input_in(self, tokens: Int[Tensor, "batch pos"]) -> Tensor:
        """What goes into it in a forward pass, which ends there."""
        found: list[Tensor] = []

        def keep(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            found.append(args[0])
            raise _Reached

        handle = self.module.register_forward_pre_hook(keep)
        try:
            self.hf(tokens, use_cache=False)
        except _Reached:
            pass
        finally:
            handle.remove()
        return found[0]

    @torch.no_grad()
    def __call__(self, rows: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_vocab"]:
        assert self.after is not None
        return self.after(self.module(rows))
