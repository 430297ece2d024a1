"""Reading activations off a model, against the bare forward pass."""

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from activation_cache import HarvestConfig, LanguageModel, harvest, load_model
from activation_cache.source import ActivationSource
from benchmarks.measure import BenchFlags, Row, measure
from sae.runs.settings import DTYPES

GPT2_SHAPE = "gpt2-shape"


def load(flags: BenchFlags) -> LanguageModel:
    """The model to measure with; GPT-2's shape has random weights and the embedded tokenizer."""
    if flags.model != GPT2_SHAPE:
        return load_model(flags.model, device=flags.device, dtype=DTYPES[flags.dtype])
    from transformers import GPT2Config, GPT2LMHeadModel

    tiny = load_model("tiny", device=flags.device)
    hf: Any = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0))
    return LanguageModel(GPT2_SHAPE, hf.to(tiny.device, DTYPES[flags.dtype]), tiny.tokenizer)


def site(flags: BenchFlags) -> str:
    return f"blocks.{flags.layer}.hook_resid_pre"


def bare_forward(model: LanguageModel, layer: int) -> torch.nn.Module:
    """The model's body without the blocks from `layer` on, and without any hook."""
    body: Any = copy.copy(model.hf.base_model)
    body._modules = dict(body._modules)
    for name, blocks in body.named_children():
        if isinstance(blocks, torch.nn.ModuleList):
            body._modules[name] = blocks[:layer]
            body.config = copy.deepcopy(body.config)
            body.config.num_hidden_layers = layer
    return body


def harvest_rows(flags: BenchFlags) -> Iterator[Row]:
    """harvest-forward and harvest-stream."""
    model = load(flags)
    hook_name = site(flags)
    counted = flags.forward_tokens // flags.context_size * (flags.context_size - 1)
    cfg = HarvestConfig(
        hook_names=(hook_name,),
        context_size=flags.context_size,
        forward_tokens=flags.forward_tokens,
        batch_tokens=counted,
        buffer_tokens=max(flags.buffer_tokens, counted),
    )
    (tokens,) = islice(ActivationSource(model, cfg).token_blocks("train", repeat=False), 1)
    tokens = tokens.to(model.device)
    body = bare_forward(model, flags.layer)
    stream = iter(harvest(model, cfg))

    @torch.no_grad()
    def floor() -> int:
        body(tokens, use_cache=False)
        return tokens.numel()

    def forward() -> int:
        model.activations(tokens, [hook_name])
        return tokens.numel()

    def batch() -> int:
        next(stream)  # as many rows as one forward pass counts
        return tokens.numel()

    for name, work in (("harvest-forward", forward), ("harvest-stream", batch)):
        if flags.only in (None, name):
            measured = measure(work, floor, flags.repeats, model.device)
            yield measured.row(
                flags,
                name=name,
                device=model.device.type,
                d_in=model.width(hook_name),
                batch=tokens.numel(),
            )
