"""Twins: dictionaries of which one matrix stays as random as it starts."""

import copy
from functools import cache

import pytest
import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.architectures import ARCHITECTURES, TopKConfig
from sae.runs.settings import RunSettings
from sae.toy import Independent, SparseFeatures
from sae.training import TrainConfig, Trainer, train
from sae.training.config import Frozen
from sae.training.weights import FROZEN

N_STEPS, BATCH = 40, 128


@cache
def batches() -> list[Tensor]:
    """Sums of about five of 40 directions in 12 dimensions."""
    features = SparseFeatures(Independent(torch.full((40,), 0.12)), 12, batch_tokens=BATCH, seed=0)
    stream = iter(features)
    return [next(stream) + 0.1 for _ in range(N_STEPS)]


def begun(name: str, frozen: Frozen) -> Trainer:
    """At its start, with AuxK: features are dead after four batches."""
    sae = ARCHITECTURES[name](d_sae=48).build(12, seed=3)
    cfg = TrainConfig(n_tokens=N_STEPS * BATCH, dead_after_tokens=4 * BATCH, frozen=frozen)
    trainer = Trainer(sae, cfg)
    trainer.initialise(torch.cat(batches()[:8]))
    return trainer


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: of.detach().clone() for name, of in trainer.sae.named_parameters()}


@pytest.mark.parametrize("frozen", ["decoder", "encoder"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_frozen_stays_to_the_last_bit_and_all_else_is_trained(
    name: str, frozen: Frozen
) -> None:
    trainer = begun(name, frozen)
    before = weights(trainer)
    records = [trainer.step(x) for x in batches()]
    for its_name, after in weights(trainer).items():
        is_same = torch.equal(before[its_name], after)
        assert is_same == (its_name == FROZEN[frozen]), its_name
    fvu = torch.stack([record.fvu for record in records])
    assert fvu[-10:].mean() < 0.9 * fvu[:5].mean()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_frozen_decoder_has_the_random_unit_rows_of_its_seed(name: str) -> None:
    trainer = begun(name, "decoder")
    fresh = ARCHITECTURES[name](d_sae=48).build(12, seed=3)
    for x in batches()[:5]:
        trainer.step(x)
    trainer.finish()
    assert torch.equal(trainer.sae.W_dec, fresh.W_dec)


def test_a_frozen_encoder_has_the_random_rows_of_its_seed_at_one_length() -> None:
    """That of the start, at which they rebuild best; the decoder's are brought to length 1."""
    trainer = begun("relu", "encoder")
    fresh = ARCHITECTURES["relu"](d_sae=48).build(12, seed=3)
    for x in batches()[:5]:
        trainer.step(x)
    rows = trainer.sae.W_enc_rows.detach()
    lengths = rows.norm(dim=1, keepdim=True)
    assert lengths.max() / lengths.min() == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose(rows / lengths, fresh.W_dec.detach(), atol=1e-6)
    assert torch.allclose(trainer.sae.W_dec.norm(dim=1), torch.ones(48), atol=1e-6)


@pytest.mark.parametrize("frozen", ["decoder", "encoder"])
def test_the_clipped_norm_is_that_of_the_gradients_of_what_is_trained(frozen: Frozen) -> None:
    """And what is frozen has none, before the step and after it."""
    trainer = begun("batch_topk", frozen)
    loss, _ = trainer.losses(trainer.forward(batches()[0]))
    trainer.backward(loss)
    grads = {name: of.grad for name, of in trainer.sae.named_parameters()}
    assert grads.pop(FROZEN[frozen]) is None
    _, norm = trainer.update(loss, BATCH)
    of_others = [grad.square().sum() for grad in grads.values() if grad is not None]
    assert len(of_others) == 3
    assert norm.item() == pytest.approx(torch.stack(of_others).sum().sqrt().item())


@pytest.mark.parametrize("frozen", ["decoder", "encoder"])
def test_a_twin_that_is_resumed_ends_as_one_that_was_not_interrupted(frozen: Frozen) -> None:
    whole, first, second = (begun("jumprelu", frozen) for _ in range(3))
    for x in batches():
        whole.step(x)
    for x in batches()[:15]:
        first.step(x)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for x in batches()[15:]:
        second.step(x)
    for name, of in weights(whole).items():
        assert torch.equal(of, weights(second)[name]), name


def test_a_dictionary_can_be_trained_on_in_all_its_parts_afterwards() -> None:
    sae = TopKConfig(d_sae=48, k=4).build(12)
    for _ in train(sae, batches(), TrainConfig(n_tokens=256, init_tokens=128, frozen="decoder")):
        pass
    frozen = sae.W_dec.detach().clone()
    assert all(of.requires_grad for of in sae.parameters())
    for _ in train(sae, batches(), TrainConfig(n_tokens=256, init_tokens=128)):
        pass
    assert not torch.equal(sae.W_dec, frozen)


def test_a_copy_on_the_way_can_be_trained_in_all_its_parts() -> None:
    trainer = begun("topk", "encoder")
    trainer.step(batches()[0])
    assert all(of.requires_grad for of in trainer.dictionary().parameters())
    assert not trainer.sae.W_enc_rows.requires_grad


def test_one_half_of_tied_weights_is_not_frozen_alone() -> None:
    message = "frozen 'decoder' needs weights of its own.*leave out tied or frozen"
    with pytest.raises(InputError, match=message):
        Trainer(TopKConfig(d_sae=8, k=2, tied=True).build(4), TrainConfig(frozen="decoder"))
    with pytest.raises(InputError, match=message):
        RunSettings.of(tied=True, frozen="decoder")


def test_weights_that_were_trained_are_not_called_random() -> None:
    with pytest.raises(InputError, match="frozen 'encoder' keeps weights random, and start_from"):
        RunSettings.of(start_from="runs/first", frozen="encoder")


def test_what_is_no_part_of_a_dictionary_is_not_frozen() -> None:
    with pytest.raises(InputError, match="frozen"):
        RunSettings.of(frozen="biases")
