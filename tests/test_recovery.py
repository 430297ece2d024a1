"""Dictionaries against known truth: only there can one see that low error is not enough."""

import pytest
import torch

from sae.analysis.matching import cosines, matched_cosines
from sae.architectures import AnySAEConfig, ReLUConfig, TopKConfig
from sae.base import SAE
from sae.evaluation import EvalReport, evaluate_reconstruction
from sae.toy import Independent, SparseFeatures, geometric
from sae.training import TrainConfig, train


def test_mmcs_takes_the_best_signed_cosine_of_every_true_feature() -> None:
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = torch.tensor([[2.0, 0.0], [0.0, -3.0], [0.6, 0.8]])
    # (1, 0) is found; (0, 1) is not found by its opposite, but by (0.6, 0.8) to 0.8
    assert cosines(truth, found).amax(dim=1).tolist() == pytest.approx([1.0, 0.8])


def test_mcc_gives_each_found_direction_to_one_true_feature_only() -> None:
    truth = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    found = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # alone, both would take (1, 0): cosines 1 and 0.8; one to one, the second gets (0, 1): 0.6
    assert cosines(truth, found).amax(dim=1).tolist() == pytest.approx([1.0, 0.8])
    assert matched_cosines(truth, found).tolist() == pytest.approx([1.0, 0.6])


def test_sparse_features_are_active_as_often_as_asked_and_have_unit_directions() -> None:
    features = SparseFeatures(Independent(torch.tensor([0.0, 0.1, 1.0])), d_in=5, seed=0)
    strengths = features.sample_strengths(20_000)
    assert (strengths > 0).float().mean(dim=0).tolist() == pytest.approx([0, 0.1, 1], abs=0.01)
    assert strengths.sum(dim=0)[2].item() / 20_000 == pytest.approx(0.5, abs=0.01)
    assert features.directions.norm(dim=1).tolist() == pytest.approx([1.0] * 3)


def test_a_restored_stream_of_features_goes_on_where_it_was() -> None:
    features = SparseFeatures(Independent(torch.full((8,), 0.3)), d_in=4, batch_tokens=5, seed=0)
    stream = iter(features)
    next(stream)
    state = features.state_dict()
    expected = [next(stream) for _ in range(3)]
    features.load_state_dict(state)
    for x, y in zip(expected, features, strict=False):
        assert torch.equal(x, y)


# Benchmark A: 128 true features in 64 dimensions, four active at a time on average ---------------


def _benchmark_a(
    cfg: AnySAEConfig, n_steps: int, seed: int = 0
) -> tuple[SAE, EvalReport, SparseFeatures]:
    features = SparseFeatures(Independent(torch.full((128,), 4 / 128)), d_in=64, seed=seed)
    dictionary = cfg.build(64, seed=seed + 1)
    config = TrainConfig(
        n_tokens=1024 * n_steps,
        lr=2e-3,
        normalise=False,
        lr_decay_fraction=0.2,
        lr_warmup_fraction=0.0,
    )
    for _ in train(dictionary, features, config):
        pass
    stream = iter(features)
    return (
        dictionary,
        evaluate_reconstruction(dictionary, [next(stream) for _ in range(16)]),
        features,
    )


def _mmcs(dictionary: SAE, features: SparseFeatures) -> float:
    return cosines(features.directions, dictionary.W_dec.detach()).amax(dim=1).mean().item()


@pytest.mark.slow
def test_an_l1_penalty_recovers_true_features_and_its_absence_does_not() -> None:
    """The control has the lower error by far, and has found nothing."""
    sparse, sparse_report, features = _benchmark_a(ReLUConfig(d_sae=128, l1_coeff=0.1), 1000)
    dense, dense_report, _ = _benchmark_a(ReLUConfig(d_sae=128, l1_coeff=0.0), 1000)
    assert _mmcs(sparse, features) > 0.9
    assert _mmcs(dense, features) < 0.45
    assert dense_report.fvu < 1e-2 < sparse_report.fvu


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cfg", "mmcs", "share", "mcc"),
    [
        (ReLUConfig(d_sae=128, l1_coeff=0.1), 0.98, 0.95, 0.97),
        (ReLUConfig(d_sae=128, l1_coeff=0.1, tied=True), 0.96, 0.9, 0.95),
        (TopKConfig(d_sae=128, k=4), 0.95, 0.8, 0.9),
    ],
    ids=["relu", "relu-tied", "topk"],
)
def test_benchmark_a_is_recovered(cfg: AnySAEConfig, mmcs: float, share: float, mcc: float) -> None:
    dictionary, report, features = _benchmark_a(cfg, 4000)
    W_dec = dictionary.W_dec.detach()
    best = cosines(features.directions, W_dec).amax(dim=1)
    assert best.mean().item() >= mmcs
    assert (best > 0.9).float().mean().item() >= share
    assert matched_cosines(features.directions, W_dec).mean().item() >= mcc
    if cfg.architecture == "relu":
        assert report.dead_fraction <= 0.02


@pytest.mark.slow
def test_benchmark_a_without_a_penalty_reconstructs_and_recovers_nothing() -> None:
    dictionary, report, features = _benchmark_a(ReLUConfig(d_sae=128, l1_coeff=0.0), 4000)
    assert report.fvu < 1e-3
    assert _mmcs(dictionary, features) < 0.45


@pytest.mark.slow
def test_recovery_over_the_penalty_has_its_best_in_the_middle_and_shrinkage_grows_with_it() -> None:
    penalties = [0.03, 0.1, 0.3, 1.0]
    results = [_benchmark_a(ReLUConfig(d_sae=128, l1_coeff=c), 2000) for c in penalties]
    recovered = [_mmcs(dictionary, features) for dictionary, _, features in results]
    assert max(recovered) > max(recovered[0], recovered[-1])
    ratios = [report.l2_ratio for _, report, _ in results]
    assert ratios == sorted(ratios, reverse=True)


# The planted dictionary of Cunningham et al.'s replication: skewed frequencies, tied, R = 2 -------


def _planted(
    l1_mean_d: float, n_steps: int, seed: int = 0
) -> tuple[SAE, SparseFeatures, EvalReport]:
    """64 features in 32 dimensions, p_i falling as 0.99^i with 5 active on average.

    The published coefficients belong to the mean over d_in, so ours is 32 times as large.
    """
    features = SparseFeatures(Independent(geometric(64, mean_active=5.0)), d_in=32, seed=7)
    cfg = ReLUConfig(d_sae=64, l1_coeff=32 * l1_mean_d, tied=True)
    dictionary = cfg.build(32, seed=seed)
    config = TrainConfig(
        n_tokens=1024 * n_steps,
        lr=1e-3,
        normalise=False,
        lr_warmup_fraction=0.0,
        penalty_warmup_fraction=0.0,
        seed=seed,
    )
    for _ in train(dictionary, features, config):
        pass
    stream = iter(features)
    return (
        dictionary,
        features,
        evaluate_reconstruction(dictionary, [next(stream) for _ in range(8)]),
    )


@pytest.mark.slow
def test_planted_features_are_recovered_at_the_published_penalties_and_not_without() -> None:
    reports: list[EvalReport] = []
    for coefficient in (1e-3, 3e-3, 6e-3, 1e-2):
        dictionary, features, report = _planted(coefficient, 3000)
        reports.append(report)
        if coefficient >= 6e-3:
            assert _mmcs(dictionary, features) >= 0.90
            other, _, _ = _planted(coefficient, 3000, seed=1)
            between = (
                cosines(dictionary.W_dec.detach(), other.W_dec.detach()).amax(dim=1).mean().item()
            )
            assert between >= 0.85
    assert [r.fvu for r in reports] == sorted(r.fvu for r in reports)
    assert [r.l0 for r in reports] == sorted((r.l0 for r in reports), reverse=True)
    control, features, _ = _planted(0.0, 3000)
    assert _mmcs(control, features) <= 0.55
