"""What holds for every architecture, tied and untied. The union of configs makes the list."""

import copy
import math
from functools import cache
from pathlib import Path

import pytest
import torch

import sae
from sae.architectures import ARCHITECTURES, TopKConfig
from sae.codes import Codes, fire_counts
from sae.toy import Independent, SparseFeatures
from sae.trainable import TYPICAL_L0, TrainableConfig, TrainableSAE
from sae.training import TrainConfig, Trainer, train

D_IN, D_SAE = 12, 32


SMALL = {
    "topk": {"k": 4},
    "batch_topk": {"k": 4},
    "matryoshka": {"k": 4},
    "relu": {"l1_coeff": 0.03},
    "gated": {"l1_coeff": 0.03},
    "jumprelu": {"l0_coeff": 0.01},
}
"""Settings that suit activations of width 12, where the defaults do not."""


def _configs() -> list[TrainableConfig]:
    return [
        cls(d_sae=D_SAE, tied=tied, **SMALL.get(cls.architecture, {}))
        for cls in ARCHITECTURES.values()
        for tied in (False, True)
    ]


every_architecture = pytest.mark.parametrize(
    "cfg", _configs(), ids=lambda cfg: f"{cfg.architecture}-{'tied' if cfg.tied else 'untied'}"
)


def _batches(n: int, seed: int = 0) -> list[torch.Tensor]:
    features = SparseFeatures(Independent(torch.full((24,), 0.1)), D_IN, batch_tokens=64, seed=seed)
    stream = iter(features)
    return [next(stream) + 0.5 for _ in range(n)]  # an offset, so that the bias has work to do


@cache
def _trained_once(cfg: TrainableConfig) -> TrainableSAE:
    dictionary = cfg.build(D_IN, seed=3)
    for _ in train(dictionary, _batches(30), TrainConfig(n_tokens=64 * 30)):
        pass
    return dictionary


def _trained(cfg: TrainableConfig) -> TrainableSAE:
    """A dictionary after thirty steps: a copy, which a test may change."""
    return copy.deepcopy(_trained_once(cfg))


@every_architecture
@pytest.mark.parametrize("tokens", [(), (3, 4), (2, 3, 2)])
def test_tokens_may_have_any_leading_shape(cfg: TrainableConfig, tokens: tuple[int, ...]) -> None:
    dictionary = _trained(cfg)
    rows = _batches(1)[0][: math.prod(tokens)]
    x = rows.view(*tokens, D_IN)
    acts, x_hat = dictionary.encode(rows), dictionary(rows)
    assert torch.equal(dictionary.encode(x), acts.view(*tokens, D_SAE))
    assert torch.equal(dictionary(x), x_hat.view(*tokens, D_IN))
    codes = dictionary.encode_sparse(x)
    assert codes.indices.shape[:-1] == tokens
    assert torch.equal(codes.dense(), dictionary.encode(x))
    assert torch.allclose(dictionary.decode(codes), dictionary(x), atol=1e-5)
    assert torch.allclose(dictionary.reconstruct(x)[0], dictionary(x), atol=1e-5)


@every_architecture
def test_activations_of_another_width_are_refused_in_one_line(cfg: TrainableConfig) -> None:
    dictionary = cfg.build(D_IN)
    for use in (dictionary.encode, dictionary.encode_sparse, dictionary, dictionary.reconstruct):
        with pytest.raises(sae.InputError, match=r"shape \[2, 13\].* width 12"):
            use(torch.zeros(2, 13))


@every_architecture
def test_shapes_are_those_of_the_names_table(cfg: TrainableConfig) -> None:
    dictionary = cfg.build(D_IN)
    assert dictionary.W_enc.shape == (D_IN, D_SAE)
    assert dictionary.b_enc.shape == (D_SAE,)
    assert dictionary.W_dec.shape == (D_SAE, D_IN)
    assert dictionary.b_dec.shape == (D_IN,)
    assert (dictionary.d_in, dictionary.d_sae) == (D_IN, D_SAE)
    assert dictionary.device == torch.device("cpu") and dictionary.dtype == torch.float32
    assert dictionary.encode(torch.zeros(5, D_IN)).shape == (5, D_SAE)


@every_architecture
def test_forward_is_decode_of_encode_dense_or_sparse(cfg: TrainableConfig) -> None:
    dictionary, x = _trained(cfg), _batches(1, seed=1)[0]
    with torch.no_grad():
        assert torch.equal(dictionary(x), dictionary.decode(dictionary.encode(x)))
        assert torch.allclose(
            dictionary(x), dictionary.decode(dictionary.encode_sparse(x)), atol=1e-5
        )
        assert torch.equal(dictionary.encode_sparse(x).dense(), dictionary.encode(x))


@every_architecture
def test_forward_changes_nothing_about_the_dictionary(cfg: TrainableConfig) -> None:
    dictionary = _trained(cfg)
    before = {name: value.clone() for name, value in dictionary.state_dict().items()}
    dictionary(_batches(1)[0])
    assert before.keys() == dictionary.state_dict().keys()
    for name, value in dictionary.state_dict().items():
        assert torch.equal(before[name], value), name


@every_architecture
def test_gradients_are_those_of_the_plain_formula(cfg: TrainableConfig) -> None:
    """x, weights and biases: b_dec gets its gradient by a shorter way than autograd would take."""
    dictionary, x = _trained(cfg).double(), _batches(1)[0].double()

    def gradients(plain: bool) -> list[torch.Tensor]:
        dictionary.zero_grad()
        inputs = x.clone().requires_grad_()
        if plain:
            pre_acts = (inputs - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc
            acts = dictionary.activate(pre_acts)
            dense = acts.dense() if isinstance(acts, Codes) else acts
            x_hat = dense @ dictionary.W_dec + dictionary.b_dec
        else:
            x_hat = dictionary(inputs)
        (x_hat - x).square().sum().backward()
        found = [inputs.grad, *(p.grad for p in dictionary.parameters())]
        return [gradient.clone() for gradient in found if gradient is not None]

    ours, reference = gradients(plain=False), gradients(plain=True)
    assert len(ours) == len(reference) >= 4
    for one, other in zip(ours, reference, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


@every_architecture
def test_decoder_rows_have_unit_norm_after_training(cfg: TrainableConfig) -> None:
    norms = _trained(cfg).W_dec.norm(dim=1)
    assert torch.allclose(norms, torch.ones(D_SAE), atol=1e-5)


@every_architecture
def test_training_lowers_the_loss(cfg: TrainableConfig) -> None:
    config = TrainConfig(n_tokens=64 * 250, penalty_warmup_fraction=0.0)
    losses = [r.loss.item() for r in train(cfg.build(D_IN), _batches(250), config)]
    assert sum(losses[-20:]) / 20 < 0.7 * sum(losses[:5]) / 5


@every_architecture
def test_a_tied_dictionary_encodes_with_its_decoder_times_a_gain_and_an_untied_one_does_not(
    cfg: TrainableConfig,
) -> None:
    dictionary = _trained(cfg)
    gain = 1.0 if dictionary.gain is None else dictionary.gain
    assert torch.equal(dictionary.W_enc, gain * dictionary.W_dec.T) == cfg.tied
    assert (dictionary.gain is not None) == (cfg.tied and cfg.has_gain)


@cache
def _rows_for_the_start() -> torch.Tensor:
    """4,096 rows of width 96, sums of about ten of 512 directions."""
    features = SparseFeatures(Independent(torch.full((512,), 0.02)), 96, batch_tokens=4096, seed=0)
    return next(iter(features)) + 0.1


def _started(cfg: TrainableConfig, x: torch.Tensor) -> tuple[float, float]:
    """FVU and L0 of a training's first step, on other rows than those that the start was fitted
    to, and L0 of the dictionary outside of training."""
    trainer = Trainer(cfg.build(x.shape[1], seed=1), TrainConfig(n_tokens=10**6))
    trainer.initialise(x[:2048])
    out = trainer.forward(x[2048:])
    fvu = (out.x_hat - out.x).square().sum() / (out.x - out.x.mean(0)).square().sum()
    l0 = fire_counts(out.acts).sum() / len(out.x)
    finished = fire_counts(trainer.dictionary().encode_sparse(x[2048:])).sum() / len(out.x)
    assert finished.item() == pytest.approx(l0.item(), rel=0.2)
    return fvu.item(), l0.item()


@pytest.mark.parametrize("scale", [0.01, 100.0])
@pytest.mark.parametrize("d_sae", [256, 1024])
@every_architecture
def test_a_dictionary_starts_sparse_and_no_worse_than_half_as_well_as_topk(
    cfg: TrainableConfig, d_sae: int, scale: float
) -> None:
    x = _rows_for_the_start() * scale
    cfg = type(cfg)(d_sae=d_sae, tied=cfg.tied)
    wanted = getattr(cfg, "k", TYPICAL_L0)
    fvu, l0 = _started(cfg, x)
    of_topk, _ = _started(TopKConfig(d_sae=d_sae), x)
    assert 0 < fvu < min(1, 1.5 * of_topk)
    assert 0.9 * wanted < l0 < 4 * wanted


@every_architecture
def test_a_finished_dictionary_computes_for_inputs_what_it_did_for_scaled_ones(
    cfg: TrainableConfig,
) -> None:
    x = _batches(1)[0] * 50
    trainer = Trainer(cfg.build(D_IN, seed=3), TrainConfig(n_tokens=64))
    trainer.initialise(x)
    assert trainer.scale != 1.0
    with torch.no_grad():
        trainer.sae.b_enc.normal_()
        finished = trainer.dictionary()
        acts = trainer.sae.encode(x * trainer.scale) / trainer.scale
        x_hat = trainer.sae(x * trainer.scale) / trainer.scale
        assert torch.equal(acts != 0, finished.encode(x) != 0)
        assert torch.allclose(acts, finished.encode(x), rtol=1e-4, atol=1e-4)
        assert torch.allclose(x_hat, finished(x), rtol=1e-4, atol=1e-4)
        trainer.finish()
        assert trainer.scale == 1.0
        assert torch.equal(trainer.sae(x), finished(x))


@every_architecture
def test_what_is_saved_is_loaded_bit_for_bit(cfg: TrainableConfig, tmp_path: Path) -> None:
    dictionary, x = _trained(cfg), _batches(1)[0]
    dictionary.provenance = sae.Provenance(hook_name="blocks.2.hook_resid_pre")
    sae.save(dictionary, tmp_path / "d")
    loaded = sae.load(tmp_path / "d")
    assert loaded.cfg == cfg
    assert loaded.hook_name == "blocks.2.hook_resid_pre"
    for (name, value), (_, other) in zip(
        dictionary.named_parameters(), loaded.named_parameters(), strict=True
    ):
        assert torch.equal(value, other), name
    with torch.no_grad():
        assert torch.equal(dictionary(x), loaded(x))


@every_architecture
def test_the_same_seed_gives_the_same_dictionary_and_another_seed_another(
    cfg: TrainableConfig,
) -> None:
    first, second, other = cfg.build(D_IN, seed=1), cfg.build(D_IN, seed=1), cfg.build(D_IN, seed=2)
    for dictionary in (first, second, other):
        for _ in train(dictionary, _batches(5), TrainConfig(n_tokens=5 * 64)):
            pass
    assert torch.equal(first.W_dec, second.W_dec)
    assert not torch.equal(first.W_dec, other.W_dec)


@every_architecture
def test_activations_of_the_wrong_width_are_refused(cfg: TrainableConfig) -> None:
    wrong = [torch.zeros(64, D_IN + 1)]
    with pytest.raises(sae.InputError, match=r"shape \(64, 13\).*d_in 12"):
        next(train(cfg.build(D_IN), wrong, TrainConfig(n_tokens=64)))
