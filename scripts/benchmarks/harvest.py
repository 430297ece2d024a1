"""Reading activations off a model, against the bare forward pass."""

import copy
import importlib.util
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch

from activation_cache import HarvestConfig, LanguageModel, harvest, load_model
from activation_cache.common.dtypes import DTYPES
from activation_cache.stream.source import ActivationSource
from benchmarks.measure import BenchFlags, Row, measure

GPT2_SHAPE = "gpt2-shape"


def load(flags: BenchFlags) -> LanguageModel:
    """The model to measure with; the weights of GPT-2's shape are random."""
    if flags.model != GPT2_SHAPE:
        return load_model(flags.model, device=flags.device, dtype=DTYPES[flags.dtype])
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = load_model("tiny").tokenizer
    hf: Any = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0))
    hf = hf.eval().requires_grad_(False).to(flags.on, DTYPES[flags.dtype])
    return LanguageModel(GPT2_SHAPE, hf, tokenizer)


def site(flags: BenchFlags) -> str:
    """The residual stream in front of a layer; GPT-2's shape is not for TransformerLens, which is
    not at hand on every machine with a GPU."""
    if flags.model == GPT2_SHAPE:
        return f"module:transformer.h.{flags.layer}:input"
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


def bare_forward_of(flags: BenchFlags, model: LanguageModel) -> Callable[[], int]:
    """One bare truncated forward pass over the head of the text."""
    cfg = harvest_config(flags)
    (tokens,) = islice(ActivationSource(model, cfg).token_blocks("train", repeat=False), 1)
    tokens = tokens.to(model.device)
    body = bare_forward(model, flags.layer)

    @torch.no_grad()
    def work() -> int:
        body(tokens, use_cache=False)
        return tokens.numel()

    return work


def harvest_config(flags: BenchFlags) -> HarvestConfig:
    """Batches of as many rows as one forward pass counts."""
    counted = flags.forward_tokens // flags.context_size * (flags.context_size - 1)
    return HarvestConfig(
        hook_names=(site(flags),),
        context_size=flags.context_size,
        forward_tokens=flags.forward_tokens,
        batch_tokens=counted,
        buffer_tokens=max(flags.buffer_tokens, counted),
    )


def harvest_rows(flags: BenchFlags) -> Iterator[Row]:
    """harvest-forward, harvest-stream and run-with-cache."""
    model = load(flags)
    hook_name = site(flags)
    cfg = harvest_config(flags)
    (tokens,) = islice(ActivationSource(model, cfg).token_blocks("train", repeat=False), 1)
    tokens = tokens.to(model.device)
    stream = iter(harvest(model, cfg))

    def forward() -> int:
        model.activations(tokens, [hook_name])
        return tokens.numel()

    def batch() -> int:
        next(stream)  # as many rows as one forward pass counts
        return tokens.numel()

    @torch.no_grad()
    def run_with_cache() -> int:
        name = f"blocks.{flags.layer}.hook_resid_pre"
        model.bridge.run_with_cache(tokens, names_filter=[name])
        return tokens.numel()

    floor = bare_forward_of(flags, model)
    for name, work in (
        ("harvest-forward", forward),
        ("harvest-stream", batch),
        ("run-with-cache", run_with_cache),
    ):
        if flags.only not in (None, name) or (name == "run-with-cache" and not has_bridge()):
            continue
        measured = measure(work, floor, flags.repeats, model.device)
        yield measured.row(
            flags,
            name=name,
            device=model.device.type,
            d_in=model.width(hook_name),
            batch=tokens.numel(),
        )


def has_bridge() -> bool:
    return importlib.util.find_spec("transformer_lens") is not None
