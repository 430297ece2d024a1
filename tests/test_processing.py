"""Activations without their mean, as models with centred writing weights have them."""

import copy
import inspect

import pytest
import torch
from small_models import LAYER, NAMES, RESID_MID, RESID_POST, assert_close
from torch import Tensor

import sae
import sae.architectures
from activation_cache import InputError, LanguageModel, load_model
from activation_cache.model.sites import WRITTEN_SITES


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
    with pytest.raises(InputError, match=r"processing must be one of raw, centred, got 'folded'"):
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
