"""Gradients inside a model with dictionaries, dictionaries of every kind, and transcoders."""

from typing import Any

import pytest
import torch
from attaching import D_SAE, active, dictionary, foreign
from small_models import LAYER, MLP_OUT, NAMES, assert_close
from torch import Tensor

import sae
from activation_cache import LanguageModel
from sae.architectures import ReLUConfig, TopKConfig

RESID_PRE = f"blocks.{LAYER}.hook_resid_pre"
LN2 = f"blocks.{LAYER}.ln2.hook_normalized"


# Gradients ---------------------------------------------------------------------------------------


def step_of(model: LanguageModel) -> float:
    """For finite differences. Llama's norm computes in float32, whatever its weights are."""
    return 1e-2 if hasattr(model.hf, "model") else 1e-4


@pytest.mark.parametrize("cfg", [TopKConfig(d_sae=D_SAE, k=6), ReLUConfig(d_sae=D_SAE)])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_gradients_with_respect_to_features_are_finite_differences(
    model: LanguageModel, tokens: Tensor, cfg: Any, is_replaced: bool
) -> None:
    with sae.attach(model, dictionary(model, RESID_PRE, cfg)) as inside:
        if is_replaced:
            inside.replace(RESID_PRE)
        logit = model.logits(tokens)[1, -1, 11]
        features = inside.features(RESID_PRE)
        (gradient,) = torch.autograd.grad(logit, features)
        feature, step = active(features), step_of(model)
        found: list[float] = []
        for sign in (1, -1):
            inside.add(RESID_PRE, feature, sign * step, positions=6)
            found.append(model.logits(tokens)[1, -1, 11].item())
            inside.add(RESID_PRE, feature, -sign * step, positions=6)
        by_difference = (found[0] - found[1]) / (2 * step)
        assert gradient[1, 6, feature].item() == pytest.approx(by_difference, rel=1e-2, abs=1e-6)


def test_gradients_run_from_features_to_features_and_through_the_dictionary(
    model: LanguageModel, tokens: Tensor
) -> None:
    early, late = (dictionary(model, name, ReLUConfig(d_sae=D_SAE)) for name in NAMES[:3:2])
    with sae.attach(model, [early, late]) as inside:
        logit = model.logits(tokens)[0, -1, 11]
        features = inside.features(NAMES[2])
        feature = active(features)
        upstream = inside.features(NAMES[0])
        (edge,) = torch.autograd.grad(features[0, -1, feature], upstream, retain_graph=True)
        step = step_of(model)
        inside.add(NAMES[0], 7, step)
        model.logits(tokens)
        moved = (inside.features(NAMES[2]) - features)[0, -1, feature].item()
        assert edge[0, :, 7].sum().item() == pytest.approx(moved / step, rel=1e-2)
        logit.backward()
        assert upstream.grad is not None and upstream.grad.abs().sum() > 0
    for parameter in model.hf.parameters():
        assert parameter.grad is None


def test_a_gradient_through_attached_dictionaries_is_the_model_s_own(
    model: LanguageModel, tokens: Tensor
) -> None:
    def gradient() -> Tensor:
        embedded = model.hf.get_input_embeddings()(tokens).detach().requires_grad_()
        logits = model.hf(inputs_embeds=embedded, use_cache=False).logits
        return torch.autograd.grad(logits[0, -1, 11], embedded)[0]

    with sae.attach(model, dictionary(model, RESID_PRE, ReLUConfig(d_sae=D_SAE))):
        attached = gradient()
    assert torch.allclose(attached, gradient(), rtol=1e-9, atol=1e-12)


# Dictionaries of others, and transcoders ---------------------------------------------------------

FOREIGN = {
    "layer norm": {"activation": "topk", "k": 5, "normalization": "layer_norm"},
    "constant norm": {"activation": "relu", "normalization": "constant_norm"},
    "bias taken back": {"activation": "relu", "reverses_bias": True},
    "jumprelu": {"activation": "jumprelu"},
    "gated": {"activation": "gated"},
    "matching pursuit": {"activation": "matching_pursuit", "k": 4, "tied": True},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_dictionaries_of_every_kind_are_edited_by_what_they_rebuild(
    model: LanguageModel, tokens: Tensor, kind: str
) -> None:
    width = model.width(RESID_PRE)
    its = foreign(width, width, **FOREIGN[kind])
    x = model.activations(tokens, [RESID_PRE])[RESID_PRE]
    acts = its.encode(x)
    feature = active(acts)
    edited = acts.clone()
    edited[..., feature] = 1.5
    change = its.decode_for(x, edited) - its.decode_for(x, acts)
    for with_graph in (False, True):
        with torch.set_grad_enabled(with_graph), sae.attach(model, {RESID_PRE: its}) as inside:
            inside.set(RESID_PRE, feature, 1.5)
            ours = model.logits(tokens)
        theirs = model.logits(tokens, {RESID_PRE: lambda x: x + change})
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6), with_graph


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_transcoder_reads_at_one_site_and_writes_at_another(
    request: pytest.FixtureRequest, tokens: Tensor, name: str, skips: bool
) -> None:
    model: LanguageModel = request.getfixturevalue(name)
    d_in, d_out = model.width(LN2), model.width(MLP_OUT)
    its = foreign(d_in, d_out, skips=skips, activation="relu", subtracts_b_dec=False).float()
    its.provenance = sae.Provenance(hook_name=LN2, hook_name_out=MLP_OUT)
    x = model.activations(tokens, [LN2])[LN2]
    with torch.no_grad(), sae.attach(model, its) as inside:
        assert torch.equal(model.logits(tokens), model.logits(tokens))
        feature = active(inside.features(LN2))
        assert torch.equal(inside.features(LN2), its.encode(x))
        inside.ablate(LN2, feature)
        ablated = model.logits(tokens)
        inside.reset()
        inside.replace(LN2)
        replaced = model.logits(tokens)
    taken = its.encode(x)[..., feature, None] * its.W_dec[feature]
    assert_close(ablated, model.logits(tokens, {MLP_OUT: lambda y: y - taken}))
    assert_close(replaced, model.logits(tokens, {MLP_OUT: lambda _: its(x)}))
