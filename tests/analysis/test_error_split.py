"""The split of a dictionary's error, by hand, against NumPy, and on errors that were planted."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae.analysis.error import ErrorSplit, in_test, split_error

SIDES = in_test(torch.arange(1000), 0)
FIT, TEST = (side.nonzero().flatten() for side in (~SIDES, SIDES))
"""Documents of either side, for seed 0."""


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _documents(n: int, each: int = 10) -> Tensor:
    return torch.arange(n) // each


def _split(x: Tensor, error: Tensor, **settings: Any) -> ErrorSplit:
    return split_error([(x, x - error, _documents(len(x)))], **settings)


def _sides(x: Tensor, error: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """x and the error on the fit side and on the test side."""
    test = in_test(_documents(len(x)), 0)
    return [(x[side].numpy(), error[side].numpy()) for side in (~test, test)]


def _lstsq(inputs: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """NumPy's least squares with an intercept."""

    def with_ones(of: np.ndarray) -> np.ndarray:
        return np.column_stack((of, np.ones(len(of))))

    weights = np.linalg.lstsq(with_ones(inputs), targets, rcond=1e-12)[0]
    return lambda of: with_ones(of) @ weights


def _r2(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of each column."""
    return 1 - np.square(truth - predicted).sum(0) / np.square(truth - truth.mean(0)).sum(0)


# By hand -----------------------------------------------------------------------------------------


def test_each_number_by_hand_in_one_dimension() -> None:
    """Fit: x = 0, 2 has the error 1, 2 in both documents, so it is x / 2 + 1. Test: x = 0, 2, 4, 6
    is predicted to have 1, 2, 3, 4 and has 1, 2, 3, 5, which is off from its mean by 8.75."""
    x = torch.tensor([0.0, 2, 0, 2, 0, 2, 4, 6])[:, None]
    error = torch.tensor([1.0, 2, 1, 2, 1, 2, 3, 5])[:, None]
    documents = torch.cat((FIT[[0, 0, 1, 1]], TEST[[0, 0, 1, 1]]))
    split = split_error([(x, x - error, documents)], ridge=1e-12)
    assert split.linear_map.B.item() == pytest.approx(0.5)
    assert split.linear_map.b.item() == pytest.approx(1.0)
    assert split.fvu == pytest.approx(39 / 20)
    assert split.fvu_linear == pytest.approx(1 / 20)
    assert split.r2 == split.r2_pooled == pytest.approx(1 - 1 / 8.75)
    assert split.shrinkage == pytest.approx(0.5)
    assert split.r2_shrinkage == pytest.approx(split.r2)  # one dimension has only one number
    assert split.norm_linear == pytest.approx(10 / 11)
    assert split.norm_nonlinear == pytest.approx(1 / 11)
    # x_hat is -1, 0 with the errors 1, 2, so 2 + x_hat; of -1, 0, 1, 1 it says 1, 2, 3, 3.
    assert split.r2_from_x_hat == pytest.approx(1 - 4 / 8.75)
    # |e|^2 is 1, 4, 9, 25: 342.75 about its mean. x says 1, 4, 7, 10, |x|^2 says 1, 4, 13, 28, and
    # x_hat says 1, 4, 7, 7.
    assert split.r2_norm == pytest.approx(1 - (4 + 225) / 342.75)
    assert split.r2_norm_from_x_norm == pytest.approx(1 - (16 + 9) / 342.75)
    assert split.r2_norm_from_x_hat == pytest.approx(1 - (4 + 324) / 342.75)
    # On the fit side all is explained. Of x_hat: 2 * (1 + 4) over 2 * (1 + 1).
    assert split.fit.r2 == split.fit.r2_norm == pytest.approx(1.0)
    assert split.fit.fvu == pytest.approx(10 / 4)
    assert split.fit.norm_linear == pytest.approx(1.0)
    assert split.fit.norm_nonlinear == pytest.approx(0.0, abs=1e-9)
    assert (split.n_fit_tokens, split.n_test_tokens) == (4, 4)
    assert (split.n_fit_documents, split.n_test_documents) == (2, 2)


def test_dimensions_count_alike_in_one_r2_and_by_their_variance_in_the_other() -> None:
    """On the corners of a square, the first error is x_2, which is linear, and the second is
    3 x_1 x_2, which no linear map sees: 1 of 2 dimensions, and 1 of 1 + 9 of the variance."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    x = corners.repeat(4, 1)
    error = torch.stack((x[:, 1], 3 * x[:, 0] * x[:, 1]), dim=1)
    documents = torch.cat((FIT[:2], TEST[:2])).repeat_interleave(4)
    split = split_error([(x, x - error, documents)])
    assert split.r2 == pytest.approx(1 / 2)
    assert split.r2_pooled == pytest.approx(1 / 10)
    assert (split.fvu, split.fvu_linear) == pytest.approx((10 / 2, 9 / 2))
    # x @ B: what the second number of x adds to the first of the error stands in the second row.
    expected = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(split.linear_map.B, expected, atol=1e-5)
    # Every number of x explains only another's error, so one scale for all of them explains none.
    assert split.shrinkage == pytest.approx(0.0, abs=1e-9)
    assert split.r2_shrinkage == pytest.approx(0.0, abs=1e-9)
    # The length of the error is the same in all corners.
    assert math.isnan(split.r2_norm)


def test_the_linear_part_is_what_the_reconstruction_is_missing_and_not_its_opposite() -> None:
    x = _normal(400, 3)
    split = _split(x, 0.2 * x)
    new = torch.tensor([[1.0, -2.0, 3.0]])
    assert torch.allclose(split.linear_part(new), 0.2 * new, atol=1e-5)
    in_context = new.to(torch.bfloat16).expand(4, 5, 3)
    part = split.linear_part(in_context)
    assert (part.shape, part.dtype) == ((4, 5, 3), torch.bfloat16)


def test_a_dimension_in_which_the_error_never_varies_has_no_r2() -> None:
    x = (8 * _normal(2000, 2)).round()  # so that x - x_hat has no rounding
    error = torch.stack((x[:, 0] / 2, torch.full_like(x[:, 0], 3.0)), dim=1)
    assert _split(x, error).r2 == pytest.approx(1.0)


# Against NumPy -----------------------------------------------------------------------------------


def test_it_is_numpys_least_squares_on_the_fit_documents_scored_on_the_test_documents() -> None:
    x = _normal(600, 5) @ _normal(5, 5, seed=1) + 3
    error = x @ _normal(5, 5, seed=2) * 0.3 + _normal(600, 5, seed=3) * x.abs()
    split = _split(x, error, ridge=1e-12)
    (x_fit, e_fit), (x_test, e_test) = _sides(x, error)
    linear = _lstsq(x_fit, e_fit)(x_test)
    assert np.allclose(split.linear_part(torch.from_numpy(x_test)).numpy(), linear, rtol=1e-6)
    assert split.r2 == pytest.approx(_r2(linear, e_test).mean(), abs=1e-8)
    variance, of_x = (np.square(of - of.mean(0)).sum() for of in (e_test, x_test))
    left = np.square(e_test - linear).sum()
    assert split.r2_pooled == pytest.approx(1 - left / variance, abs=1e-8)
    assert split.fvu == pytest.approx(np.square(e_test).sum() / of_x)
    assert split.fvu_linear == pytest.approx(left / of_x, abs=1e-8)
    lengths, of_linear = (np.linalg.norm(of, axis=1).mean() for of in (e_test, linear))
    assert split.norm_linear == pytest.approx(of_linear / lengths, abs=1e-8)


def test_the_baselines_are_numpys_least_squares_too() -> None:
    x = _normal(600, 5) + 3
    error = x @ _normal(5, 5, seed=2) * 0.3 + _normal(600, 5, seed=3) * x.abs()
    split = _split(x, error, ridge=1e-12)
    (x_fit, e_fit), (x_test, e_test) = _sides(x, error)
    from_x_hat = _lstsq(x_fit - e_fit, e_fit)(x_test - e_test)
    assert split.r2_from_x_hat == pytest.approx(_r2(from_x_hat, e_test).mean(), abs=1e-8)
    # c (x - mean) + b is one regression on the numbers of all dimensions, each about its mean.
    deviation, target = x_fit - x_fit.mean(0), e_fit - e_fit.mean(0)
    c = (deviation * target).sum() / np.square(deviation).sum()
    shrunken = c * (x_test - x_fit.mean(0)) + e_fit.mean(0)
    assert split.shrinkage == pytest.approx(c)
    assert split.r2_shrinkage == pytest.approx(_r2(shrunken, e_test).mean(), abs=1e-8)
    y_fit, y_test = np.square(e_fit).sum(1), np.square(e_test).sum(1)
    for found, inputs, of_test in (
        (split.r2_norm, x_fit, x_test),
        (split.r2_norm_from_x_norm, np.square(x_fit).sum(1), np.square(x_test).sum(1)),
        (split.r2_norm_from_x_hat, x_fit - e_fit, x_test - e_test),
    ):
        assert found == pytest.approx(_r2(_lstsq(inputs, y_fit)(of_test), y_test), abs=1e-8)


def test_rank_deficient_activations_have_finite_small_weights() -> None:
    """Rows that sum to zero, as in a residual stream whose writing weights are centred."""
    x = _normal(4000, 8)
    x = x - x.mean(dim=1, keepdim=True)
    error = 0.5 * x[:, [1, 2, 3, 4, 5, 6, 7, 0]] + 0.1 * _normal(4000, 8, seed=1)
    split = _split(x, error)
    assert split.linear_map.B.abs().max().item() < 1.0
    (x_fit, e_fit), (x_test, e_test) = _sides(x, error)
    by_svd = _r2(_lstsq(x_fit, e_fit)(x_test), e_test).mean()
    assert split.r2 == pytest.approx(by_svd, abs=1e-3)


# Planted -----------------------------------------------------------------------------------------


def test_a_linear_error_under_noise_is_found_as_large_as_it_was_made() -> None:
    """Each dimension of the error is a turned x of variance 1, moved by 2, and noise of variance
    1 / 3: R2 3/4."""
    rotation = torch.linalg.qr(_normal(8, 8, seed=1))[0]
    x = _normal(20_000, 8)
    split = _split(x, x @ rotation + 2 + _normal(20_000, 8, seed=2) / math.sqrt(3))
    assert split.r2 == pytest.approx(0.75, abs=0.01)
    assert split.r2_pooled == pytest.approx(0.75, abs=0.01)
    assert split.fvu_linear == pytest.approx(1 / 3, abs=0.01)
    assert torch.allclose(split.linear_map.B, rotation, atol=0.03)
    assert torch.allclose(split.linear_map.b, torch.full((8,), 2.0).double(), atol=0.03)


@pytest.mark.parametrize(("a", "r"), [(1.0, 0.6), (0.6, 1.0)])
def test_what_is_absent_from_weak_directions_is_linear_and_what_is_made_up_is_not(
    a: float, r: float
) -> None:
    """x = s + a, x_hat = s + r, independent; s lies in 4 of 16 dimensions with variance 9. FVU of
    the nonlinear part = (tr R + tr(A - A (S + A)^-1 A)) / tr(S + A), with the covariances S, A, R
    of the signal, of what is absent and of what is made up: in weak directions the absent part is
    all of x, so linear. Exchanging a and r exchanges little else than linear and nonlinear."""
    scale = torch.tensor([3.0] * 4 + [0.0] * 12).double()
    x, made_up = _normal(20_000, 16) * scale, r * _normal(20_000, 16, seed=1)
    absent = a * _normal(20_000, 16, seed=2)
    split = _split(x + absent, absent - made_up)
    of_x = 4 * 9 + 16 * a**2
    left = 16 * r**2 + 4 * (a**2 - a**4 / (9 + a**2))
    assert split.fvu == pytest.approx(16 * (a**2 + r**2) / of_x, abs=0.005)
    assert split.fvu_linear == pytest.approx(left / of_x, abs=0.005)
    assert split.r2_pooled == pytest.approx(1 - left / (16 * (a**2 + r**2)), abs=0.01)


def test_the_parts_of_the_error_add_up_on_held_out_documents() -> None:
    """A least-squares map leaves nothing that its part is correlated with."""
    x = _normal(20_000, 8)
    error = 0.3 * x @ _normal(8, 8, seed=1) + 0.2 * x.square()
    split = _split(x, error)
    _, (x_test, _) = _sides(x, error)
    linear = split.linear_part(torch.from_numpy(x_test)).numpy()
    without = np.square(linear).sum() / np.square(x_test - x_test.mean(0)).sum()
    assert split.fvu == pytest.approx(split.fvu_linear + without, abs=0.01)


def test_an_error_that_has_nothing_to_do_with_x_is_nonlinear() -> None:
    split = _split(_normal(20_000, 16), _normal(20_000, 16, seed=1))
    assert split.r2 == pytest.approx(0.0, abs=0.01)
    assert split.fvu_linear == pytest.approx(1.0, abs=0.03)
    assert split.norm_linear < 0.1 and split.norm_nonlinear == pytest.approx(1.0, abs=0.01)


def test_few_tokens_explain_noise_where_they_were_fitted_and_nowhere_else() -> None:
    split = _split(_normal(1280, 64), 0.1 * _normal(1280, 64, seed=1))
    assert split.fit.r2 == pytest.approx(64 / 640, abs=0.03)
    assert split.r2 < -0.05
    assert len(split.warnings) == 1
    assert f"{split.n_fit_tokens:,} tokens, fewer than 50 for each" in split.warnings[0]


def test_the_length_of_a_sum_of_features_is_linear_in_it_where_each_has_one_strength() -> None:
    """Orthonormal features that are on or off: |x|^2 is the sum of their squares. With random signs
    x says nothing of it. The dictionary returns nothing, so the error is x."""
    on = (torch.rand(20_000, 16, generator=torch.Generator().manual_seed(0)) < 0.1).double()
    rotation = torch.linalg.qr(_normal(16, 16, seed=1))[0]
    positive, signed = on @ rotation, (on * _normal(20_000, 16).sign()) @ rotation
    assert _split(positive, positive).r2_norm == pytest.approx(1.0, abs=1e-3)
    assert _split(signed, signed).r2_norm == pytest.approx(0.0, abs=0.01)
    assert _split(signed, signed).r2_norm_from_x_norm == pytest.approx(1.0)


# Trivial headlines -------------------------------------------------------------------------------


def test_a_dead_dictionary_has_a_perfect_headline_and_is_flagged() -> None:
    x = _normal(2000, 4).float()
    x_hat = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(2000, 4)
    split = split_error([(x, x_hat, _documents(2000))])
    assert split.r2 == pytest.approx(1.0) and split.fvu_linear == pytest.approx(0.0, abs=1e-9)
    assert split.shrinkage == pytest.approx(1.0)
    assert split.r2_shrinkage == pytest.approx(1.0)
    assert split.r2_from_x_hat == pytest.approx(0.0, abs=0.01)
    assert len(split.warnings) == 2
    assert "reconstructs next to nothing" in split.warnings[0]
    assert "the error is mostly x times 1:" in split.warnings[1]


def test_a_constant_that_rounding_disturbs_predicts_nothing() -> None:
    """x - (x - 0.1) is 0.1 but for the last digits of float64."""
    x = _normal(2000, 64)
    split = _split(x, x - 0.1)
    assert split.r2 == pytest.approx(1.0)
    assert split.r2_from_x_hat == pytest.approx(0.0, abs=0.01)


def test_a_shrunken_dictionary_has_a_perfect_headline_and_is_flagged() -> None:
    x = _normal(2000, 4).float() + 5
    split = split_error([(x, 0.9 * x, _documents(2000))])
    assert split.r2 == pytest.approx(1.0) and split.r2_shrinkage == pytest.approx(1.0)
    assert split.shrinkage == pytest.approx(0.1)
    assert split.r2_from_x_hat == pytest.approx(1.0)
    assert len(split.warnings) == 2
    assert "the error is mostly x times 0.1:" in split.warnings[0]
    assert "the dictionary's own output explains R2 1 " in split.warnings[1]


def test_x_predicts_as_much_of_an_error_of_no_structure_as_the_fvu_and_that_is_flagged() -> None:
    """x = x_hat + e with both random in all directions, of variance 4 and 1: e is x / 5 and noise,
    and x explains a fifth of it, which is the FVU."""
    x_hat, error = 2 * _normal(20_000, 8), _normal(20_000, 8, seed=1)
    split = _split(x_hat + error, error)
    of_it = (split.fvu, split.shrinkage, split.r2_pooled, split.r2_shrinkage_pooled)
    assert of_it == pytest.approx((0.2,) * 4, abs=0.01)
    assert split.r2_from_x_hat == pytest.approx(0.0, abs=0.01)
    assert len(split.warnings) == 1 and "of a large FVU" in split.warnings[0]


def test_a_dictionary_that_lacks_some_directions_is_not_flagged() -> None:
    """Half of its error is a strong direction that it lacks, half is noise."""
    x = _normal(20_000, 16)
    lacking = torch.zeros(16).double()
    lacking[3] = 1.0
    split = _split(x, x * lacking + 0.25 * _normal(20_000, 16, seed=1))
    assert split.r2_pooled == pytest.approx(0.5, abs=0.02)
    assert split.r2_shrinkage_pooled < 0.1
    assert split.warnings == ()


def test_activations_of_one_length_have_no_norm_to_predict_from() -> None:
    x = torch.nn.functional.normalize(_normal(2000, 4), dim=1)
    split = _split(x, 0.3 * x * _normal(2000, 1, seed=1))
    assert split.r2_norm_from_x_norm == pytest.approx(0.0, abs=0.01)
