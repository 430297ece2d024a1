"""Edited passes that begin in the middle of a model, against passes from the text."""

import pytest
import torch
from small_models import LAYER, NAMES
from torch import Tensor, nn

from activation_cache import LanguageModel
from activation_cache.model.shared_pass import SharedPass
from activation_cache.model.small import small_model


def bent(x: Tensor) -> Tensor:
    return 0.3 - x.tanh()


def test_an_edited_pass_is_the_one_from_the_text_to_the_last_bit(
    model: LanguageModel, tokens: Tensor
) -> None:
    shared = model.shared_pass(tokens, NAMES)
    assert torch.equal(shared.clean, model.before_unembedding(tokens))
    found = model.activations(tokens, NAMES)
    for name in NAMES:
        assert torch.equal(shared.activations[name], found[name]), name
        for _ in range(2):  # the first leaves nothing behind for the second
            edited = shared.edited(name, bent)
            assert torch.equal(edited, model.before_unembedding(tokens, {name: bent})), name
    assert torch.equal(model.before_unembedding(tokens), shared.clean)


def test_blocks_in_front_of_the_site_are_not_computed_again(
    model: LanguageModel, tokens: Tensor
) -> None:
    name = f"blocks.{LAYER}.hook_mlp_out"
    shared = model.shared_pass(tokens, [name])
    shared.edited(name, bent)  # which finds out that this is exact
    computed: list[int] = []
    handles = [
        next(m for m in block.modules() if isinstance(m, nn.LayerNorm) or "RMS" in str(type(m)))
        .register_forward_hook(lambda *_, i=i: computed.append(i))
        for i, block in enumerate(model.blocks)
    ]  # fmt: skip
    shared.edited(name, bent)
    for handle in handles:
        handle.remove()
    assert computed and min(computed) == LAYER


def test_a_site_that_is_in_no_block_is_edited_in_a_pass_from_the_text(
    model: LanguageModel, tokens: Tensor
) -> None:
    shared = model.shared_pass(tokens, ["hook_embed"])
    expected = model.before_unembedding(tokens, {"hook_embed": bent})
    assert torch.equal(shared.edited("hook_embed", bent), expected)


def test_a_model_whose_blocks_share_more_than_the_residual_stream_is_run_from_the_text(
    model: LanguageModel, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if what the last block does depended on how often the first one was run."""
    name = f"blocks.{LAYER}.hook_resid_pre"
    monkeypatch.setattr(model, "exact_starts", {})
    monkeypatch.setattr(SharedPass, "_from", lambda self, *_: self.clean + 1)
    shared = model.shared_pass(tokens, [name])
    expected = model.before_unembedding(tokens, {name: bent})
    assert torch.equal(shared.edited(name, bent), expected)
    assert model.exact_starts == {LAYER: False}


@pytest.mark.parametrize("architecture", ["gemma2", "bloom", "mamba", "gptj", "gpt_neox", "opt"])
def test_what_other_architectures_give_is_the_same(
    tiny: LanguageModel, tokens: Tensor, architecture: str
) -> None:
    model = small_model(architecture, tiny.tokenizer)
    name = "blocks.2.hook_resid_pre"
    expected = model.before_unembedding(tokens, {name: bent})
    assert torch.equal(model.shared_pass(tokens, [name]).edited(name, bent), expected)
    assert model.exact_starts == {2: True}
