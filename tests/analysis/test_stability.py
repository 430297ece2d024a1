"""Which features reappear, on planted truth; what must not matter; what cannot be used."""

from dataclasses import replace

import pytest
import torch
from planted import (
    COUNTS,
    VERDICTS,
    Planted,
    generator,
    planted,
    random_rows,
    reordered,
    unit,
    written,
)

from activation_cache.common.errors import InputError
from sae.analysis.stability import (
    Stability,
    Thresholds,
    match_seeds,
    measure,
    stability,
)
from sae.interop.pretrained import PretrainedConfig, PretrainedSAE
from sae.provenance import Provenance

N_TOKENS = 4096


@pytest.fixture(scope="module")
def truth() -> Planted:
    return planted(seed=0, n_tokens=N_TOKENS)


@pytest.fixture(scope="module")
def found(truth: Planted) -> list[Stability]:
    return stability(truth.dictionaries, truth.twins, truth.batches)


# Planted truth -----------------------------------------------------------------------------------


def test_of_every_planted_kind_at_least_95_percent_are_told(
    truth: Planted, found: list[Stability]
) -> None:
    another = planted(seed=1, n_tokens=N_TOKENS)
    of_another = stability(another.dictionaries, another.twins, another.batches)
    for of_one in [*found, *of_another]:
        for kind in COUNTS:
            its = [
                v for v, k in zip(of_one.features.verdict, truth.kinds, strict=True) if k == kind
            ]
            assert its.count(VERDICTS[kind]) >= 0.95 * len(its), kind


def test_a_random_twin_never_wins_against_what_is_planted(
    truth: Planted, found: list[Stability]
) -> None:
    """Not by direction, not by activation, and not as a whole by what it reconstructs there."""
    for kind in ("exact", "noisy", "plane", "space", "duplicate"):
        for features in (of_one.features for of_one in found):
            its = truth.of(kind)
            assert features.in_twins[its].max() == 0.0
            assert features.decoder_margin[its].min() > 0.3
            assert features.activation_margin[its].min() > 0.2
            assert features.reconstruction_margin[its].min() > 0.3


def test_what_is_planted_in_the_twins_too_has_no_margin_over_them(
    truth: Planted, found: list[Stability]
) -> None:
    its = truth.of("in twins")
    for features in (of_one.features for of_one in found):
        assert features.reappears[its].min() == 1.0
        assert features.in_twins[its].min() == 1.0
        assert features.decoder_margin[its].abs().max() < 1e-6
        assert features.activation_margin[its].abs().max() < 1e-6


def test_the_thresholds_lie_in_a_wide_gap(truth: Planted, found: list[Stability]) -> None:
    """Partners of features that are in every seed are above both, all others far below."""
    both = truth.of("exact") | truth.of("noisy")
    for features in (of_one.features for of_one in found):
        assert features.matched_cosine[both].min() > 0.8
        assert features.matched_correlation[both].min() > 0.95
        assert features.matched_cosine[truth.of("random")].max() < 0.3
        assert features.matched_correlation[truth.of("random")].max() < 0.3


def test_rotated_axes_may_be_near_others_and_yet_do_not_reappear(
    truth: Planted, found: list[Stability]
) -> None:
    """Of two axes and their opposites one is within 45 degrees of anything in the plane: at a
    cosine of 0.7 alone they would all be stable."""
    features = found[0].features
    assert features.matched_cosine[truth.of("plane")].min() > 0.8
    assert features.reappears[truth.of("plane")].min() >= 0.5
    assert features.in_subspace[truth.of("plane")].all()
    stable = truth.of("exact") | truth.of("noisy") | truth.of("random") | truth.of("composite")
    assert not features.in_subspace[stable].any()


def test_a_copy_that_is_never_active_makes_no_duplicate() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.98, 0.0, 0.2]])
    dictionaries = [written(unit(rows)) for _ in range(2)]
    x = 1.0 + torch.rand(64, 3, generator=generator(0))
    both = stability(dictionaries, [], [x])[0].features
    assert both.verdict == ["duplicate", "stable", "duplicate"]
    for dictionary in dictionaries:
        dictionary.threshold.data[2] = 1e9
    assert stability(dictionaries, [], [x])[0].features.verdict == ["stable", "stable", "dead"]


def test_a_dictionary_of_random_rows_is_no_feature_stable() -> None:
    dictionaries = [written(random_rows(64, 64, seed)) for seed in range(3)]
    x = torch.randn(512, 64, generator=generator(9))
    for of_one in stability(dictionaries, [], [x]):
        assert set(of_one.features.verdict) == {"unstable"}


def test_removing_what_is_unstable_takes_noise_away(found: list[Stability]) -> None:
    """Planted random rows only disturb: the others explain the activations without them."""
    for of_one in found:
        assert of_one.fvu_without_unstable < 0.07 < 0.09 < of_one.fvu
        assert of_one.variance_share["stable"] > 0.5
        assert of_one.variance_share["unstable"] < 0.1
        assert sum(of_one.variance_share.values()) == pytest.approx(1.0)
        assert sum(of_one.n_features.values()) == sum(COUNTS.values())


def test_without_twins_nothing_is_held_against_them(truth: Planted) -> None:
    features = stability(truth.dictionaries[:3], [], truth.batches)[0].features
    assert features.where("in twins too").sum() == 0
    assert features.where("stable")[truth.of("in twins")].all()
    assert features.nearest_twin.isnan().all() and features.in_twins.isnan().all()
    assert features.decoder_margin.isnan().all() and features.reconstruction_margin.isnan().all()


# What must not matter ----------------------------------------------------------------------------


def test_the_order_of_features_does_not_matter(truth: Planted, found: list[Stability]) -> None:
    n = len(truth.kinds)
    orders = [torch.randperm(n, generator=generator(seed)) for seed in range(6)]
    dictionaries = [reordered(d, o) for d, o in zip(truth.dictionaries, orders[:4], strict=True)]
    twins = [reordered(d, o) for d, o in zip(truth.twins, orders[4:], strict=True)]
    again = stability(dictionaries, twins, truth.batches)
    for before, after, order in zip(found, again, orders, strict=False):
        assert after.features.verdict == [before.features.verdict[i] for i in order]
        assert after.pw_mcc == pytest.approx(before.pw_mcc)
        for name in ("reappears", "matched_correlation", "nearest_twin", "variance_share"):
            its, now = getattr(before.features, name)[order], getattr(after.features, name)
            torch.testing.assert_close(now, its, rtol=1e-4, atol=1e-5)


def test_the_order_of_seeds_and_of_twins_does_not_matter(
    truth: Planted, found: list[Stability]
) -> None:
    again = stability(truth.dictionaries[::-1], truth.twins[::-1], truth.batches)
    for before, after in zip(found, again[::-1], strict=True):
        assert after.features.verdict == before.features.verdict
        assert after.mmcs == pytest.approx(before.mmcs)
        assert after.twin_mmcs == pytest.approx(before.twin_mmcs)


def test_the_size_of_batches_does_not_matter(truth: Planted, found: list[Stability]) -> None:
    batches = list(torch.cat(truth.batches).split(300))
    again = stability(truth.dictionaries, truth.twins, batches)[1]
    before = found[1]
    assert again.fvu == pytest.approx(before.fvu, rel=1e-5)
    for name in ("matched_correlation", "removal_loss", "variance_share"):
        of_both = (getattr(of_one.features, name) for of_one in (again, before))
        torch.testing.assert_close(*of_both, rtol=1e-4, atol=1e-6)


# What cannot be used -----------------------------------------------------------------------------


def test_one_dictionary_has_no_other_seeds() -> None:
    with pytest.raises(InputError, match="1 dictionaries cannot be matched: give at least two"):
        stability([written(torch.eye(2))], [], [torch.ones(2, 2)])


def test_dictionaries_of_different_widths_or_sites_are_refused() -> None:
    with pytest.raises(InputError, match="dictionary 1 takes activations of width 3"):
        match_seeds([written(torch.eye(2)), written(torch.eye(3))])
    dictionaries = [written(torch.eye(2)) for _ in range(2)]
    for number, dictionary in enumerate(dictionaries):
        dictionary.provenance = Provenance(hook_name=f"site {number}")
    with pytest.raises(InputError, match="of several sites, site 0, site 1"):
        match_seeds(dictionaries)


def test_activations_that_cannot_be_gone_through_twice_are_refused(truth: Planted) -> None:
    with pytest.raises(InputError, match="can be gone through only once: give a list"):
        stability(truth.dictionaries[:2], [], iter(truth.batches[:1]))
    with pytest.raises(InputError, match=r"shape \[2, 3\]: give \[rows, 256\]"):
        stability(truth.dictionaries, [], [torch.ones(2, 3)])


def test_a_dictionary_that_undoes_a_normalisation_has_no_contributions() -> None:
    cfg = PretrainedConfig(d_sae=4, activation="relu", normalization="layer_norm")
    rows = random_rows(4, 4, 0)
    weights = {"W_enc": rows.T, "W_dec": rows, "b_enc": torch.zeros(4), "b_dec": torch.zeros(4)}
    dictionary = PretrainedSAE(cfg, weights)
    with pytest.raises(InputError, match="dictionary 0 undoes a normalisation of its input"):
        measure([dictionary], [], [], [3.0 * torch.randn(8, 4, generator=generator(0))])


@pytest.mark.parametrize(
    ("name", "value"), [("decoder_cosine", 0.0), ("min_share", 1.5), ("subspace_dim", 1)]
)
def test_thresholds_that_mean_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} must .* got {value}"):
        replace(Thresholds(), **{name: value})
