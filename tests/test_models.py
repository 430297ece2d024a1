"""Reading activations, against TransformerLens' own cache.

The weights of the embedded model are not tested here: no number below depends on them.
"""

from typing import Any

import pytest
import torch
from small_models import NAMES, assert_close, flat
from torch import Tensor, nn

from activation_cache.model.language_model import LanguageModel
from activation_cache.model.loading import load_model
from activation_cache.model.sites import SITES


def test_every_site_holds_what_transformer_lens_has_in_its_cache(
    model: LanguageModel, tokens: Tensor
) -> None:
    names = [f"blocks.{layer}.{site}" for layer in range(model.n_layers) for site in SITES]
    found = model.activations(tokens, names)
    _, cache = model.bridge.run_with_cache(tokens)
    assert list(found) == names
    for name in names:
        assert found[name].abs().mean() > 1e-3
        assert_close(found[name], flat(cache[name]))


def test_the_residual_stream_is_a_sum(model: LanguageModel, tokens: Tensor) -> None:
    pre, mid, post, attn_out, mlp_out = model.activations(tokens, NAMES[:5]).values()
    assert_close(mid, pre + attn_out)
    assert_close(post, mid + mlp_out)


def test_the_stream_leaves_one_block_as_it_enters_the_next(
    model: LanguageModel, tokens: Tensor
) -> None:
    names = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"]
    post, pre = model.activations(tokens, names).values()
    assert torch.equal(post, pre)


def test_several_sites_in_one_pass_hold_what_single_passes_hold(
    model: LanguageModel, tokens: Tensor
) -> None:
    together = model.activations(tokens, NAMES)
    for name in NAMES:
        assert torch.equal(together[name], model.activations(tokens, [name])[name])


def test_sites_come_back_in_the_order_they_were_asked_for(
    tiny: LanguageModel, tokens: Tensor
) -> None:
    backwards = [*reversed(NAMES), NAMES[0]]  # one of them twice
    assert list(tiny.activations(tokens, backwards)) == list(reversed(NAMES))


@pytest.mark.parametrize(
    ("site", "modules_run"),
    [
        ("hook_resid_pre", []),
        ("attn.hook_z", []),
        ("hook_attn_out", ["attn"]),
        ("hook_resid_mid", ["attn"]),
        ("mlp.hook_post", ["attn"]),
        ("hook_mlp_out", ["attn", "mlp"]),
        ("hook_resid_post", ["attn", "mlp", "block 1"]),
    ],
)
def test_the_forward_pass_ends_at_the_last_site(
    tiny: LanguageModel, tokens: Tensor, site: str, modules_run: list[str]
) -> None:
    hf: Any = tiny.hf
    blocks = hf.transformer.h
    watched: dict[str, nn.Module] = {
        "attn": blocks[1].attn,
        "mlp": blocks[1].mlp,
        "block 1": blocks[1],
        "block 2": blocks[2],
        "block 3": blocks[3],
        "final norm": hf.transformer.ln_f,
        "unembedding": hf.lm_head,
    }
    finished: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: finished.append(name), prepend=True)
        for name, module in watched.items()
    ]
    try:
        tiny.activations(tokens, ["blocks.0.hook_resid_post", f"blocks.1.{site}"])
        assert finished == modules_run
        tiny.logits(tokens)
        assert set(finished) == set(watched)  # all of them do run where nothing stops them
    finally:
        for handle in handles:
            handle.remove()


def test_reading_leaves_no_hook_behind(tiny: LanguageModel, tokens: Tensor) -> None:
    before = tiny.logits(tokens)
    tiny.activations(tokens, NAMES)
    tiny.logits(tokens, dict.fromkeys(NAMES, torch.zeros_like))
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in tiny.hf.modules()
    )
    assert torch.equal(tiny.logits(tokens), before)


def test_an_edit_that_fails_leaves_no_hook_behind(tiny: LanguageModel, tokens: Tensor) -> None:
    def fail(x: Tensor) -> Tensor:
        raise ZeroDivisionError

    before = tiny.logits(tokens)
    for name in NAMES:
        with pytest.raises(ZeroDivisionError):
            tiny.logits(tokens, {name: fail})
    assert torch.equal(tiny.logits(tokens), before)


def test_activations_carry_no_gradient(tiny: LanguageModel, tokens: Tensor) -> None:
    assert not any(x.requires_grad for x in tiny.activations(tokens, NAMES).values())
    assert not any(parameter.requires_grad for parameter in tiny.hf.parameters())
    assert not tiny.hf.training


@pytest.mark.parametrize(
    ("fixture", "widths"),
    [
        # In the order of SITES: five residual widths, the MLP's, all heads together; queries, keys
        # and values, of which Llama has half as many; what the two norms normalise.
        ("tiny", [192, 192, 192, 192, 192, 768, 192, 192, 192, 192, 192, 192]),
        ("gpt2", [24, 24, 24, 24, 24, 96, 24, 24, 24, 24, 24, 24]),
        ("llama", [32, 32, 32, 32, 32, 48, 32, 32, 16, 16, 32, 32]),
    ],
)
def test_the_width_of_every_site(
    request: pytest.FixtureRequest, fixture: str, widths: list[int]
) -> None:
    model = request.getfixturevalue(fixture)
    assert [model.width(name) for name in NAMES] == widths


def test_layers_and_context_are_those_of_the_config(
    tiny: LanguageModel, gpt2: LanguageModel, llama: LanguageModel
) -> None:
    assert [model.n_layers for model in (tiny, gpt2, llama)] == [4, 2, 2]
    assert [model.max_context_size for model in (tiny, gpt2, llama)] == [128, 32, 64]


def test_bfloat16_is_respected(tokens: Tensor) -> None:
    model = load_model("tiny", device="cpu", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert {x.dtype for x in model.activations(tokens, NAMES).values()} == {torch.bfloat16}
    assert model.logits(tokens).dtype == torch.bfloat16
    # A dictionary is float32: what it returns is cast to what the model uses.
    edited = model.logits(tokens, dict.fromkeys(NAMES, lambda x: x.float()))
    assert edited.dtype == torch.bfloat16
    assert torch.equal(edited, model.logits(tokens))


def test_the_embedded_weights_are_loaded_in_float32_unless_asked_otherwise(
    tiny: LanguageModel,
) -> None:
    assert tiny.dtype == torch.float32
    assert tiny.device.type == "cpu"
    assert tiny.name == "tiny"


def test_the_bridge_leaves_the_model_as_it_was_and_does_not_copy_its_large_weights(
    tokens: Tensor,
) -> None:
    model = load_model("tiny", device="cpu")
    before = model.logits(tokens)
    assert_close(model.bridge(tokens), before)
    assert torch.equal(model.logits(tokens), before)
    transformer: Any = model.hf.transformer
    shared = {parameter.data_ptr() for parameter in model.bridge.parameters()}
    assert transformer.wte.weight.data_ptr() in shared
    assert transformer.h[1].mlp.c_fc.weight.data_ptr() in shared
