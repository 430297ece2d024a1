"""Features inside a model and over a text, against encoding by hand."""

import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import sae
import sae.features
from activation_cache import LanguageModel
from benchmarks.harvest import load, site
from benchmarks.measure import BenchFlags, Row, measure
from sae.architectures import TopKConfig


def attach_rows(flags: BenchFlags) -> Iterator[Row]:
    """attach-read: a whole forward pass with a dictionary attached at one site."""
    model, dictionary = with_dictionary(flags)
    hook_name = str(dictionary.hook_name)
    ((tokens, _),) = random_text(flags, model, flags.forward_tokens)
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
        with sae.attach(model, dictionary) as inside:
            model.hf.base_model(tokens, use_cache=False)
            inside.codes(hook_name)
        return tokens.numel()

    measured = measure(attached, by_hand, flags.repeats, model.device)
    yield row_of(flags, "attach-read", dictionary, measured)


def feature_rows(flags: BenchFlags) -> Iterator[Row]:
    """features-collect: a folder of features from --cache-tokens tokens."""
    model, dictionary = with_dictionary(flags)
    text = random_text(flags, model, flags.cache_tokens)
    hook_name = str(dictionary.hook_name)
    n_tokens = sum(tokens.numel() for tokens, *_ in text)

    @torch.no_grad()
    def by_hand() -> int:
        for tokens, counted, *_ in text:
            dictionary.encode_sparse(model.activations(tokens, [hook_name])[hook_name][counted])
        return n_tokens

    def collected() -> int:
        with tempfile.TemporaryDirectory() as folder:
            sae.features.collect(model, dictionary, text, f"{folder}/features", progress=False)
        return n_tokens

    measured = measure(collected, by_hand, flags.repeats, model.device)
    yield row_of(flags, "features-collect", dictionary, measured)


def with_dictionary(flags: BenchFlags) -> tuple[LanguageModel, sae.SAE[Any]]:
    model, hook_name = load(flags), site(flags)
    cfg = TopKConfig(d_sae=flags.d_sae or 24_576, k=flags.k or 32)
    dictionary = cfg.build(model.width(hook_name)).to(model.device)
    dictionary.provenance = sae.Provenance(hook_name=hook_name)
    return model, dictionary


def random_text(
    flags: BenchFlags, model: LanguageModel, n_tokens: int
) -> list[tuple[Tensor, Tensor]]:
    """Random tokens in forward passes of whole blocks, of which all but the first count."""
    n_blocks = max(1, flags.forward_tokens // flags.context_size)
    shape = (n_blocks, flags.context_size)
    counted = torch.ones(shape, dtype=torch.bool, device=model.device)
    counted[:, 0] = False
    n_batches = -(-n_tokens // counted.numel())
    draw = (torch.randint(model.n_vocab, shape, device=model.device) for _ in range(n_batches))
    return [(tokens, counted) for tokens in draw]


def row_of(flags: BenchFlags, name: str, dictionary: sae.SAE[Any], measured: Any) -> Row:
    return measured.row(
        flags,
        name=name,
        device=dictionary.device.type,
        d_in=dictionary.d_in,
        d_sae=dictionary.d_sae,
        k=dictionary.cfg.k,
        batch=flags.forward_tokens,
    )
