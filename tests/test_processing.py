"""Activations without their mean, as models with centred writing weights have them."""

import copy
import inspect
from typing import Any

import pytest
import torch
from small_models import LAYER, NAMES, RESID_MID, RESID_POST, assert_close
from torch import Tensor

import sae
import sae.architectures
from activation_cache import InputError, LanguageModel, load_model
from activation_cache.model.sites import WRITTEN_SITES
from activation_cache.model.small import small_model
from sae.architectures import ReLUConfig


@pytest.fixture(scope="module")
def centred(gpt2: LanguageModel) -> LanguageModel:
    return load_model(gpt2.name, device="cpu", processing="centred")


@pytest.fixture(scope="module")
def rewritten(gpt2: LanguageModel) -> LanguageModel:
    """The model whose writing weights are centred, as TransformerLens does it: raw."""
    hf = copy.deepcopy(gpt2.hf)
    hf.lm_head.weight = torch.nn.Parameter(hf.lm_head.weight.clone())  # not what is centred
    with torch.no_grad():
        for embedding in (hf.transformer.wte, hf.transformer.wpe):
            embedding.weight -= embedding.weight.mean(dim=-1, keepdim=True)
        for block in hf.transformer.h:
            for layer in (block.attn.c_proj, block.mlp.c_proj):
                layer.weight -= layer.weight.mean(dim=-1, keepdim=True)
                layer.bias -= layer.bias.mean()
    return LanguageModel("rewritten", hf, gpt2.tokenizer)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_those_of_a_model_with_centred_writing_weights(
    gpt2: LanguageModel,
    centred: LanguageModel,
    rewritten: LanguageModel,
    tokens: Tensor,
    name: str,
) -> None:
    ours, raw = (model.activations(tokens, [name])[name] for model in (centred, gpt2))
    assert_close(ours, rewritten.activations(tokens, [name])[name])
    is_centred = name.removeprefix(f"blocks.{LAYER}.") in WRITTEN_SITES
    assert torch.equal(ours, raw) != is_centred


@pytest.mark.parametrize("name", NAMES)
def test_edits_do_what_they_do_to_that_model(
    centred: LanguageModel, rewritten: LanguageModel, tokens: Tensor, name: str
) -> None:
    edits = {name: lambda x: 0.3 - x.tanh()}
    assert_close(centred.logits(tokens, edits), rewritten.logits(tokens, edits))


def test_a_model_without_layer_norm_has_no_centred_activations(llama: LanguageModel) -> None:
    model = load_model(llama.name, device="cpu", processing="centred")
    with pytest.raises(InputError, match=r"'centred' needs layer norm.*has RMS.*'raw'"):
        model.activations(torch.ones(1, 2, dtype=torch.int64), [RESID_POST])


def test_an_unknown_processing_is_refused() -> None:
    with pytest.raises(InputError, match=r"processing must be one of raw, centred, .*got 'folded'"):
        inspect.unwrap(load_model)("tiny", device="cpu", processing="folded")


def test_a_dictionary_of_centred_activations_is_not_measured_on_others(
    gpt2: LanguageModel, centred: LanguageModel, tokens: Tensor
) -> None:
    dictionary = sae.architectures.TopKConfig(d_sae=8, k=2).build(24)
    dictionary.provenance = dictionary.provenance.updated({"processing": "centred"})
    batches = [(tokens, torch.ones_like(tokens, dtype=torch.bool))]
    with pytest.raises(sae.InputError, match=r"'centred'.*'raw': use load_model.*'centred'"):
        sae.evaluate(dictionary, gpt2, batches, RESID_MID)
    assert sae.evaluate(dictionary, centred, batches, RESID_MID).fvu > 0


# Folded value biases -----------------------------------------------------------------------------

Z, V = f"blocks.{LAYER}.attn.hook_z", f"blocks.{LAYER}.attn.hook_v"


def by_hand(gpt2: LanguageModel) -> Tensor:
    """b_V + ln1.bias @ W_V, of GPT-2's product of queries, keys and values."""
    hf: Any = gpt2.hf
    block = hf.transformer.h[LAYER]
    weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
    n = len(bias) // 3
    return bias[2 * n :] + block.ln_1.bias @ weight[:, 2 * n :]


@pytest.fixture(scope="module")
def folded(gpt2: LanguageModel) -> LanguageModel:
    return load_model(gpt2.name, device="cpu", processing="folded_value_biases")


@pytest.mark.parametrize("name", NAMES)
def test_what_values_owe_to_biases_is_taken_where_values_are(
    gpt2: LanguageModel, folded: LanguageModel, tokens: Tensor, name: str
) -> None:
    ours, raw = (model.activations(tokens, [name])[name] for model in (folded, gpt2))
    if name in (Z, V):
        assert_close(raw - ours, by_hand(gpt2).expand_as(raw))
        assert by_hand(gpt2).norm() > 0.1 * raw.norm(dim=-1).mean()
    else:
        assert torch.equal(ours, raw)


def test_they_are_those_of_transformer_lens_compatibility_mode(
    gpt2: LanguageModel, folded: LanguageModel, tokens: Tensor
) -> None:
    bridge = load_model(gpt2.name, device="cpu").bridge
    bridge.enable_compatibility_mode(disable_warnings=True)
    _, cache = bridge.run_with_cache(tokens)
    assert_close(folded.activations(tokens, [Z])[Z], cache[Z].flatten(2))


def test_a_dictionary_of_folded_values_is_that_of_raw_ones_with_another_bias(
    gpt2: LanguageModel, folded: LanguageModel, tokens: Tensor
) -> None:
    dictionary = ReLUConfig(d_sae=64, l1_coeff=1.0).build(24)
    with torch.no_grad():
        dictionary.b_dec.normal_(generator=torch.Generator().manual_seed(0))
    shifted = copy.deepcopy(dictionary)
    with torch.no_grad():
        shifted.b_dec += by_hand(gpt2)
    dictionary.provenance = dictionary.provenance.updated({"processing": "folded_value_biases"})
    batches = [(tokens, torch.ones_like(tokens, dtype=torch.bool))]
    ours = sae.evaluate(dictionary, folded, batches, Z)
    theirs = sae.evaluate(shifted, gpt2, batches, Z)
    for metric in ("fvu", "l0", "delta_ce", "kl", "ce_spliced"):
        assert getattr(ours, metric) == pytest.approx(getattr(theirs, metric), rel=1e-4)


def test_of_models_without_biases_nothing_is_taken(llama: LanguageModel, tokens: Tensor) -> None:
    hf = copy.deepcopy(llama.hf)
    model = LanguageModel("llama", hf, llama.tokenizer, processing="folded_value_biases")
    assert torch.equal(model.activations(tokens, [Z])[Z], llama.activations(tokens, [Z])[Z])


def test_heads_that_share_their_values_share_what_is_taken(tiny: LanguageModel) -> None:
    model = small_model("qwen2", tiny.tokenizer)  # four heads of queries, two of values, with bias
    model.processing = "folded_value_biases"
    tokens = torch.arange(12).view(2, 6)
    taken = small_model("qwen2", tiny.tokenizer).activations(tokens, [Z])[Z]
    taken = taken - model.activations(tokens, [Z])[Z]
    hf: Any = model.hf
    bias = hf.model.layers[LAYER].self_attn.v_proj.bias.view(2, 8)
    assert_close(taken, bias.repeat_interleave(2, dim=0).flatten().expand_as(taken))
