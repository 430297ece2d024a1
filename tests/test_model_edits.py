"""Editing activations, against TransformerLens' own hooks."""

from collections.abc import Callable

import pytest
import torch
from small_models import LAYER, MLP_OUT, NAMES, RESID_MID, RESID_POST, assert_close
from torch import Tensor

from activation_cache.model.language_model import LanguageModel
from activation_cache.model.sites import SITES


def activations_under(
    model: LanguageModel,
    tokens: Tensor,
    edits: dict[str, Callable[[Tensor], Tensor]],
    hook_names: list[str],
) -> dict[str, Tensor]:
    """What passes the sites while the edits are in force."""
    found: dict[str, Tensor] = {}

    def reader(hook_name: str) -> Callable[[Tensor], Tensor]:
        def read(x: Tensor) -> Tensor:
            found[hook_name] = x.clone()
            return x

        return read

    model.logits(tokens, edits | {hook_name: reader(hook_name) for hook_name in hook_names})
    return found


# Editing -----------------------------------------------------------------------------------------


def test_the_identity_edit_of_every_site_changes_nothing(
    model: LanguageModel, tokens: Tensor
) -> None:
    edited = model.logits(tokens, dict.fromkeys(NAMES, lambda x: x))
    assert torch.equal(edited, model.logits(tokens))


def test_without_edits_the_logits_are_those_of_the_bare_model(
    model: LanguageModel, tokens: Tensor
) -> None:
    assert torch.equal(model.logits(tokens), model.hf(tokens).logits)
    assert torch.equal(model.logits(tokens, {}), model.hf(tokens).logits)


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
@pytest.mark.parametrize("site", [site for site in SITES if site != "hook_resid_mid"])
def test_edits_do_what_the_same_hooks_of_transformer_lens_do(
    model: LanguageModel, tokens: Tensor, site: str
) -> None:
    name = f"blocks.{LAYER}.{site}"
    # Elementwise, for the heads are apart there; bent, for a norm undoes any scale and offset.
    edited = model.logits(tokens, {name: lambda x: 0.3 - x.tanh()})
    expected = model.bridge.run_with_hooks(
        tokens, fwd_hooks=[(name, lambda x, hook: 0.3 - x.tanh())]
    )
    assert (edited - model.logits(tokens)).abs().max() > 1e-2
    assert_close(edited, expected)


def test_an_edit_sees_what_reading_its_site_returns(model: LanguageModel, tokens: Tensor) -> None:
    seen = activations_under(model, tokens, {}, NAMES)
    read = model.activations(tokens, NAMES)
    assert all(torch.equal(seen[name], read[name]) for name in NAMES)


# TransformerLens' bridge hooks the input of the second norm only, so that an edit of
# hook_resid_mid reaches the MLP and is then lost: the block adds the unedited stream. The next
# tests pin down that ours is carried.


def test_a_vector_added_between_attention_and_mlp_stays_in_the_residual_stream(
    model: LanguageModel, tokens: Tensor
) -> None:
    v = torch.linspace(-1.0, 1.0, model.width(RESID_MID))
    clean = activations_under(model, tokens, {}, [MLP_OUT, RESID_POST])
    moved = activations_under(model, tokens, {RESID_MID: lambda x: x + v}, [MLP_OUT, RESID_POST])
    mlp_change = moved[MLP_OUT] - clean[MLP_OUT]
    assert mlp_change.abs().max() > 1e-3
    assert_close(moved[RESID_POST] - clean[RESID_POST], v + mlp_change)


def test_with_the_stream_zeroed_before_the_mlp_only_the_mlp_output_is_left(
    model: LanguageModel, tokens: Tensor
) -> None:
    seen = activations_under(model, tokens, {RESID_MID: torch.zeros_like}, [MLP_OUT, RESID_POST])
    assert_close(seen[RESID_POST], seen[MLP_OUT])


def test_an_edit_in_place_between_attention_and_mlp_is_carried_too(
    model: LanguageModel, tokens: Tensor
) -> None:
    in_place = model.logits(tokens, {RESID_MID: lambda x: x.mul_(0.5)})
    assert_close(in_place, model.logits(tokens, {RESID_MID: lambda x: 0.5 * x}))


def test_edits_in_two_layers_act_together(model: LanguageModel, tokens: Tensor) -> None:
    # Zeroed behind block 1, nothing of the edit in block 0 is left.
    both = model.logits(
        tokens,
        {"blocks.0.hook_resid_mid": lambda x: x + 1.0, RESID_POST: torch.zeros_like},
    )
    one = model.logits(tokens, {RESID_POST: torch.zeros_like})
    assert torch.equal(both, one)


def test_edits_of_one_block_do_not_depend_on_the_order_they_are_named_in(
    model: LanguageModel, tokens: Tensor
) -> None:
    edits: dict[str, Callable[[Tensor], Tensor]] = {
        RESID_MID: lambda x: x + 1.0,
        RESID_POST: torch.zeros_like,
    }
    forwards = model.logits(tokens, edits)
    backwards = model.logits(tokens, dict(reversed(edits.items())))
    assert torch.equal(forwards, model.logits(tokens, {RESID_POST: torch.zeros_like}))
    assert torch.equal(backwards, forwards)


def test_gradients_flow_through_an_edit(tiny: LanguageModel, tokens: Tensor) -> None:
    v = torch.zeros(192, requires_grad=True)
    tiny.logits(tokens, {RESID_MID: lambda x: x + v})[0, -1, 0].backward()
    assert v.grad is not None
    assert v.grad.abs().max() > 0
