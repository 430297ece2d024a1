"""What a direction at a site does to the logits by itself, past all later layers."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.model.parts import Normalized
from activation_cache.model.sites import EMBEDDING, WRITTEN_SITES, SiteMap

THROUGH_A_PRODUCT = ("mlp.hook_post", "attn.hook_z")
"""Sites that an output matrix brings into the residual stream."""


def direct_effect(sites: SiteMap, hook_name: str) -> Callable[[Tensor], Tensor]:
    """A linear map from directions [n, width] at a site to logits [n, d_vocab].

    It is the way through the output matrix, where there is one, the final norm and the
    unembedding. The norm's division is left out, as it is another for each token: these are
    logits for a residual stream of root mean square 1 (around its mean, for layer norm), to first
    order, for a direction at right angles to the stream. From each row the mean over the
    vocabulary is taken, which changes no probability. `InputError` for sites of no known effect.
    """
    site, norm = sites[hook_name], sites.inner("ln_final.hook_in")
    unembedding = sites.hf.get_output_embeddings()
    is_written = hook_name.endswith(WRITTEN_SITES) or hook_name == EMBEDDING
    if norm is None or unembedding is None:
        raise InputError(f"{sites.name} shows no final norm and unembedding")
    if not is_written and not (hook_name.endswith(THROUGH_A_PRODUCT) and site.is_input):
        raise InputError(f"{hook_name} is not added to the residual stream by a matrix")
    width = sites.hf.get_input_embeddings().weight.shape[-1]
    last = Normalized.of(norm.module, width)

    @torch.no_grad()
    def logits(rows: Float[Tensor, "n width"]) -> Float[Tensor, "n d_vocab"]:
        rows = rows.to(last.gain.device, last.gain.dtype)
        if not is_written:
            rows = site.module(rows) - site.module(torch.zeros_like(rows))
        rows = rows - rows.mean(dim=1, keepdim=True) if last.is_centred else rows
        made = unembedding(rows * last.gain)
        made = made - unembedding(torch.zeros_like(rows[:1]))
        return made - made.mean(dim=1, keepdim=True)

    return logits
