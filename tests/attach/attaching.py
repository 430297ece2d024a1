"""Dictionaries for tests of what happens inside a model."""

from typing import Any

import torch
from torch import Tensor

import sae
from activation_cache import LanguageModel
from sae.architectures import TopKConfig
from sae.interop.pretrained import PretrainedConfig, PretrainedSAE

D_SAE = 48


def dictionary(model: LanguageModel, hook_name: str, cfg: Any = None) -> sae.SAE[Any]:
    """Random rows, and features that are a few times as large as the site's activations."""
    made = (cfg or TopKConfig(d_sae=D_SAE, k=6)).build(model.width(hook_name), seed=3)
    made.provenance = sae.Provenance(hook_name=hook_name)
    return made.to(model.dtype)


def active(features: Tensor) -> int:
    """The feature that is largest at the last position of the first sequence."""
    return int(features[0, -1].argmax())


def foreign(d_in: int, d_out: int, *, skips: bool = False, **settings: Any) -> PretrainedSAE:
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=generator).double()  # noqa: E731
    W_dec = draw(D_SAE, d_out)
    tensors = {"W_dec": W_dec / W_dec.norm(dim=1, keepdim=True)}
    tensors |= {"b_enc": 0.1 * draw(D_SAE), "b_dec": draw(d_out)}
    if not settings.get("tied"):
        tensors["W_enc"] = draw(d_in, D_SAE)
    for name, activation in (("threshold", "jumprelu"), ("r_mag", "gated"), ("b_mag", "gated")):
        if settings["activation"] == activation:
            tensors[name] = draw(D_SAE).abs()
    if skips:
        tensors["W_skip"] = 0.1 * draw(d_in, d_out)
    return PretrainedSAE(PretrainedConfig(d_sae=D_SAE, **settings), tensors).double()
