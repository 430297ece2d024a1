"""What an error split reads: streams, documents, dictionaries, and what it refuses."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.analysis.error import ErrorBatches, in_test, split_error
from sae.architectures import TopKConfig
from sae.provenance import Provenance

SIDES = in_test(torch.arange(1000), 0)
FIT, TEST = (side.nonzero().flatten() for side in (~SIDES, SIDES))
"""Documents of either side, for seed 0."""


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _documents(n: int, each: int = 10) -> Tensor:
    return torch.arange(n) // each


# Streams -----------------------------------------------------------------------------------------


def _noisy() -> tuple[Tensor, Tensor, Tensor]:
    x = _normal(999, 6)
    return x, 0.7 * x + 0.2 * _normal(999, 6, seed=1) * x.square() + 1, _documents(999)


@pytest.mark.parametrize("size", [1, 64, 1000])
def test_the_numbers_do_not_depend_on_batches_or_their_order(size: int) -> None:
    whole = split_error([_noisy()])
    parts = list(zip(*(of.split(size) for of in _noisy()), strict=True))
    split = split_error(parts[::-1])
    assert vars(split.fit) == pytest.approx(vars(whole.fit), rel=1e-9)
    assert split.fvu_linear == pytest.approx(whole.fvu_linear, rel=1e-9)
    assert split.r2_norm == pytest.approx(whole.r2_norm, rel=1e-9)
    assert split.norm_nonlinear == pytest.approx(whole.norm_nonlinear, rel=1e-9)
    assert torch.allclose(split.linear_map.B, whole.linear_map.B, rtol=1e-8, atol=1e-12)


def test_numpy_arrays_and_half_precision_are_read_as_float64() -> None:
    x, x_hat, documents = (of.to(torch.float32) for of in _noisy())
    documents = documents.long()
    arrays = split_error([(x.numpy(), x_hat.numpy(), documents.numpy())])
    assert arrays.linear_map.B.dtype == torch.float64
    assert arrays.r2 == split_error([(x, x_hat, documents)]).r2
    half = split_error([(x.bfloat16(), x_hat.bfloat16(), documents)])
    assert half.r2 == pytest.approx(arrays.r2, abs=0.02)


def test_a_mean_far_from_zero_changes_nothing() -> None:
    x, x_hat, documents = _noisy()
    centred = split_error([(x, x_hat, documents)])
    moved = split_error([(x + 1e5, x_hat + 1e5, documents)])
    assert moved.r2 == pytest.approx(centred.r2, abs=1e-8)
    assert moved.fvu_linear == pytest.approx(centred.fvu_linear, rel=1e-6)
    assert moved.r2_from_x_hat == pytest.approx(centred.r2_from_x_hat, abs=1e-8)


# Documents ---------------------------------------------------------------------------------------


def test_no_document_is_on_both_sides_however_its_tokens_are_batched() -> None:
    documents = torch.tensor([7, 3, 7, 2**40, 3, 7, 2**40])
    sides = in_test(documents, 0)
    for document in documents.unique():
        assert len(sides[documents == document].unique()) == 1
    one_by_one = torch.cat([in_test(document, 0) for document in documents.split(1)])
    assert torch.equal(sides, one_by_one)


def test_about_half_of_the_documents_are_tested_and_the_seed_draws_others() -> None:
    other = in_test(torch.arange(1000), 1)
    assert 450 < SIDES.sum().item() < 550
    assert 400 < (other != SIDES).sum().item() < 600


def test_what_is_seen_only_in_test_documents_is_not_fitted() -> None:
    """The error is x in documents of the fit side and -x in those of the test side."""
    x, documents = _normal(5000, 3), _documents(5000)
    sign = torch.where(in_test(documents, 0), -1.0, 1.0).double()[:, None]
    split = split_error([(x, x - sign * x, documents)])
    assert torch.allclose(split.linear_map.B, torch.eye(3).double(), atol=1e-5)
    assert (split.fit.r2, split.r2) == pytest.approx((1.0, -3.0), abs=0.01)


# From a dictionary -------------------------------------------------------------------------------


def test_a_dictionary_and_activations_are_enough() -> None:
    dictionary = TopKConfig(d_sae=32, k=4).build(8)
    x = _normal(60, 50, 8).float()
    documents = torch.arange(60)[:, None].expand(60, 50)
    split = split_error(ErrorBatches(dictionary, x, documents))
    with torch.no_grad():
        rows = x.reshape(-1, 8)
        by_hand = split_error([(rows, dictionary.reconstruct(rows)[0], documents.flatten())])
    assert split.n_fit_tokens + split.n_test_tokens == 3000
    assert split.r2 == pytest.approx(by_hand.r2)
    in_batches = split_error(ErrorBatches(dictionary, x.split(7), documents.split(7)))
    assert in_batches.r2 == pytest.approx(by_hand.r2)
    of_arrays = split_error(ErrorBatches(dictionary, x.numpy(), documents.numpy()))
    assert of_arrays.r2 == pytest.approx(by_hand.r2)


@pytest.mark.parametrize(
    ("x", "documents", "words"),
    [
        (torch.ones(6, 4, 8), torch.ones(6).long(), r"\[6, 4, 8\] has documents of shape \[6\]"),
        ([torch.ones(4, 8)] * 3, [torch.ones(4).long()] * 2, "documents has only 2 batches"),
        ([torch.ones(4, 8)] * 2, [torch.ones(4).long()] * 3, "x has only 2 batches"),
        (iter([torch.ones(4, 8)]), [torch.ones(4).long()], "x must be an iterable .* read twice"),
        ([torch.ones(4, 8)], iter([torch.ones(4).long()]), "documents must be an iterable"),
    ],
)
def test_activations_and_documents_that_do_not_fit_are_refused(
    x: Any, documents: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        split_error(ErrorBatches(TopKConfig(d_sae=32, k=4).build(8), x, documents))


def test_a_transcoder_is_refused() -> None:
    dictionary = TopKConfig(d_sae=32, k=4).build(8)
    dictionary.provenance = Provenance(hook_name_out="blocks.0.hook_mlp_out")
    with pytest.raises(InputError, match=r"a transcoder to blocks\.0\.hook_mlp_out"):
        ErrorBatches(dictionary, torch.ones(4, 8), torch.arange(4))


# Refusals ----------------------------------------------------------------------------------------

X, DOCUMENTS = _normal(100, 3), _documents(100)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((X, X, DOCUMENTS), "the error is exactly 0 on all [0-9]+ test tokens"),
        ((X, X + torch.tensor([1.0, 2, 3]), DOCUMENTS * 0), "of 1 documents, .* each side needs 2"),
        (
            (_normal(64).expand(100, 64), _normal(100, 64), DOCUMENTS),
            "x is the same vector on all [0-9]+ test tokens",
        ),
        ((X, X[:, :2], DOCUMENTS), r"shapes \[100, 3\], \[100, 2\], \[100\]: give \[rows, d\]"),
        ((X, X, DOCUMENTS[:50]), r"shapes \[100, 3\], \[100, 3\], \[50\]"),
        ((X[None], X[None], DOCUMENTS), r"shapes \[1, 100, 3\]"),
        ((X, X / 2, DOCUMENTS / 2), r"documents of torch\.float32"),
        ((X / 0, X, DOCUMENTS), "NaN or Inf in x:"),
        ((X, X * math.nan, DOCUMENTS), "NaN or Inf in x_hat:"),
    ],
)
def test_what_cannot_be_split_is_refused_in_one_line(
    batch: tuple[Tensor, Tensor, Tensor], words: str
) -> None:
    with pytest.raises(InputError, match=words) as refused:
        split_error([batch])
    assert "\n" not in str(refused.value)


def test_an_error_that_is_the_same_everywhere_is_refused() -> None:
    x = torch.arange(100).double()[:, None] * 4
    with pytest.raises(InputError, match=r"the error is the same vector on all .* a bias"):
        split_error([(x, x - 2, DOCUMENTS)])


def test_one_document_on_a_side_is_too_few() -> None:
    documents = torch.cat((FIT[:3].repeat(20), TEST[:1].repeat(40)))
    with pytest.raises(InputError, match="of 4 documents, 3 are to fit and 1 to test"):
        split_error([(X, X / 2, documents)])


def test_no_rows_at_all_are_refused() -> None:
    for batches in ([], [(X[:0], X[:0], DOCUMENTS[:0])]):
        with pytest.raises(InputError, match="of 0 documents"):
            split_error(batches)


def test_batches_of_two_widths_are_refused() -> None:
    with pytest.raises(InputError, match="batch 1 has width 2 and the first has 3"):
        split_error([(X, X / 2, DOCUMENTS), (X[:, :2], X[:, :2], DOCUMENTS)])


def test_a_stream_that_can_be_read_once_is_refused() -> None:
    with pytest.raises(InputError, match=r"batches must be an iterable of batches .* generator"):
        split_error(batch for batch in [(X, X / 2, DOCUMENTS)])


def test_a_stream_that_ends_sooner_at_the_second_reading_is_refused() -> None:
    class Once:
        left = 1

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for _ in range(self.left):
                yield X, X / 2, DOCUMENTS
            self.left = 0

    with pytest.raises(InputError, match="100 rows at the first reading and 0 at the second"):
        split_error(Once())


def test_a_ridge_that_is_nothing_beside_dependent_dimensions_is_refused() -> None:
    x = _normal(400, 1).expand(400, 6)
    with pytest.raises(InputError, match="ridge 1e-30 is too small"):
        split_error([(x, x / 2, _documents(400))], ridge=1e-30)
    with pytest.raises(InputError, match=r"ridge must be positive, got 0\.0"):
        split_error([(x, x / 2, _documents(400))], ridge=0.0)
