import dataclasses
import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from activation_cache.common.errors import InputError
from sae.architectures import (
    ARCHITECTURES,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    TopKConfig,
)
from sae.provenance import Provenance
from sae.toy import Independent, SparseFeatures
from sae.trainable import TrainableConfig, TrainableSAE, TrainingPass
from sae.training import TrainConfig, Trainer, Training, train
from sae.training.config import CoefficientUnits
from sae.training.dead import FiringTracker
from sae.training.forward import forward
from sae.training.losses import auxk_loss, mse_loss
from sae.training.schedules import decay, warm_up


def _features(seed: int = 0, batch_tokens: int = 64) -> SparseFeatures:
    return SparseFeatures(
        Independent(torch.full((24,), 0.1)), 12, batch_tokens=batch_tokens, seed=seed
    )


def _fit(dictionary: TrainableSAE, cfg: TrainConfig, batches: object = None) -> TrainableSAE:
    for _ in train(dictionary, _features() if batches is None else batches, cfg):  # pyright: ignore
        pass
    return dictionary


# Losses ------------------------------------------------------------------------------------------


def test_the_squared_error_is_reduced_as_its_name_says() -> None:
    x, x_hat = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 4.0]])
    # squared errors (1, 4) and (0, 16)
    assert mse_loss(x_hat, x, "sum_d").item() == (5.0 + 16.0) / 2
    assert mse_loss(x_hat, x, "mean_d").item() == (2.5 + 8.0) / 2


@pytest.mark.parametrize("units", ["relative", "absolute"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_mean_over_d_in_scales_the_whole_loss(name: str, units: CoefficientUnits) -> None:
    """Errors beside that of the reconstruction (AuxK's, of nested widths, of gates) count as much
    beside it with either; absolute coefficients must be d_in times smaller with the mean."""
    x, losses = next(iter(_features())), dict[str, float]()
    known = {field.name for field in dataclasses.fields(ARCHITECTURES[name])}
    for reduction in ("sum_d", "mean_d"):
        coeff = 0.01 / 12 if (reduction, units) == ("mean_d", "absolute") else 0.01
        given = {"l1_coeff": coeff, "l0_coeff": coeff, "k": 4}
        given = {setting: value for setting, value in given.items() if setting in known}
        cfg = TrainConfig(
            loss_reduction=reduction, penalty_warmup_fraction=0.0, coefficient_units=units
        )
        trainer = Trainer(ARCHITECTURES[name](d_sae=32, **given).build(12), cfg)
        trainer.dead = torch.arange(4)
        losses[reduction] = trainer.losses(trainer.forward(x))[0].item()
    assert losses["sum_d"] == pytest.approx(12 * losses["mean_d"], rel=1e-5)


def _topk_pass(dictionary: TrainableSAE) -> TrainingPass:
    return forward(dictionary, torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 1.0, 3.0, 0.0]]))


@pytest.mark.parametrize("n_rows", [1, 3])
def test_a_batch_of_equal_rows_has_no_unexplained_fraction(n_rows: int) -> None:
    """There is no variance to divide by: it was rounding, and the FVU a million."""
    trainer = Trainer(TopKConfig(d_sae=8, k=2).build(4), TrainConfig(n_tokens=100))
    trainer.step(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)))
    record = trainer.step(torch.tensor([[0.3, -1.1, 2.0, 0.7]]).expand(n_rows, 4).clone())
    assert math.isnan(record.row()["fvu"])  # null in metrics.jsonl
    assert math.isfinite(record.row()["loss"])


def test_auxk_rebuilds_the_error_from_dead_features_alone() -> None:
    dictionary = TopKConfig(d_sae=4, k=1).build(4)
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.eye(4))
        dictionary.W_enc.copy_(torch.eye(4))
    out = _topk_pass(dictionary)
    # The largest entry of each token is kept, so the errors are (1, 0, 0, 0) and (0, 1, 0, 0).
    # Dead features 0 and 1 (k_aux = 2) have pre-activations (1, 2) and (0, 1). What they make of
    # the errors is closest to them times (1 * 1 + 1 * 1) / (1 + 4 + 1) = 1/3: then it is off by
    # (2/3, -2/3, 0, 0) and (0, 2/3, 0, 0).
    dead = torch.tensor([0, 1])
    expected = pytest.approx((8 / 9 + 4 / 9) / 2)
    assert auxk_loss(dictionary, out, dead, "sum_d").item() == expected
    # With feature 0 alone: off by (0, 0, 0, 0) and (0, 1, 0, 0).
    assert auxk_loss(dictionary, out, torch.tensor([0]), "sum_d").item() == (0.0 + 1.0) / 2


def test_auxk_sends_its_gradient_to_the_encoder_of_dead_features_only() -> None:
    dictionary = TopKConfig(d_sae=8, k=2).build(4, seed=1)
    out = forward(dictionary, torch.randn(16, 4, generator=torch.Generator().manual_seed(0)))
    # Three are dead, and k_aux = 2 of them count for each token.
    auxk_loss(dictionary, out, torch.tensor([0, 1, 2]), "sum_d").backward()
    assert dictionary.W_enc_rows.grad is not None
    norms = dictionary.W_enc_rows.grad.norm(dim=1)
    assert (norms[:3] > 0).all() and (norms[3:] == 0).all()


# Schedules ---------------------------------------------------------------------------------------


def test_a_penalty_warms_up_linearly_and_stays() -> None:
    assert [warm_up(p, 0.2) for p in (0.0, 0.1, 0.2, 0.9)] == [0.0, 0.5, 1.0, 1.0]
    assert warm_up(0.0, 0.0) == 1.0


def test_a_rate_stays_and_falls_linearly_to_nothing() -> None:
    assert [decay(p, 0.2) for p in (0.0, 0.8, 0.9, 1.0)] == pytest.approx([1.0, 1.0, 0.5, 0.0])
    assert decay(0.5, 0.0) == 1.0


def test_every_step_has_a_learning_rate_the_first_and_the_last_too() -> None:
    cfg = TrainConfig(n_tokens=640, lr=1.0, lr_warmup_fraction=0.2, lr_decay_fraction=0.5)
    rates = [record.lr for record in train(ReLUConfig(d_sae=8).build(12), _features(), cfg)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_a_run_of_one_batch_learns() -> None:
    dictionary = TopKConfig(d_sae=16, k=4).build(12)
    before = dictionary.W_dec.detach().clone()
    (record,) = train(dictionary, _features(), TrainConfig(n_tokens=64))
    assert record.lr > 0 and not torch.equal(dictionary.W_dec, before)


# Dead features -----------------------------------------------------------------------------------


def test_a_feature_is_dead_once_it_has_been_silent_for_the_window() -> None:
    tracker = FiringTracker(3, dead_after_tokens=20, device=torch.device("cpu"))
    tracker.update(torch.tensor([1, 0, 0]), batch_tokens=10)
    assert tracker.dead.tolist() == [False, False, False]
    tracker.update(torch.tensor([0, 0, 5]), batch_tokens=10)
    assert tracker.tokens_since_fired.tolist() == [10, 20, 0]
    assert tracker.dead.tolist() == [False, True, False]


def test_auxk_leaves_what_dead_features_share_with_living_ones() -> None:
    sae = TopKConfig(d_sae=16, k=3, tied=True).build(12, seed=1)
    out = forward(sae, next(iter(_features())))
    auxk_loss(sae, out, torch.arange(8), "sum_d").backward()
    assert sae.b_enc.grad is not None and sae.b_enc.grad[:8].count_nonzero() == 8
    assert sae.gain is not None and sae.gain.grad is None and sae.b_dec.grad is None


def test_many_dead_features_do_not_silence_each_other() -> None:
    """Together they make more than the error. That is multiplied by the number which brings it
    closest, so nothing is gained by making all encoders smaller."""
    sae = TopKConfig(d_sae=48, k=1).build(12, seed=1)
    auxk_loss(sae, forward(sae, next(iter(_features()))), torch.arange(48), "sum_d").backward()
    rows = sae.W_enc_rows
    assert rows.grad is not None and rows.grad.norm().item() > 0.01
    assert (rows * rows.grad).sum().item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["relu", "gated"])
def test_auxk_reaches_features_that_a_bias_has_killed(name: str) -> None:
    """Their pre-activations are negative on every token, so they have no gradient by themselves."""
    x = next(iter(_features()))
    sae = ARCHITECTURES[name](d_sae=16).build(12, seed=1)
    with torch.no_grad():
        sae.b_enc[3] = -100.0
    out = forward(sae, x)
    auxk_loss(sae, out, torch.tensor([3]), "sum_d").backward()
    # Raised to where it exceeds its mean by two standard deviations, it fires on a few tokens.
    assert sae.b_enc.grad is not None and sae.b_enc.grad.count_nonzero() == 1
    pre_acts = sae.pre_acts(x)[:, 3].detach()
    raised = pre_acts - pre_acts.mean() - 2 * pre_acts.std(correction=0)
    assert 0 < (raised > 0).sum() < 16
    error = out.x - out.x_hat - raised.relu()[:, None] * sae.W_dec[3]
    expected = -2 * ((raised > 0) * (error @ sae.W_dec[3])).mean()
    assert sae.b_enc.grad[3].item() == pytest.approx(expected.item(), rel=1e-3)


def test_auxk_brings_features_back_that_a_bad_start_has_killed() -> None:
    def share_alive(auxk_coeff: float) -> float:
        dictionary = TopKConfig(d_sae=48, k=3, auxk_coeff=auxk_coeff).build(12, seed=1)
        with torch.no_grad():
            dictionary.W_enc[:, :24] *= 0.01  # never among the three largest
        cfg = TrainConfig(n_tokens=64 * 200, normalise=False, dead_after_tokens=640, lr=2e-3)
        _fit(dictionary, cfg)
        acts = dictionary.encode(_features(1).sample_strengths(4096) @ _features().directions)
        return (acts > 0).any(dim=0).float().mean().item()

    assert share_alive(auxk_coeff=1.0) > share_alive(auxk_coeff=0.0) + 0.2


# The loop ----------------------------------------------------------------------------------------


def test_training_stops_at_the_token_budget_and_counts_every_token() -> None:
    records = list(train(ReLUConfig(d_sae=8).build(12), _features(), TrainConfig(n_tokens=640)))
    assert [record.step for record in records] == list(range(10))
    assert [record.n_tokens for record in records] == [64 * n for n in range(1, 11)]


def test_training_ends_with_the_stream_where_it_is_shorter_than_the_budget() -> None:
    batches = list(itertools.islice(_features(), 3))
    with pytest.warns(UserWarning, match="the stream ended after 192"):
        records = list(train(ReLUConfig(d_sae=8).build(12), batches, TrainConfig(n_tokens=10**6)))
    assert records[-1].n_tokens == 3 * 64


def test_the_tokens_that_set_the_bias_are_trained_on_as_well() -> None:
    batches = list(itertools.islice(_features(), 4))
    cfg = TrainConfig(n_tokens=4 * 64, init_tokens=2 * 64, lr=1e-9, normalise=False)
    dictionary = ReLUConfig(d_sae=8).build(12)
    assert len(list(train(dictionary, batches, cfg))) == 4
    assert torch.allclose(dictionary.b_dec, torch.cat(batches[:2]).mean(dim=0), atol=1e-6)


def test_several_dictionaries_get_what_each_would_get_alone() -> None:
    configs = [ReLUConfig(d_sae=16), TopKConfig(d_sae=32, k=4), JumpReLUConfig(d_sae=16, tied=True)]
    cfg = TrainConfig(n_tokens=64 * 20)
    together = [config.build(12, seed=i) for i, config in enumerate(configs)]
    for record in train(together, _features(), cfg):
        assert record.dictionary in (0, 1, 2)
    for i, config in enumerate(configs):
        alone = _fit(config.build(12, seed=i), cfg)
        for name, value in alone.named_parameters():
            assert torch.equal(value, dict(together[i].named_parameters())[name]), name


def test_each_dictionary_takes_its_own_site_from_a_stream_of_several() -> None:
    def two_sites() -> list[dict[str, torch.Tensor]]:
        wide = SparseFeatures(Independent(torch.full((24,), 0.1)), 20, batch_tokens=64, seed=5)
        pairs = zip(itertools.islice(_features(), 10), wide, strict=False)
        return [{"narrow": narrow, "wide": other} for narrow, other in pairs]

    narrow, wide = ReLUConfig(d_sae=16).build(12), ReLUConfig(d_sae=16).build(20)
    narrow.provenance, wide.provenance = (
        Provenance(hook_name="narrow"),
        Provenance(hook_name="wide"),
    )
    cfg = TrainConfig(n_tokens=640)
    assert len(list(train([narrow, wide], two_sites(), cfg))) == 2 * 10
    alone = _fit(ReLUConfig(d_sae=16).build(12), cfg, [batch["narrow"] for batch in two_sites()])
    assert torch.equal(narrow.W_dec, alone.W_dec)
    with pytest.raises(InputError, match="no site None, only narrow, wide"):
        _fit(ReLUConfig(d_sae=16).build(12), cfg, two_sites())


def test_a_finished_copy_takes_raw_activations_at_any_moment_of_a_training() -> None:
    dictionary = ReLUConfig(d_sae=16).build(12)
    x = next(iter(_features(seed=9))) * 1000
    batches = (batch * 1000 for batch in _features())
    with Training(dictionary, batches, TrainConfig(n_tokens=6400)) as training:
        next(training)
        finished = training.trainers[0].dictionary()
        assert not torch.allclose(dictionary(x), finished(x), rtol=1e-2)
    assert torch.allclose(dictionary(x), finished(x), rtol=1e-4, atol=1e-2)


def test_the_scale_of_the_activations_does_not_matter() -> None:
    cfg = TrainConfig(n_tokens=64 * 50)
    plain = _fit(ReLUConfig(d_sae=16).build(12), cfg)
    scaled = _fit(ReLUConfig(d_sae=16).build(12), cfg, (batch * 1024 for batch in _features()))
    assert torch.allclose(plain.W_dec, scaled.W_dec, atol=1e-4)
    assert torch.allclose(plain.b_dec * 1024, scaled.b_dec, rtol=1e-3, atol=1e-1)


def test_an_empty_stream_and_activations_that_are_not_finite_are_refused() -> None:
    dictionary = ReLUConfig(d_sae=8).build(12)
    with pytest.raises(InputError, match="stream of activations is empty"):
        _fit(dictionary, TrainConfig(), [])
    with pytest.raises(InputError, match="NaN or Inf"):
        _fit(dictionary, TrainConfig(), [torch.full((64, 12), math.nan)])


@pytest.mark.parametrize("setting", [{"n_tokens": 0}, {"lr": 0.0}, {"lr": -1.0}])
def test_training_settings_that_make_no_sense_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        TrainConfig(**setting)  # pyright: ignore[reportArgumentType]


# Starting from a trained dictionary --------------------------------------------------------------


@pytest.mark.parametrize(
    "cfg",
    [
        ReLUConfig(d_sae=16, l1_coeff=0.1),
        GatedConfig(d_sae=16, l1_coeff=0.1),
        JumpReLUConfig(d_sae=16, tied=True),
        TopKConfig(d_sae=16, k=4),
    ],
    ids=lambda cfg: cfg.architecture,
)
def test_a_training_that_goes_on_begins_with_the_fit_that_the_dictionary_has(
    cfg: TrainableConfig,
) -> None:
    """Also where the activations are others than it was trained on: of another layer, say."""
    dictionary = _fit(cfg.build(12, seed=1), TrainConfig(n_tokens=6400))
    x = next(iter(_features(seed=1, batch_tokens=512))) + 0.5
    error, spread = dictionary(x) - x, x - x.mean(dim=0)
    fvu = (error.square().sum() / spread.square().sum()).item()
    (first,) = train(dictionary, [x], TrainConfig(n_tokens=512))
    assert first.fvu.item() == pytest.approx(fvu, rel=1e-4)


def test_the_biases_of_a_trained_dictionary_keep_their_meaning_in_other_units() -> None:
    dictionary = _fit(TopKConfig(d_sae=16, k=4).build(12, seed=1), TrainConfig(n_tokens=3200))
    b_enc = dictionary.b_enc.detach().clone()
    trainer = Trainer(dictionary, TrainConfig(n_tokens=64))
    trainer.initialise(next(iter(_features())))
    torch.testing.assert_close(dictionary.b_enc, b_enc * trainer.scale)
    torch.testing.assert_close(trainer.dictionary().b_enc, b_enc)


# The seams of a step -----------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    "cfg",
    [
        GatedConfig(d_sae=16),
        JumpReLUConfig(d_sae=16),
        MatryoshkaConfig(d_sae=16, k=4),
        TopKConfig(d_sae=16, k=4),
    ],
    ids=lambda cfg: cfg.architecture,
)
def test_every_loss_is_of_the_target(cfg: TrainableConfig, sparse: bool) -> None:
    """What is reconstructed may be something else than what is encoded: y = 2 x + 1 here."""
    x = next(iter(_features()))
    sae = cfg.build(12, seed=1)
    of_x, of_y = (forward(sae, x, target, sparse=sparse) for target in (None, 2 * x + 1))
    assert torch.equal(of_x.x_hat, of_y.x_hat)  # nothing of the target is seen
    assert of_x.target is of_x.x
    assert of_y.target.equal(2 * x + 1)
    trainer = Trainer(sae, TrainConfig(n_tokens=64))
    _, parts = trainer.losses(of_y)
    assert parts["mse"].item() == pytest.approx(
        (of_y.x_hat - 2 * x - 1).square().sum(1).mean().item()
    )
    for name in {"gate_error", "nested"} & parts.keys():
        assert parts[name].item() != of_x.penalties[name].item()


def test_a_dictionary_learns_another_target_than_its_input() -> None:
    """A rotation of x: the best that predicts no more than the mean leaves all of the variance."""
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0))).Q
    sae = TopKConfig(d_sae=48, k=6).build(12, seed=1)
    trainer = Trainer(sae, TrainConfig(n_tokens=64 * 300, lr=1e-2))
    stream = iter(_features())
    trainer.initialise(next(stream))
    records = [trainer.step(x, x @ turn) for x in itertools.islice(stream, 300)]
    assert records[0].fvu > 0.8
    assert sum(record.fvu.item() for record in records[-20:]) / 20 < 0.25


@pytest.mark.parametrize("tied", [False, True])
def test_two_halves_of_a_batch_with_a_reduce_that_averages_are_the_whole(tied: bool) -> None:
    """Two trainers in two threads, each with half of the rows, take the steps of one."""
    cfg = ReLUConfig(d_sae=32, tied=tied, l1_coeff=0.1)
    of_whole, of_half = (TrainConfig(n_tokens=n * 10, lr=1e-3) for n in (64, 32))
    batches = list(itertools.islice(_features(), 11))
    whole = Trainer(cfg.build(12, seed=1), of_whole)
    meeting, shared = Barrier(2), dict[int, list[torch.Tensor]]()

    def halves(rank: int) -> Trainer:
        def average(tensors: Sequence[torch.Tensor]) -> None:
            shared[rank] = [tensor.clone() for tensor in tensors]
            meeting.wait()
            for tensor, one, other in zip(tensors, *shared.values(), strict=True):
                tensor.copy_((one + other) / 2)
            meeting.wait()

        trainer = Trainer(cfg.build(12, seed=1), of_half, reduce=average)
        trainer.initialise(batches[0])
        trainer.may_be_sparse = False
        for batch in batches[1:]:
            trainer.step(batch[rank * 32 :][:32])
        return trainer

    whole.initialise(batches[0])
    whole.may_be_sparse = False
    for batch in batches[1:]:
        whole.step(batch)
    with ThreadPoolExecutor(2) as threads:
        for half in threads.map(halves, range(2)):
            for name, weight in half.sae.named_parameters():
                expected = dict(whole.sae.named_parameters())[name]
                torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5)
