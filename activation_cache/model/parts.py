"""Activations that no module gives out by themselves: columns of a product, a norm without gain."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

EPSILONS = ("eps", "variance_epsilon", "epsilon")
"""What norms of different projects call the number that keeps them from dividing by zero."""

PYTORCH_EPS = 1e-5
"""That number where a norm does not name it."""


@dataclass(frozen=True)
class Columns:
    """Some components of the output: queries, keys or values of a product that makes all three."""

    indices: Tensor

    def read(self, given: Tensor, output: Tensor) -> Tensor:
        return output[..., self.indices]

    def write(self, given: Tensor, output: Tensor, part: Tensor) -> Tensor:
        written = output.clone()
        written[..., self.indices] = part
        return written


@dataclass(frozen=True)
class Normalized:
    """What a norm makes of its input before it applies gain and bias."""

    gain: Tensor
    bias: Tensor
    eps: float
    is_centred: bool
    """Layer norm subtracts the mean; RMS norm does not."""

    @classmethod
    def of(cls, norm: Any, width: int) -> "Normalized":
        """Find out what a norm does from what it makes of a few vectors, whatever its class."""
        weight = getattr(norm, "weight", None)
        like = {} if weight is None else {"device": weight.device, "dtype": weight.dtype}
        signs = torch.tensor([1.0, -1.0], **like).repeat(width)[:width]
        bias = norm(torch.zeros_like(signs[None]))[0]
        is_centred = torch.allclose(norm(signs[None]), norm(signs[None] + 4.0), rtol=1e-2)
        known = (getattr(norm, name) for name in EPSILONS if getattr(norm, name, None) is not None)
        eps = next(known, PYTORCH_EPS)
        bare = cls(torch.ones_like(signs), torch.zeros_like(signs), eps, is_centred)
        seen = (norm(signs[None])[0] - bias) / bare.read(signs[None], signs[None])[0]
        gains = [seen] if weight is None else [weight.detach(), 1 + weight.detach()]
        return cls(min(gains, key=lambda g: (g - seen).norm().item()), bias, eps, is_centred)

    def read(self, given: Tensor, output: Tensor) -> Tensor:
        x = given.to(torch.promote_types(given.dtype, torch.float32))
        x = x - x.mean(dim=-1, keepdim=True) if self.is_centred else x
        normalized = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps)
        return normalized.to(output.dtype)

    def write(self, given: Tensor, output: Tensor, part: Tensor) -> Tensor:
        # The difference, so that what is not edited stays as the model has it to the last bit.
        return output + (part - self.read(given, output)) * self.gain


def columns_of_qkv(attention: nn.Module, name: str, split: Callable[..., Sequence[Any]]) -> Any:
    """Which outputs of the product `name` are queries, keys and values: three index tensors.

    `split` is TransformerLens' own, which takes the weights apart. It is given weights that hold
    the number of their output, so that it tells where each one goes.
    """
    product: Any = getattr(attention, name)
    shape, has_bias = product.weight.shape, product.bias is not None
    is_linear = isinstance(product, nn.Linear)  # GPT-2 has the same the other way round
    numbers = torch.arange(shape[0] if is_linear else shape[1], dtype=torch.float32)
    numbered = (numbers[:, None] if is_linear else numbers).expand(shape).clone()
    stand_in = copy.copy(product)
    stand_in._parameters = {
        "weight": nn.Parameter(numbered),
        "bias": nn.Parameter(numbers) if has_bias else None,
    }
    pretended: Any = copy.copy(attention)
    pretended._modules = {**attention._modules, name: stand_in}
    return [linear.weight[:, 0].long() for linear in split(pretended)]
