"""What TransformerLens' foldings of weights take from activations."""

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.types import Pass, Processing, foldings
from activation_cache.model.hooks import editing
from activation_cache.model.parts import Normalized
from activation_cache.model.proof import PROBE_SHAPE, TOLERANCE, probe
from activation_cache.model.sites import WRITTEN_SITES, SiteMap

VALUE_SITES = ("attn.hook_v", "attn.hook_z")
"""Sites that hold values, and what attention makes of them."""


def taken_at(
    sites: SiteMap, hook_name: str, processing: Processing, name: str
) -> Callable[[Tensor], Tensor | float]:
    """What processing takes from activations at a site, as a function of them."""
    folded = foldings(processing)
    if "centred" in folded and hook_name.endswith(WRITTEN_SITES):
        return lambda x: x.mean(dim=-1, keepdim=True)
    if "folded_value_biases" in folded and hook_name.endswith(VALUE_SITES):
        layer, kind = hook_name.removeprefix("blocks.").split(".", 1)
        bias = value_bias(sites, int(layer), name)[kind]
        return lambda _x: bias
    return lambda _x: 0.0


@torch.no_grad()
def value_bias(sites: SiteMap, layer: int, name: str) -> dict[str, Tensor]:
    """What every value of a layer owes to biases, by site: b_V + ln1.bias @ W_V.

    Attention mixes values with weights that sum to one, so the same vector is in what it makes of
    them. That is tried out: `InputError` where it does not hold, or the model does not show its
    values.
    """
    v, z, ln1 = (sites.inner(f"blocks.{layer}.{k}") for k in (*VALUE_SITES, "ln1.hook_normalized"))
    if v is None or z is None or ln1 is None or not isinstance(ln1.part, Normalized):
        raise InputError(
            f"processing 'folded_value_biases' needs the values of attention, and {name} does not "
            f"show them: load it without"
        )
    bias = ln1.part.bias.expand(1, -1)
    of_v = v.part.read(bias, v.module(bias))[0]
    before, after = (_z(sites, layer, taken) for taken in (torch.zeros_like(of_v), of_v))
    group = before.shape[-1] // len(of_v)  # query heads that share a head of values
    d_head = before.shape[-1] // sites.hf.config.get_text_config().num_attention_heads
    of_z = of_v.view(-1, d_head).repeat_interleave(group, dim=0).flatten()
    error = (before - after - of_z).norm() / before.norm()
    if not error <= 10 * TOLERANCE * torch.finfo(of_v.dtype).eps:
        raise InputError(
            f"processing 'folded_value_biases' does not hold in layer {layer} of {name}: taking "
            f"the bias from the values moves hook_z by something else ({error:.2g} of its size)"
        )
    return {VALUE_SITES[0]: of_v, VALUE_SITES[1]: of_z}


def _z(sites: SiteMap, layer: int, taken: Tensor) -> Tensor:
    """What the heads of a layer give out on the probe, with a vector taken from every value."""
    v, z = (sites[f"blocks.{layer}.{kind}"] for kind in VALUE_SITES)
    found: list[Tensor] = []
    with ExitStack() as hooks:
        hooks.enter_context(editing(v, lambda x: x - taken, Pass(PROBE_SHAPE)))
        hooks.enter_context(editing(z, lambda x: found.append(x), Pass(PROBE_SHAPE)))
        sites.hf.base_model(probe(sites.hf), use_cache=False)
    return found[0]
