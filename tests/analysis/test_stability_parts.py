"""The parts that the stability of features is made of, by hand or against NumPy."""

import math

import numpy as np
import planted as world
import pytest
import torch
from planted import Planted, generator, planted, random_rows, reordered, turned, unit, written
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.analysis.stability import (
    Pairing,
    Thresholds,
    assign,
    expected_nearest,
    match_seeds,
    measure,
    nearest,
    without,
)
from sae.analysis.stability.assignment import nearest_other
from sae.analysis.stability.subspaces import Fit, fit_span, is_rotated, mixtures
from sae.evaluation import evaluate_reconstruction
from sae.provenance import Provenance


@pytest.fixture(scope="module")
def truth() -> Planted:
    return planted(seed=0, n_tokens=2048)


# Matching ----------------------------------------------------------------------------------------


def test_a_dictionary_and_its_copy_in_another_order_agree_entirely() -> None:
    one = written(random_rows(50, 16, 0))
    order = torch.randperm(50, generator=generator(1))
    matches = match_seeds([one, reordered(one, order)])
    assert matches.pw_mcc == pytest.approx(1.0) and matches.mmcs == pytest.approx(1.0)
    assert torch.equal(matches.of[1, 0].partner, order)
    assert torch.equal(matches.of[0, 1].partner[order], torch.arange(50))


def test_pw_mcc_and_mmcs_of_two_directions_by_hand() -> None:
    a = written(torch.tensor([[1.0, 0.0], [0.8, 0.6]]))
    b = written(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    matches = match_seeds([a, b])
    # one to one: 1 and -0.8; the largest: 1 and 0.8 from a; 1 and -0.8 from b
    assert matches.pw_mcc == pytest.approx(0.1)
    assert matches.mmcs == pytest.approx((0.9 + 0.1) / 2)
    assert matches.mmcs_of(0) == pytest.approx(0.9) and matches.mmcs_of(1) == pytest.approx(0.1)
    # with signs: an opposite direction is another feature
    assert matches.of[0, 1].partner.tolist() == [0, 1]


def test_the_same_row_is_its_own_partner_where_the_best_assignment_parts_it() -> None:
    """f, (f + g) / sqrt 2 against f, (f - g) / sqrt 2: straight 1 + 0, crossed 2 x 0.71."""
    half = math.sqrt(0.5)
    a = written(torch.tensor([[1.0, 0.0], [half, half]]))
    b = written(torch.tensor([[1.0, 0.0], [half, -half]]))
    matches = match_seeds([a, b])
    assert matches.pw_mcc == pytest.approx(half)
    assert matches.of[0, 1].partner.tolist() == [0, 1]
    assert matches.of[0, 1].cosine.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_of_a_wider_dictionary_some_features_have_no_partner() -> None:
    rows = torch.eye(4)
    matches = match_seeds([written(rows), written(rows[[2, 0]])])
    assert matches.of[0, 1].partner.tolist() == [1, -1, 0, -1]
    assert matches.of[0, 1].cosine.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert matches.pw_mcc == pytest.approx(1.0)


@pytest.mark.parametrize("widths", [(600, 600), (600, 450), (450, 600)])
def test_wide_dictionaries_are_assigned_from_their_nearest_rows_nearly_as_well(
    widths: tuple[int, int],
) -> None:
    shared = random_rows(300, 48, 0)
    noisy = turned(shared, torch.full((300,), 0.9), generator(3))
    a, b = (
        torch.cat([rows, random_rows(n - 300, 48, n + number)])
        for number, (rows, n) in enumerate(zip((shared, noisy), widths, strict=True))
    )
    exact, wide = assign(a, b), assign(a, b, exact_pairs=100 * 100)
    assert len(wide.partner[wide.partner >= 0].unique()) == min(widths)
    assert wide.mean_cosine() <= exact.mean_cosine() + 1e-6
    assert wide.mean_cosine() == pytest.approx(exact.mean_cosine(), abs=1e-3)
    sure = exact.cosine >= 0.7
    assert torch.equal(wide.partner[sure], exact.partner[sure]) and sure.sum() >= 290


def test_random_rows_are_as_near_each_other_as_theory_says() -> None:
    """In three dimensions cosines are uniform in [-1, 1]: the largest of n is (n - 1) / (n + 1)."""
    assert expected_nearest(1, 7) == pytest.approx(0.0, abs=1e-6)
    assert expected_nearest(9, 3) == pytest.approx(0.8, abs=1e-6)
    for n, d in [(400, 32), (1000, 128)]:
        matches = match_seeds([written(random_rows(n, d, seed)) for seed in (1, 2)])
        assert matches.mmcs == pytest.approx(expected_nearest(n, d), abs=0.005)
        assert matches.pw_mcc < matches.mmcs


def test_nearest_rows_are_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_rows(50, 8, 0), random_rows(40, 8, 1)
    cosine, index = nearest(a, b, k=3)
    monkeypatch.setattr("sae.analysis.stability.assignment.CHUNK_PAIRS", 7 * 40)
    in_chunks = nearest(a, b, k=3)
    assert torch.equal(index, in_chunks[1])
    torch.testing.assert_close(cosine, in_chunks[0])
    torch.testing.assert_close(cosine[:, 0], (a @ b.T).amax(dim=1))


def test_the_nearest_other_row_is_never_the_row_itself() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8], [1.0, 0.0]])
    cosine, index = nearest_other(rows)
    assert cosine.tolist() == pytest.approx([1.0, 0.6, 1.0])
    assert index.tolist()[0::2] == [2, 0]


# Activations -------------------------------------------------------------------------------------


def test_correlations_are_those_of_dense_activations(truth: Planted) -> None:
    one, other = truth.dictionaries[:2]
    n = len(truth.kinds)
    partner = torch.randperm(n, generator=generator(0))
    partner[::5] = -1
    partner[1] = partner[2]  # two features may look at the same one
    activity = measure([one], [other], [Pairing(0, 1, partner)], truth.batches)
    x = torch.cat(truth.batches)
    a, b = (d.encode(x).detach().double().numpy() for d in (one, other))
    correlations = activity.pairs.correlations(0)
    for feature in range(n):
        to = int(partner[feature])
        expected = 0.0
        if to >= 0 and a[:, feature].any() and b[:, to].any():
            expected = np.corrcoef(a[:, feature], b[:, to])[0, 1]
        assert correlations[feature].item() == pytest.approx(expected, abs=1e-9)
    assert activity.pairs.fires[0].tolist() == (a != 0).sum(axis=0).tolist()


def test_features_that_are_always_active_and_independent_do_not_correlate() -> None:
    rows = torch.eye(2)
    x = 1.0 + torch.rand(4096, 2, generator=generator(0))  # cosine of the two: 0.96
    one = written(rows, threshold=0.0)
    activity = measure([one], [one], [Pairing(0, 1, torch.tensor([1, 0]))], [x])
    assert activity.pairs.correlations(0).abs().max() < 0.05


def test_a_code_that_is_padded_is_summed_once(truth: Planted) -> None:
    """Sparse codes repeat an index with the value 0 where a token has fewer features."""
    activity = measure(truth.dictionaries[:1], [], [], [torch.zeros(3, world.D_IN)])
    assert activity.pairs.fires[0].sum() == 0


def test_what_a_feature_is_worth_by_hand() -> None:
    """Two axes; x = (2, 0), (0, 1), (0, -1), (-2, 0). Only positive parts are reconstructed:
    variance 10, error 0 + 0 + 1 + 4."""
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, -1.0], [-2.0, 0.0]])
    of_one = measure([written(torch.eye(2), 0.5)], [], [], [x]).reconstructed[0]
    assert of_one.variance == pytest.approx(10.0)
    assert of_one.fvu == pytest.approx(0.5)
    assert of_one.removal_loss().tolist() == pytest.approx([0.4, 0.1])
    # x_hat = (2, 0), (0, 1), 0, 0: mean (0.5, 0.25), variance 5 - 4 * 0.3125 = 3.75,
    # covariance of the first contribution with it: 4 - 2 * 0.5 = 3
    assert of_one.variance_share().tolist() == pytest.approx([0.8, 0.2])
    assert of_one.unexplained_along().tolist() == [[0.0, 0.0]]


def test_the_loss_of_one_feature_and_the_variance_shares_are_of_the_whole(truth: Planted) -> None:
    dictionary, x = truth.dictionaries[2], torch.cat(truth.batches)
    of_one = measure([dictionary], [], [], truth.batches).reconstructed[0]
    whole = evaluate_reconstruction(dictionary, x).fvu
    assert of_one.fvu == pytest.approx(whole, rel=1e-5)
    assert of_one.variance_share().sum().item() == pytest.approx(1.0)
    losses = of_one.removal_loss()
    for feature in (0, 50):
        alone = evaluate_reconstruction(without(dictionary, [feature]), x).fvu
        assert losses[feature].item() == pytest.approx(alone - whole, abs=1e-6)


def test_a_twin_explains_what_it_reconstructs_along_a_feature() -> None:
    """The dictionary is exact, the twin gives half: of (x - mean)^2 = 1 it leaves 0.25."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    exact, half = written(torch.eye(2), 0.5), written(torch.eye(2), 0.25)
    half.untied_W_enc_rows = torch.nn.Parameter(0.5 * torch.eye(2))
    unexplained = measure([exact], [half], [], [x]).reconstructed[0].unexplained_along()
    assert unexplained[:, 0].tolist() == pytest.approx([0.0, 0.25])
    assert unexplained[:, 1].isnan().all()  # never active


# Without some features ---------------------------------------------------------------------------


def test_what_is_left_out_is_missing_and_all_else_is_as_it_was() -> None:
    dictionary = written(torch.eye(3), 0.5)
    dictionary.b_dec.data = torch.tensor([0.0, 0.0, 1.0])
    dictionary.provenance = Provenance(hook_name="blocks.1.hook_resid_pre")
    x = torch.tensor([[1.0, 2.0, 4.0]])
    lesser = without(dictionary, [1])
    x_hat, acts = lesser.reconstruct(x)
    assert x_hat.tolist() == [[1.0, 0.0, 4.0]]
    assert acts.dense().tolist() == [[1.0, 0.0, 3.0]]
    assert lesser.provenance is dictionary.provenance
    assert torch.equal(without(dictionary, torch.tensor([False, True, False])).is_left_out,
                       lesser.is_left_out)  # fmt: skip
    assert torch.equal(without(dictionary, []).reconstruct(x)[0], dictionary.reconstruct(x)[0])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([0, 3], "there is no feature 3: give numbers in 0..2"),
        ([-1], "there is no feature -1"),
        (torch.ones(2, dtype=torch.bool), r"shape \[2\], and the dictionary has 3 features"),
    ],
)
def test_features_that_are_not_there_cannot_be_left_out(
    features: list[int] | Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        without(written(torch.eye(3)), features)


# Subspaces ---------------------------------------------------------------------------------------


def test_a_span_is_grown_by_what_is_left_and_not_by_opposites() -> None:
    """Nearest to (0.8, 0.6, 0) are an axis and its opposite; the second row has to add to it."""
    rows = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    fit = fit_span(torch.tensor([[0.8, 0.6, 0.0], [0.0, 0.0, 1.0]]), rows, dim=2)
    assert fit.axis.tolist() == pytest.approx([0.64, 1.0])
    assert fit.span.tolist() == pytest.approx([1.0, 1.0])
    assert fit.explained_rest.tolist() == pytest.approx([1.0, 0.0])


def test_nothing_is_spanned_by_no_rows() -> None:
    fit = fit_span(torch.eye(2), torch.empty(0, 2), dim=2)
    assert fit.axis.tolist() == fit.span.tolist() == [0.0, 0.0]


def test_noise_around_an_axis_is_not_spanned() -> None:
    truth = random_rows(100, 128, 0)
    a, b = (turned(truth, torch.full((100,), 0.9), generator(seed)) for seed in (1, 2))
    fit = fit_span(a, b, dim=3)
    assert fit.axis.mean() == pytest.approx(0.81**2, abs=0.05)
    assert fit.explained_rest.max() < 0.35
    assert not _rotated(fit, fit_span(mixtures(a), b, dim=3)).any()


def test_a_few_common_directions_make_no_subspace_since_they_span_any_mixture_too() -> None:
    """All rows of both seeds lie near the same five dimensions, at random: most of what one row
    leaves is explained by the next, and so it is for random mixtures of them."""
    common = world.basis(5, generator(0))
    a, b = (
        unit(random_rows(60, 5, seed) @ common[:, :] + 0.15 * random_rows(60, world.D_IN, seed))
        for seed in (1, 2)
    )
    fit, null = fit_span(a, b, dim=3), fit_span(mixtures(a), b, dim=3)
    no_null = Fit(torch.zeros(1), torch.zeros(1))
    assert _rotated(fit, no_null).double().mean() > 0.3
    assert _rotated(fit, null).double().mean() <= 0.05


def test_what_a_twin_spans_as_well_is_not_found_in_the_seeds() -> None:
    plane = Fit(torch.tensor([0.5]), torch.tensor([1.0]))
    null = Fit(torch.zeros(1), torch.zeros(1))
    assert _rotated(plane, null).tolist() == [True]
    assert _rotated(plane, null, [plane]).tolist() == [False]


def _rotated(fit: Fit, null: Fit, of_twins: list[Fit] | None = None) -> Tensor:
    at = Thresholds()
    return is_rotated(
        fit,
        null,
        of_twins or [],
        axis_cosine=at.axis_cosine,
        span_cosine=at.span_cosine,
        explained_rest=at.explained_rest,
    )
