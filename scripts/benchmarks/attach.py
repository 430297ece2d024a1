"""Reading features inside a model, against a hook and an encoder by hand."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import sae
from benchmarks.harvest import load, site
from benchmarks.measure import BenchFlags, Row, measure
from sae.architectures import TopKConfig


def attach_rows(flags: BenchFlags) -> Iterator[Row]:
    """attach-read: a whole forward pass with a dictionary attached at one site."""
    model, hook_name = load(flags), site(flags)
    cfg = TopKConfig(d_sae=flags.d_sae or 24_576, k=flags.k or 32)
    dictionary = cfg.build(model.width(hook_name)).to(model.device)
    shape = (flags.forward_tokens // flags.context_size, flags.context_size)
    tokens = torch.randint(model.n_vocab, shape, device=model.device)
    block: Any = model.sites[hook_name].module

    @torch.no_grad()
    def by_hand() -> int:
        found: list[Tensor] = []
        handle = block.register_forward_pre_hook(lambda _module, args: found.append(args[0]))
        model.hf.base_model(tokens, use_cache=False)
        handle.remove()
        dictionary.encode_sparse(found[0])
        return tokens.numel()

    @torch.no_grad()
    def attached() -> int:
        with sae.attach(model, {hook_name: dictionary}) as inside:
            model.hf.base_model(tokens, use_cache=False)
            inside.codes(hook_name)
        return tokens.numel()

    measured = measure(attached, by_hand, flags.repeats, model.device)
    yield measured.row(
        flags,
        name="attach-read",
        device=model.device.type,
        d_in=dictionary.d_in,
        d_sae=dictionary.d_sae,
        k=cfg.k,
        batch=tokens.numel(),
    )
