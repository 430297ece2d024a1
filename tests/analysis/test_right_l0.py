"""Whether L0 is right: c_dec by hand, verdicts on curves by hand, and dictionaries that are trained
on features whose L0 is known. Where the proxy fails, a test says so."""

import json
import math

import numpy as np
import pytest
import torch
from planted import generator, random_rows, unit, written
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.analysis.right_l0 import (
    Point,
    RightL0,
    decoder_similarity,
    judge,
    random_similarity,
    right_l0,
)
from sae.analysis.stability import SparseDictionary
from sae.architectures import BatchTopKConfig
from sae.architectures.jumprelu import JumpReLUSAE
from sae.toy import CorrelatedSets, Features, Hierarchical, Independent, SparseFeatures
from sae.toy.recovery import fit, recipe

# c_dec -------------------------------------------------------------------------------------------


def test_c_dec_of_three_rows_by_hand() -> None:
    """|cosines| of the pairs: 0.6, 1, 0.6. A row that is 0 makes no pair, and norms are nothing."""
    rows = torch.tensor([[2.0, 0.0], [0.6, 0.8], [-1.0, 0.0], [0.0, 0.0]])
    assert decoder_similarity(rows).c_dec == pytest.approx(2.2 / 3)
    assert decoder_similarity(torch.eye(5)).c_dec == 0.0
    assert math.isnan(decoder_similarity(torch.eye(5)[:1]).c_dec)


def test_c_dec_is_numpys_however_many_rows_are_taken_at_once() -> None:
    rows = random_rows(40, 7, 0) * (1 + torch.rand(40, 1, generator=generator(1)))
    exact = unit(rows.double()).numpy()
    expected = abs(exact @ exact.T)[np.triu_indices(40, 1)].mean()
    found = [decoder_similarity(rows, chunk_pairs=n) for n in (1, 333, 1 << 24)]
    assert [its.c_dec for its in found] == pytest.approx([expected] * 3, rel=1e-6)
    errors = [its.standard_error for its in found]
    assert errors == pytest.approx([errors[0]] * 3, rel=1e-4)


def test_the_bootstrap_is_that_of_numpy_over_features() -> None:
    """Features are drawn with replacement; a feature that is drawn twice is no pair of its own."""
    rows = random_rows(30, 5, 2)
    cosines = abs((rows @ rows.T).double().numpy())
    rng, means = np.random.default_rng(0), []
    for _ in range(2000):
        drawn = rng.integers(30, size=30)
        is_pair = drawn[:, None] != drawn
        means.append(cosines[np.ix_(drawn, drawn)][is_pair].mean())
    found = decoder_similarity(rows, n_draws=2000).standard_error
    assert found == pytest.approx(np.std(means), rel=0.1)


def test_other_random_features_differ_by_what_the_bootstrap_says() -> None:
    """Features of a lopsided cloud: of features that are spread evenly over the sphere the
    similarity is no matter of single features, and the bootstrap says too much."""

    def lopsided(seed: int) -> Tensor:
        return random_rows(100, 6, seed) + torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])

    of_others = [decoder_similarity(lopsided(seed), n_draws=0).c_dec for seed in range(200)]
    said = decoder_similarity(lopsided(999)).standard_error
    assert said == pytest.approx(np.std(of_others), rel=0.25)


def test_c_dec_of_random_rows() -> None:
    """In the plane the mean of |cos| is 2 / pi, in three dimensions 1 / 2."""
    assert random_similarity(2) == pytest.approx(2 / math.pi)
    assert random_similarity(3) == pytest.approx(0.5)
    found = decoder_similarity(random_rows(1500, 40, 0), n_draws=0).c_dec
    assert found == pytest.approx(random_similarity(40), rel=0.01)


# Verdicts ----------------------------------------------------------------------------------------


def _curve(
    *c_dec: float, random: float = 0.1, must_overlap: bool = True, freedom: int | None = 20
) -> RightL0:
    """At L0 1, 2, 4 and so on, with standard errors of 0.01."""
    points = [Point(2.0**i, c, 0.01, 3) for i, c in enumerate(c_dec)]
    return judge(points, random, must_overlap=must_overlap, freedom=freedom)


def test_a_valley_is_about_right_between_the_l0s_that_are_beyond_doubt_higher() -> None:
    """L0 1, 2, 4, 8, 16. At 2 and 8 c_dec is higher by one standard error, which may be chance."""
    found = _curve(0.5, 0.21, 0.2, 0.21, 0.5)
    assert found.verdict == "about right" and found.best == 4.0 and found.between == (1.0, 16.0)
    assert str(found).startswith("about right: between 1 and 16 (c_dec is least at L0 4")
    verdicts = [found.of(l0) for l0 in (0.5, 1.0, 1.5, 4.0, 15.0, 16.0)]
    assert verdicts == ["too low"] * 2 + ["about right"] * 3 + ["too high"]
    assert _curve(0.5, 0.3, 0.2, 0.3, 0.5).between == (2.0, 8.0)


def test_a_curve_that_falls_to_its_end_says_on_which_side_the_sweep_is() -> None:
    falls = _curve(0.5, 0.4, 0.3, 0.2)
    assert falls.verdict == "too low" and falls.between == (4.0, None)
    assert falls.of(4.0) == "too low" and falls.of(8.0) == "cannot tell"
    rises = _curve(0.2, 0.3, 0.4, 0.5)
    assert rises.verdict == "too high" and rises.between == (None, 2.0)
    assert rises.of(2.0) == "too high" and rises.of(1.0) == "cannot tell"


def test_of_a_flat_curve_nothing_is_told() -> None:
    flat = _curve(0.21, 0.2, 0.22, 0.21)
    assert flat.verdict == "cannot tell" and "flat" in flat.reason
    assert flat.of(2.0) == "cannot tell"


def test_a_rise_on_one_side_alone_bounds_l0_on_that_side_alone() -> None:
    found = _curve(0.5, 0.3, 0.2, 0.21)
    assert found.verdict == "cannot tell" and "no rise above" in found.reason
    assert found.of(2.0) == "too low" and found.of(4.0) == "cannot tell"


def test_with_two_dips_nothing_is_told() -> None:
    found = _curve(0.5, 0.2, 0.5, 0.3)
    assert found.verdict == "cannot tell" and "falls again from L0 4 to 8" in found.reason


def test_a_curve_that_falls_to_where_random_rows_are_tells_nothing() -> None:
    """A fall to 0.2 tells of a right L0 that is larger where random rows have 0.1, and of nothing
    where they have 0.18 or 0.3."""
    assert _curve(0.5, 0.4, 0.3, 0.2, random=0.1).verdict == "too low"
    for random in (0.18, 0.3):
        found = _curve(0.5, 0.4, 0.3, 0.2, random=random)
        assert found.verdict == "cannot tell" and "random rows" in found.reason
        assert found.of(1.0) == "cannot tell" and found.between == (None, None)


def test_a_valley_below_random_rows_is_one_only_where_rows_need_not_overlap() -> None:
    valley = 0.5, 0.3, 0.2, 0.3, 0.5
    assert _curve(*valley, random=0.21).verdict == "about right"
    assert _curve(*valley, random=0.3).verdict == "cannot tell"
    assert _curve(*valley, random=0.3, must_overlap=False).verdict == "about right"


def test_the_same_difference_tells_less_with_fewer_seeds() -> None:
    """Ten pairs at one of twenty: 2.58 standard errors of a difference, 0.014, where these are
    known well, and 14.1 of them with two degrees of freedom."""
    for rise, freedom, is_found in ((0.037, None, True), (0.036, None, False), (0.1, 2, False)):
        found = _curve(0.5, 0.2 + rise, 0.2, 0.2 + rise, 0.5, freedom=freedom)
        assert (found.between == (2.0, 8.0)) is is_found


def test_standard_errors_are_pooled_over_the_seeds_by_hand() -> None:
    """c_dec of two rows is their |cosine|. Deviations: 0.1 twice, then none: a variance of
    2 x 0.01 / (1 + 1 + 0), over two seeds or over one."""

    def two(cosine: float) -> JumpReLUSAE:
        return written(torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]]))

    sweep = [(8.0, two(0.9)), (2.0, two(0.5)), (2.0, two(0.7)), (4.0, two(0.3)), (4.0, two(0.3))]
    found = right_l0(sweep)
    assert [(p.l0, p.n_seeds) for p in found.curve] == [(2.0, 2), (4.0, 2), (8.0, 1)]
    assert [p.c_dec for p in found.curve] == pytest.approx([0.6, 0.3, 0.9])
    errors = [p.standard_error for p in found.curve]
    assert errors == pytest.approx([0.1 / math.sqrt(2), 0.1 / math.sqrt(2), 0.1])
    assert found.uncertainty == "seeds"


# Planted rows, and what must not matter ----------------------------------------------------------


def _planted(mixed: float, seed: int) -> Tensor:
    """Forty orthogonal rows, with so much of a common direction mixed into each."""
    rows = torch.linalg.qr(torch.randn(50, 50, generator=generator(seed))).Q
    return unit(rows[:40] + mixed * rows[40])


MIXED = {4.0: 0.8, 8.0: 0.4, 16.0: 0.1, 32.0: 0.3, 64.0: 0.6}


def test_with_one_seed_errors_are_over_features() -> None:
    found = right_l0([(l0, written(_planted(mixed, 0))) for l0, mixed in MIXED.items()])
    assert found.uncertainty == "features" and found.verdict == "about right"
    assert found.best == 16.0 and found.between == (8.0, 32.0)


def test_order_and_lengths_of_features_and_the_encoder_do_not_matter() -> None:
    sweep = [(l0, written(_planted(m, s))) for l0, m in MIXED.items() for s in range(3)]
    found = right_l0(sweep)
    order = torch.randperm(40, generator=generator(1))
    for _, dictionary in sweep:
        dictionary.W_dec.data = (dictionary.W_dec.data * torch.arange(1.0, 41.0)[:, None])[order]
        assert dictionary.untied_W_enc_rows is not None
        dictionary.untied_W_enc_rows.data *= 3.0
    other = right_l0(sweep[::-1])
    assert other.verdict == found.verdict and other.between == found.between
    for a, b in zip(other.curve, found.curve, strict=True):
        assert a.c_dec == pytest.approx(b.c_dec, rel=1e-5) and a.l0 == b.l0


def test_the_result_is_json() -> None:
    found = right_l0([(l0, written(_planted(0.3, 0))) for l0 in (1.0, 2.0, 4.0)])
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert read["verdict"] == "cannot tell" and read["between"] == [None, None]
    assert read["curve"][0]["l0"] == 1.0


def test_what_cannot_be_used_is_said_in_one_line() -> None:
    one, wide = written(torch.eye(4)), written(torch.eye(5))
    with pytest.raises(InputError, match=r"2 different L0s.*: give at least 3"):
        right_l0([(1.0, one), (2.0, one), (2.0, one)])
    with pytest.raises(InputError, match=r"shape \[4, 4\] and \[5, 5\]"):
        right_l0([(1.0, one), (2.0, wide), (3.0, one)])
    with pytest.raises(InputError, match="l0 must be positive, got 0"):
        right_l0([(0.0, one), (2.0, one), (3.0, one)])
    wide.W_dec.data[0] = math.inf
    with pytest.raises(InputError, match="with L0 1 is not finite"):
        right_l0([(1.0, wide), (2.0, wide), (3.0, wide)])


# Dictionaries trained where the right L0 is known ------------------------------------------------


class Strong(Features):
    """Features of another distribution with strengths uniform in [0.75, 1.25].

    Where strengths go down to 0, the weakest are worth no active feature, and the L0 that is right
    for a dictionary is less than the number of those that are not 0."""

    def __init__(self, of: Features) -> None:
        self._of, self.n_features = of, of.n_features

    def sample(self, n_tokens: int, generator: torch.Generator) -> Tensor:
        strengths = self._of.sample(n_tokens, generator)
        return torch.where(strengths > 0, 0.75 + 0.5 * strengths, 0.0)


class Correlated(Features):
    """Features that are active where correlated normal numbers exceed a level, with strengths
    around 1: the setting of the paper's `get_correlated_features`, with correlations of rank 3."""

    def __init__(self, n_features: int, mean_active: float) -> None:
        g = generator(7)
        p = 0.345 * (n_features - torch.arange(n_features) - 1.0) / n_features + 0.05
        self._level = -torch.special.ndtri(p * (mean_active / p.sum()))
        common = unit(torch.randn(n_features, 3, generator=g))
        matrix = 0.7 * common @ common.T + 0.3 * torch.eye(n_features)
        self._root, self.n_features = torch.linalg.cholesky(matrix), n_features

    def sample(self, n_tokens: int, generator: torch.Generator) -> Tensor:
        shape = self.n_features, n_tokens
        is_active = self._root @ torch.randn(shape, generator=generator) > self._level[:, None]
        return is_active * (1.0 + 0.15 * torch.randn(shape, generator=generator)).relu()


def _families(parent: float, child: float) -> Hierarchical:
    """Ten parents with four children each."""
    parents = [-1 if i % 5 == 0 else i - i % 5 for i in range(50)]
    return Hierarchical(torch.tensor([parent if p < 0 else child for p in parents]), parents)


def _trained(
    features: Features, d_in: int, ks: list[int], *, n_tokens: int = 400_000, lr: float = 4e-3
) -> list[tuple[float, SparseDictionary]]:
    """Three BatchTopK dictionaries of each k, as wide as there are features, whose directions are
    random."""
    stream = SparseFeatures(features, d_in, batch_tokens=512, seed=0)
    runs = [(k, seed) for k in ks for seed in range(3)]
    cfgs = [BatchTopKConfig(d_sae=features.n_features, k=k) for k, _ in runs]
    found = fit(cfgs, stream, [recipe(n_tokens, lr=lr, seed=seed) for _, seed in runs])
    return [(float(k), dictionary) for (k, _), dictionary in zip(runs, found, strict=True)]


def test_of_sixteen_features_of_which_four_are_active_the_dictionary_with_four_is_found() -> None:
    """Orthogonal features, one seed, and 32,000 tokens."""
    directions = torch.linalg.qr(torch.randn(24, 16, generator=generator(5))).Q.T.contiguous()
    features = Strong(Independent(torch.full((16,), 0.25)))
    stream = SparseFeatures(features, 24, directions=directions, batch_tokens=256, seed=0)
    ks = [1, 4, 10]
    cfgs = [BatchTopKConfig(d_sae=16, k=k) for k in ks]
    found = right_l0(
        list(zip(map(float, ks), fit(cfgs, stream, recipe(32_000, lr=1e-2)), strict=True))
    )
    assert found.verdict == "about right" and found.best == 4.0
    assert found.of(1.0) == "too low" and found.of(10.0) == "too high"


@pytest.mark.slow
def test_of_correlated_features_the_right_l0_is_found_and_each_side_is_told() -> None:
    """Fifty features, eleven of them active: the paper's main setting, in 100 dimensions."""
    ks = [2, 4, 6, 11, 18, 22]
    sweep = _trained(Correlated(50, 11.0), 100, ks, n_tokens=600_000, lr=3e-3)
    found = right_l0(sweep)
    assert found.verdict == "about right" and found.of(11.0) == "about right", found
    assert found.of(6.0) == "too low" and found.of(22.0) == "too high"
    assert right_l0([its for its in sweep if its[0] <= 6]).verdict == "too low"
    assert right_l0([its for its in sweep if its[0] >= 11]).verdict in ("too high", "cannot tell")


@pytest.mark.slow
def test_in_superposition_the_rows_move_apart_and_nothing_is_told() -> None:
    """Fifty features in 40 dimensions, eight active: c_dec falls below the true features'."""
    sweep = _trained(Correlated(50, 8.0), 40, [2, 4, 8, 13, 16])
    found = right_l0(sweep)
    assert found.best > 8.0 and found.curve[-1].c_dec < found.random
    assert found.verdict == "cannot tell" and found.of(8.0) == "cannot tell", found


@pytest.mark.slow
def test_of_features_that_only_occur_together_the_proxy_is_wrong_and_does_not_know() -> None:
    """Twenty-five pairs of features, eight features active. c_dec falls past 8: a sweep that has 8
    in it is too low, it says. A larger one reaches random rows, and says that it cannot tell."""
    sweep = _trained(Strong(CorrelatedSets(torch.full((25,), 0.16), 2)), 100, [3, 8, 11, 20])
    assert right_l0([its for its in sweep if its[0] <= 11]).verdict == "too low"
    assert right_l0(sweep).verdict == "cannot tell"
