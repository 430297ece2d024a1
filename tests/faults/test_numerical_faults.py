"""Batches that nothing finite can be learned from: they end a training, or leave no trace."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from resuming import refused
from sweeps import RESID
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.architectures import (
    AnySAEConfig,
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    TopKConfig,
)
from sae.training import NotFinite, StepRecord, TrainConfig, Trainer, Training, train
from sae.training.health import Health

NAN, INF, HUGE = math.nan, math.inf, 1e30
"""HUGE is finite, and its square is not."""
CONFIGS: Sequence[AnySAEConfig] = [
    TopKConfig(d_sae=24, k=2),
    BatchTopKConfig(d_sae=24, k=2),
    MatryoshkaConfig(d_sae=24, k=2),
    ReLUConfig(d_sae=24),
    GatedConfig(d_sae=24),
    JumpReLUConfig(d_sae=24),
    BatchTopKConfig(d_sae=24, k=2, tied=True),
    ReLUConfig(d_sae=24, tied=True),
]


def flat(**changes: Any) -> TrainConfig:
    """Nothing in it depends on how many tokens there were, but for its end."""
    flat: dict[str, Any] = {
        "n_tokens": 10**9, "lr": 0.01, "lr_warmup_fraction": 0.0, "lr_decay_fraction": 0.0,
        "penalty_warmup_fraction": 0.0, "dead_after_tokens": 20, "init_tokens": 16,
    }  # fmt: skip
    return TrainConfig(**flat | changes)


def batches(n: int, n_rows: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n_rows, 6, generator=generator).exp() for _ in range(n)]


def bad(value: float, row: int = 3, n_rows: int = 16) -> Tensor:
    (x,) = batches(1, n_rows)
    x[row, 2] = value
    return x


def trained(cfg: AnySAEConfig, stream: Iterable[Tensor], train_cfg: TrainConfig) -> Trainer:
    with Training(cfg.build(6), stream, train_cfg) as training:
        for _ in training:
            pass
    return training.trainers[0]


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """Weights, moments, thresholds and firing counters, by their names."""
    found = trainer.state_dict()
    moments = {
        f"{name} {i}": value
        for i, state in found["optimizer"]["state"].items()
        for name, value in state.items()
    }
    sums = {name: x for name, x in found["sae"].items() if isinstance(x, Tensor)}
    counters = {"tokens_since_fired": found["tokens_since_fired"]}
    return {**found["sae"]["weights"], **sums, **moments, **counters}


def assert_equal(trainer: Trainer, other: Trainer) -> None:
    ours, theirs = everything(trainer), everything(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


# Left out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cfg", CONFIGS, ids=str)
def test_a_batch_that_is_skipped_leaves_no_trace(cfg: AnySAEConfig) -> None:
    good = batches(9)
    disturbed = [*good[:4], bad(NAN), bad(-INF, row=0), *good[4:], bad(HUGE)]
    expected = trained(cfg, good, flat())
    ours = trained(cfg, disturbed, flat(on_nan="skip"))
    assert ours.health.n_skipped == 3 and ours.n_tokens == expected.n_tokens + 48
    assert_equal(ours, expected)


@pytest.mark.parametrize("cfg", CONFIGS[1:6:2], ids=str)
def test_a_gradient_alone_that_overflows_leaves_no_trace_either(cfg: AnySAEConfig) -> None:
    """The loss is finite there, and the squares of its gradient are not."""
    good = batches(6)
    (large,) = batches(1)
    disturbed = [*good[:3], large * 1e19, *good[3:]]
    ours = trained(cfg, disturbed, flat(on_nan="skip"))
    if ours.health.n_skipped:
        assert_equal(ours, trained(cfg, good, flat()))


def test_the_form_of_a_step_is_not_chosen_by_what_a_bad_batch_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of the features are active on a good batch, and NaN counts as active."""
    for name, value in (("COUNT_STEPS", 4), ("SPARSE_BELOW", 0.9), ("DENSE_ABOVE", 0.95)):
        monkeypatch.setattr(Trainer, name, value)
    stream = [*batches(7), torch.full((16, 6), NAN)]
    assert trained(ReLUConfig(d_sae=24), stream[:7], flat(on_nan="skip")).is_sparse
    assert trained(ReLUConfig(d_sae=24), stream, flat(on_nan="skip")).is_sparse


@given(
    positions=st.lists(st.integers(1, 8), max_size=6),
    value=st.sampled_from([NAN, INF, HUGE]),
    n_rows=st.integers(1, 20),
)
@hypothesis_settings(max_examples=5, deadline=None)
def test_it_does_not_matter_which_batches_are_bad(
    positions: list[int], value: float, n_rows: int
) -> None:
    disturbed = batches(8)
    for position in sorted(positions, reverse=True):
        disturbed.insert(position, bad(value, row=0, n_rows=n_rows))
    cfg = BatchTopKConfig(d_sae=24, k=2)
    ours = trained(cfg, disturbed, flat(on_nan="skip"))
    assert_equal(ours, trained(cfg, batches(8), flat()))


def test_after_a_hundred_it_is_given_up() -> None:
    stream = [*batches(1), *[bad(NAN)] * 100, *batches(3)]
    trainer = trained(TopKConfig(d_sae=24, k=2), stream, flat(on_nan="skip"))
    assert trainer.health.n_skipped == 100 and not trainer.has_failed
    sae = TopKConfig(d_sae=24, k=2).build(6)
    said = refused(lambda: [*train(sae, [*stream, bad(NAN)], flat(on_nan="skip"))])
    assert "100" in said and "with --on-nan skip" not in said


# Stopped -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, HUGE])
def test_where_it_stops_it_says_step_tokens_site_and_row(value: float) -> None:
    sae = BatchTopKConfig(d_sae=24, k=2).build(6)
    sae.provenance = sae.provenance.updated({"hook_name": RESID})
    training = Training(sae, [*batches(5), bad(value, row=7)], flat())
    for _ in range(5):
        next(training)
    before = {name: x.clone() for name, x in everything(training.trainers[0]).items()}
    assert next(training) == []
    (failure,) = training.failures.values()
    assert isinstance(failure, NotFinite) and isinstance(failure, InputError)
    for part in ("step 5", "(96 tokens)", RESID, "row 7 ", "--lr", "--on-nan skip"):
        assert part in str(failure)
    after = everything(training.trainers[0])
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert [*training] == []


def test_a_dictionary_that_diverges_stops_alone() -> None:
    cfgs = [flat(lr=lr, n_tokens=160) for lr in (0.01, 1e30, 0.02)]
    saes = [TopKConfig(d_sae=24, k=2).build(6, seed=i) for i in range(3)]
    records: list[StepRecord] = []
    with pytest.raises(NotFinite, match="lower --lr"):
        records.extend(train(saes, batches(10), cfgs))
    for i in (0, 2):
        alone = TopKConfig(d_sae=24, k=2).build(6, seed=i)
        for _ in train(alone, batches(10), cfgs[i]):
            pass
        weights = alone.state_dict()
        assert all(torch.equal(weights[name], w) for name, w in saes[i].state_dict().items())
    assert all(w.isfinite().all() for w in saes[1].state_dict().values())


@pytest.mark.parametrize(("value", "on_nan"), [(NAN, "stop"), (HUGE, "skip")])
def test_a_head_of_the_stream_that_says_no_scale_is_refused(value: float, on_nan: Any) -> None:
    """The norm of a row of 1e30 is infinite in float32: a scale of 0 would come of that."""
    sae = TopKConfig(d_sae=24, k=2).build(6)
    said = refused(lambda: [*train(sae, [bad(value), *batches(3)], flat(on_nan=on_nan))])
    assert "activations" in said and all(w.isfinite().all() for w in sae.state_dict().values())


def test_a_head_of_zeros_is_refused_or_trained_on() -> None:
    sae = TopKConfig(d_sae=24, k=2).build(6)
    try:
        for _ in train(sae, [torch.zeros(16, 6), *batches(2)], flat()):
            pass
    except InputError as error:
        assert "activations" in str(error)
    else:
        assert all(w.isfinite().all() for w in sae.state_dict().values())


# Spikes ------------------------------------------------------------------------------------------


def seen(losses: Sequence[float]) -> Health:
    health = Health(torch.device("cpu"))
    for loss in losses:
        health.see(torch.tensor(loss), torch.tensor(math.isfinite(loss)))
    return health


@pytest.mark.parametrize(
    ("losses", "n_spikes"),
    [
        ([1.0] * 100 + [2.9, 1.0], 0),
        ([1.0] * 99 + [50.0, 1.0], 0),  # nothing is settled yet
        ([1.0] * 100 + [3.1, 3.1, 3.1], 2),  # the mean is 1.033 after the first, 1.065 then
        ([1.0] * 100 + [NAN] * 5 + [3.1], 1),
        ([NAN] + [1.0] * 100 + [2.995], 0),  # the mean is 1, not 0.99: a skipped loss is no loss
    ],
)
def test_a_loss_of_three_times_its_running_mean_is_a_spike(
    losses: list[float], n_spikes: int
) -> None:
    health = seen(losses)
    assert health.n_spikes == n_spikes
    assert health.n_skipped == sum(map(math.isnan, losses))


@given(losses=st.lists(st.floats(0.5, 1.5) | st.just(NAN), min_size=1, max_size=150))
@hypothesis_settings(max_examples=10, deadline=None)
def test_the_running_mean_is_that_of_the_losses_that_count(losses: list[float]) -> None:
    good = [loss for loss in losses if not math.isnan(loss)]
    if good:
        weights = [0.99 ** (len(good) - 1 - i) for i in range(len(good))]
        mean = sum(map(float.__mul__, weights, good)) / sum(weights)
        assert float(seen(losses).loss_mean) == pytest.approx(mean, rel=1e-4)
