"""Dictionaries inside a running model: what they read, what an edit does, and what stays."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from attaching import D_SAE, active, dictionary, foreign
from small_models import LAYER, MLP_OUT, NAMES, RESID_MID, RESID_POST
from torch import Tensor

import sae
from activation_cache import LanguageModel, load_model
from sae.architectures import ReLUConfig, TopKConfig

RESID_PRE = f"blocks.{LAYER}.hook_resid_pre"
LN2 = f"blocks.{LAYER}.ln2.hook_normalized"


@contextmanager
def by_hand(model: LanguageModel, hook_name: str, change: Any) -> Iterator[None]:
    """`change(x)` in place of what goes into a block of the Hugging Face model."""
    assert hook_name == RESID_PRE
    layers = model.hf.transformer.h if hasattr(model.hf, "transformer") else model.hf.model.layers

    def before(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (change(args[0]), *args[1:])

    handle = layers[LAYER].register_forward_pre_hook(before)
    yield
    handle.remove()


def n_hooks(model: LanguageModel) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(m, kind)) for m in model.hf.modules() for kind in kinds)


# Without an edit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("with_graph", [False, True])
@pytest.mark.parametrize("processing", ["raw", "centred+folded_value_biases"])
def test_without_an_edit_the_logits_are_the_model_s_to_the_last_bit(
    gpt2: LanguageModel, tokens: Tensor, processing: Any, with_graph: bool
) -> None:
    model = load_model(gpt2.name, device="cpu", processing=processing)
    attached = [dictionary(gpt2, name) for name in NAMES]
    for its in attached:
        its.provenance = its.provenance.updated({"processing": processing})
    with torch.set_grad_enabled(with_graph), sae.attach(model, attached) as inside:
        assert torch.equal(model.logits(tokens), gpt2.logits(tokens))
        for name in NAMES:
            x = model.activations(tokens, [name])[name]
            its = next(d for d in attached if d.hook_name == name)
            assert torch.equal(inside.features(name), its.encode(x))


def test_without_an_edit_a_model_in_bfloat16_computes_what_it_does(
    gpt2: LanguageModel, tokens: Tensor
) -> None:
    model = load_model(gpt2.name, device="cpu", dtype=torch.bfloat16)
    with sae.attach(model, dictionary(model, RESID_POST).float()) as inside:
        with_dictionary = model.logits(tokens)
        inside.add(RESID_POST, 0, 50.0)
        assert model.logits(tokens).dtype == torch.bfloat16
    assert torch.equal(with_dictionary, model.logits(tokens))


def test_a_dictionary_that_rebuilds_everything_changes_nothing(
    model: LanguageModel, tokens: Tensor
) -> None:
    width = model.width(RESID_MID)
    both_signs = torch.cat([torch.eye(width), -torch.eye(width)]).double()
    identity = dictionary(model, RESID_MID, ReLUConfig(d_sae=2 * width, tied=True))
    identity.W_dec.data.copy_(both_signs)
    with sae.attach(model, identity) as inside:
        inside.replace(RESID_MID)
        assert torch.allclose(model.logits(tokens), model.logits(tokens), atol=1e-12)
        replaced = model.logits(tokens)
    assert torch.allclose(replaced, model.logits(tokens), rtol=1e-9, atol=1e-9)


# Edits -------------------------------------------------------------------------------------------

EVERYWHERE = [True] * 9
POSITIONS = {
    "all": (None, EVERYWHERE),
    "one": (4, [i == 4 for i in range(9)]),
    "last": (-1, [i == 8 for i in range(9)]),
    "range": (slice(2, -1, 2), [i in (2, 4, 6) for i in range(9)]),
    "several": ([0, 7], [i in (0, 7) for i in range(9)]),
    "mask": (torch.arange(9) > 5, [i > 5 for i in range(9)]),
}


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("edit", ["set", "ablate", "scale", "add"])
def test_an_edit_is_what_a_forward_pass_by_hand_gives(
    model: LanguageModel, tokens: Tensor, edit: str, positions: str
) -> None:
    at, mask = POSITIONS[positions]
    its = dictionary(model, RESID_PRE, ReLUConfig(d_sae=D_SAE))
    with torch.no_grad(), sae.attach(model, its) as inside:
        model.logits(tokens)
        feature = int(inside.features(RESID_PRE)[0, [2, 4, 7, 8]].amin(dim=0).argmax())
        value = () if edit == "ablate" else (2.5,)
        getattr(inside, edit)(RESID_PRE, feature, *value, positions=at)
        ours = model.logits(tokens)

    def change(x: Tensor) -> Tensor:
        before = its.encode(x)[..., feature, None]
        after = {"set": 2.5, "ablate": 0.0, "scale": before * 2.5, "add": before + 2.5}[edit]
        return x + torch.tensor(mask)[:, None] * (after - before) * its.W_dec[feature]

    with by_hand(model, RESID_PRE, change):
        theirs = model.logits(tokens)
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(ours, model.logits(tokens), rtol=1e-3)


def test_ablating_a_feature_that_is_not_active_changes_no_bit(
    model: LanguageModel, tokens: Tensor
) -> None:
    with torch.no_grad(), sae.attach(model, dictionary(model, RESID_PRE)) as inside:
        before = model.logits(tokens)
        silent = int((inside.features(RESID_PRE) == 0).all(dim=(0, 1)).nonzero()[0])
        inside.ablate(RESID_PRE, silent)
        inside.scale(RESID_PRE, silent, 100.0)
        assert torch.equal(model.logits(tokens), before)


def test_edits_are_made_in_turn_and_forgotten_on_reset(
    model: LanguageModel, tokens: Tensor
) -> None:
    its = dictionary(model, RESID_PRE)
    with torch.no_grad(), sae.attach(model, its) as inside:
        clean = model.logits(tokens)
        inside.set(RESID_PRE, [1, 2], torch.tensor([3.0, 4.0]))
        inside.scale(RESID_PRE, 1, 2.0)
        twice = model.logits(tokens)
        inside.reset()
        assert torch.equal(model.logits(tokens), clean)
        inside.set(RESID_PRE, 1, 6.0)
        inside.set(RESID_PRE, 2, 4.0)
        assert torch.allclose(model.logits(tokens), twice, rtol=1e-9)


def test_replacing_takes_away_what_is_not_explained_at_the_positions_alone(
    model: LanguageModel, tokens: Tensor
) -> None:
    its = dictionary(model, RESID_PRE)
    with torch.no_grad(), sae.attach(model, its) as inside:
        inside.replace(RESID_PRE, slice(1, None))
        ours = model.logits(tokens)

    def change(x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], its(x[:, 1:])], dim=1)

    with by_hand(model, RESID_PRE, change):
        assert torch.allclose(ours, model.logits(tokens), rtol=1e-9, atol=1e-9)


def test_a_later_site_sees_what_was_done_at_an_earlier_one(
    model: LanguageModel, tokens: Tensor
) -> None:
    saes = [dictionary(model, name) for name in (RESID_PRE, RESID_MID, MLP_OUT)]
    with torch.no_grad(), sae.attach(model, saes) as inside:
        model.logits(tokens)
        before = inside.features(MLP_OUT)
        inside.add(RESID_PRE, 5, 9.0)
        model.logits(tokens)
        assert not torch.allclose(inside.features(MLP_OUT), before)
        inside.reset(RESID_PRE)
        model.logits(tokens)
        assert torch.equal(inside.features(MLP_OUT), before)
        assert torch.equal(inside.codes(MLP_OUT).dense(), before)


# Padding and generation --------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_has_no_features_and_no_edits(
    model: LanguageModel, tokens: Tensor, side: str
) -> None:
    short = tokens[1:, :6]
    pad = torch.full((1, 3), 7)
    parts = (pad, short) if side == "left" else (short, pad)
    batch = torch.cat([tokens[:1], torch.cat(parts, dim=1)])
    mask = torch.ones_like(batch)
    of_pad = slice(0, 3) if side == "left" else slice(6, 9)
    mask[1, of_pad] = 0
    places = (mask.cumsum(1) - 1).clamp(min=0)
    its = dictionary(model, RESID_PRE)
    with torch.no_grad(), sae.attach(model, its) as inside:
        inside.add(RESID_PRE, 5, 9.0)
        inside.replace(RESID_PRE)
        padded = model.hf(batch, attention_mask=mask, position_ids=places).logits
        features = inside.features(RESID_PRE)
        alone = model.logits(short)
        assert not features[1, of_pad].any()
        kept = mask[1].bool()
        assert torch.allclose(features[1, kept], inside.features(RESID_PRE)[0], atol=1e-9)
        assert torch.allclose(padded[1, kept], alone[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("positions", [None, 5, 10, slice(7, 11), torch.arange(12) % 2 == 0])
def test_steering_is_the_same_with_and_without_the_key_value_cache(
    model: LanguageModel, tokens: Tensor, positions: Any
) -> None:
    its = dictionary(model, RESID_PRE)

    def generated(use_cache: bool) -> list[list[int]]:
        more = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        return model.hf.generate(tokens, use_cache=use_cache, **more).tolist()

    with sae.attach(model, its) as inside:
        inside.add(RESID_PRE, [3, 4], 40.0, positions=positions)
        steered = generated(use_cache=True)
        assert steered == generated(use_cache=False)
    assert steered != generated(use_cache=True)


# Other kinds of models ---------------------------------------------------------------------------


def test_a_model_of_hugging_face_is_used_as_it_is_and_left_as_it_was(
    gpt2: LanguageModel, tokens: Tensor
) -> None:
    hf: Any = copy.deepcopy(gpt2.hf).requires_grad_(True).train()
    hf.transformer.h[0].eval()
    modes = [module.training for module in hf.modules()]
    with sae.attach(hf, dictionary(gpt2, RESID_POST)) as inside:
        assert [module.training for module in hf.modules()] == modes
        hf.eval()
        with torch.no_grad():
            assert torch.equal(hf(tokens).logits, gpt2.logits(tokens))
            assert inside.features(RESID_POST).shape == (*tokens.shape, D_SAE)
    assert all(parameter.requires_grad for parameter in hf.parameters())


def test_a_transformer_bridge_is_edited_as_the_model_that_it_runs(
    gpt2: LanguageModel, tokens: Tensor
) -> None:
    its, bridge = dictionary(gpt2, RESID_MID), gpt2.bridge
    with torch.no_grad(), sae.attach(bridge, its) as inside:
        bridge(tokens)
        features = inside.features(RESID_MID)
        inside.set(RESID_MID, active(features), 20.0)
        of_bridge = bridge(tokens)
    with torch.no_grad(), sae.attach(gpt2, its) as inside:
        inside.set(RESID_MID, active(features), 20.0)
        assert torch.allclose(of_bridge, gpt2.logits(tokens), rtol=1e-3, atol=1e-4)
        assert torch.allclose(features, inside.features(RESID_MID), atol=1e-4)


# Nothing stays -----------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_attached_many_times_leaves_no_hook(
    gpt2: LanguageModel, tokens: Tensor, times: int
) -> None:
    its = [dictionary(gpt2, name) for name in (RESID_MID, MLP_OUT)]
    before, clean = n_hooks(gpt2), gpt2.logits(tokens)
    for _ in range(times):
        with sae.attach(gpt2, its) as inside:
            inside.ablate(RESID_MID, 0)
    assert n_hooks(gpt2) == before
    assert torch.equal(gpt2.logits(tokens), clean)


@pytest.mark.parametrize("error", [RuntimeError("in the model"), KeyboardInterrupt()])
def test_whatever_is_raised_nothing_stays_behind(
    gpt2: LanguageModel, tokens: Tensor, error: BaseException
) -> None:
    def fail(_module: Any, _args: Any) -> None:
        raise error

    before, clean = n_hooks(gpt2), gpt2.logits(tokens)
    handle = gpt2.hf.lm_head.register_forward_pre_hook(fail)
    with pytest.raises(type(error)), sae.attach(gpt2, dictionary(gpt2, RESID_MID)) as inside:
        inside.add(RESID_MID, 1, 9.0)
        gpt2.logits(tokens)
    handle.remove()
    assert n_hooks(gpt2) == before
    assert torch.equal(gpt2.logits(tokens), clean)


# Refusals ----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_in_one_line(gpt2: LanguageModel, tokens: Tensor) -> None:
    its = dictionary(gpt2, RESID_MID)
    homeless = TopKConfig(d_sae=8, k=2).build(24)
    wide = TopKConfig(d_sae=8, k=2).build(25)
    backwards = foreign(24, 24, activation="relu").float()
    backwards.provenance = sae.Provenance(hook_name=MLP_OUT, hook_name_out=LN2)
    for attached, message in (
        (homeless, "does not know its site: give {hook_name: dictionary}"),
        ([its, its], "two dictionaries at blocks.1.hook_resid_mid"),
        ([], "no dictionary to attach"),
        ({RESID_MID: wide}, "for activations of width 25, and blocks.1.hook_resid_mid .* has 24"),
    ):
        with pytest.raises(sae.InputError, match=message), sae.attach(gpt2, attached):
            pass
    with pytest.raises(sae.InputError, match="must be of load_model"), sae.attach(object(), its):
        pass
    with sae.attach(gpt2, its) as inside:
        with pytest.raises(sae.InputError, match="run the model first"):
            inside.features(RESID_MID)
        with pytest.raises(sae.InputError, match=r"no dictionary at 'blocks.1': give"):
            inside.ablate("blocks.1", 0)
        with pytest.raises(sae.InputError, match=r"no feature 48 .*give 0 to 47"):
            inside.ablate(RESID_MID, [0, 48])
        inside.set(RESID_MID, 0, torch.ones(5))
        with pytest.raises(sae.InputError, match=r"value of shape \[5\] does not fit"):
            gpt2.logits(tokens)
        inside.reset()
        inside.ablate(RESID_MID, 0, positions=torch.ones(3, 9, dtype=torch.bool))
        with pytest.raises(sae.InputError, match=r"mask of positions has shape .*got \[3, 9\]"):
            gpt2.logits(tokens)
    with pytest.raises(sae.InputError, match="passes before"), sae.attach(gpt2, backwards):
        gpt2.logits(tokens)
