"""Rows as they are stored: exact, cast, or as int8 with an error that has a bound."""

from typing import get_args

import pytest
import torch
from caches import RESID, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from activation_cache.cache.codec import (
    CodecCost,
    CodecName,
    Encoded,
    decode_into,
    decoded_dtype,
    encode,
    measure_cost,
)
from activation_cache.common.dtypes import DTYPES

U = 2.0**-24
"""Half the distance from 1 to the next float32: the relative error of one operation."""


def normal(n_rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(n_rows, width, generator=torch.Generator().manual_seed(seed))


def decoded(encoded: Encoded, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    out = torch.empty(len(encoded["values"]), width, dtype=dtype)
    decode_into(out, encoded, 0)
    return out


def round_trip(rows: Tensor, codec: CodecName) -> Tensor:
    return decoded(encode(rows, codec, RESID), rows.shape[1])


def int8_bound(rows: Tensor, encoded: Encoded) -> Tensor:
    """How far each decoded entry may be from the original [rows, width], in float64.

    Rounding to an integer costs half a step of row_scale * channel_scale, with the row_scale that
    is stored: that it is rounded to float16 before moves the largest entry from 127 to at most
    127 (1 + 2**-11) = 127.06, which still rounds to 127. Everything else is float32: subtracting
    the mean and dividing twice is off by 3 u of the deviation, multiplying twice by 2 u of it and
    of half a step, adding the mean by u of the result; so 8 u of all three has room to spare.
    Scales below the smallest normal number are not exact: that is 2**-126 more.
    """
    parts = {name: part.double() for name, part in encoded.items()}
    step = parts["row_scale"] * parts["channel_scale"]
    x = rows.double()
    deviation = (x - parts["channel_mean"]).abs()
    return step / 2 + 8 * U * (deviation + x.abs() + step) + 2.0**-126


# Casts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "float16"])
def test_a_cast_stores_what_torch_casts_to(codec: CodecName) -> None:
    rows = normal(20, 8)
    encoded = encode(rows, codec, RESID)
    assert list(encoded) == ["values"]
    assert len(encoded["values"]) == 20
    assert torch.equal(encoded["values"], rows.to(DTYPES[codec]))
    assert torch.equal(decoded(encoded, 8), rows.to(DTYPES[codec]).float())


def test_float32_is_exact_down_to_the_smallest_numbers() -> None:
    rows = torch.tensor([[3.4028234663852886e38, -1e-45, -0.0, 1 + 2.0**-23]])
    assert torch.equal(round_trip(rows, "float32"), rows)


def test_a_number_that_float16_cannot_hold_is_refused_with_the_site_and_the_remedy() -> None:
    message = refusal(lambda: encode(torch.tensor([[1.0, -70_000.0]]), "float16", RESID))
    assert message == (
        "blocks.2.hook_resid_pre holds 70000, more than float16 can: "
        "choose --codec bfloat16 or float32"
    )


def test_what_rounds_to_the_largest_float16_is_not_refused() -> None:
    # 65504 is the largest, the next step would be 65536, and halfway between them it overflows.
    assert round_trip(torch.tensor([[65_519.0]]), "float16").item() == 65_504.0
    assert "holds 65520" in refusal(lambda: encode(torch.tensor([[65_520.0]]), "float16", RESID))


def test_the_numbers_that_float16_cannot_hold_fit_into_the_other_codecs() -> None:
    rows = torch.tensor([[70_000.0, 1.0], [0.0, -1.0]])
    for codec in ("float32", "bfloat16", "int8"):
        assert round_trip(rows, codec)[0, 0].item() == pytest.approx(70_000.0, rel=2**-8)


@pytest.mark.parametrize("codec", get_args(CodecName))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_no_codec_takes_what_is_not_finite(codec: CodecName, bad: float) -> None:
    rows = normal(20, 8)
    rows[7, 3] = bad
    message = refusal(lambda: encode(rows, codec, RESID))
    assert message == f"{RESID} holds NaN or Inf: give another --dtype, or fix the weights"


def test_a_number_that_rounds_to_no_bfloat16_is_refused() -> None:
    # The largest bfloat16 is 255 * 2**120; beyond 255.5 * 2**120 it rounds to 256 * 2**120.
    largest, beyond = 255.0 * 2.0**120, 255.5 * 2.0**120
    assert round_trip(torch.tensor([[largest]]), "bfloat16").item() == largest
    assert refusal(lambda: encode(torch.tensor([[-beyond]]), "bfloat16", RESID)) == (
        "blocks.2.hook_resid_pre holds 3.39618e+38, more than bfloat16 can: choose --codec float32"
    )


@pytest.mark.parametrize("signs", [(1.0, 1.0), (1.0, -1.0)])
def test_numbers_whose_int8_scales_overflow_are_refused(signs: tuple[float, float]) -> None:
    # The sum of the two, or that of how far they are from their mean, is 4e38; float32 ends at 3.4.
    rows = torch.tensor(signs)[:, None] * 2e38
    assert refusal(lambda: encode(rows, "int8", RESID)) == (
        "blocks.2.hook_resid_pre holds 2e+38, more than int8 can: choose --codec float32"
    )


# int8 --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(
    n_rows=st.integers(1, 40),
    width=st.integers(1, 12),
    offset=st.sampled_from([0.0, 1.0, -300.0]),
    magnitude=st.sampled_from([1e-6, 1.0, 1e5]),
    seed=st.integers(0, 2**32),
)
def test_every_entry_is_within_half_a_step(
    n_rows: int, width: int, offset: float, magnitude: float, seed: int
) -> None:
    rows = normal(n_rows, width, seed) * magnitude * normal(1, width, seed + 1).exp() + offset
    encoded = encode(rows, "int8", RESID)
    error = (decoded(encoded, width).double() - rows.double()).abs()
    assert (error <= int8_bound(rows, encoded)).all()


def test_the_bound_is_nearly_reached() -> None:
    # So a bound of half a step says something: the worst of 32,000 entries uses 95% of it.
    rows = normal(1000, 32)
    encoded = encode(rows, "int8", RESID)
    error = (decoded(encoded, 32).double() - rows.double()).abs()
    assert (error / int8_bound(rows, encoded)).max() > 0.95


def test_int8_scales_are_those_of_the_channels_and_the_largest_entry_of_each_row() -> None:
    rows = torch.tensor([[0.0, 10.0], [4.0, 10.0], [2.0, 40.0], [2.0, 20.0]])
    parts = encode(rows, "int8", RESID)
    # Means 2 and 20; mean deviations (2 + 2 + 0 + 0) / 4 = 1 and (10 + 10 + 20 + 0) / 4 = 10.
    assert parts["channel_mean"].tolist() == [2.0, 20.0]
    assert parts["channel_scale"].tolist() == [1.0, 10.0]
    # Standardised: (-2, -1), (2, -1), (0, 2), (0, 0), in 127ths of the largest. Half of it is 63.5,
    # which a scale rounded to float16 puts to one side.
    assert parts["values"].tolist() in (
        [[-127, -63], [127, -63], [0, 127], [0, 0]],
        [[-127, -64], [127, -64], [0, 127], [0, 0]],
    )
    largest = [2.0, 2.0, 2.0]
    assert parts["row_scale"].flatten().tolist()[:3] == pytest.approx(
        [x / 127 for x in largest], rel=2**-11
    )
    assert {name: part.dtype for name, part in parts.items()} == {
        "values": torch.int8,
        "row_scale": torch.float16,
        "channel_mean": torch.float32,
        "channel_scale": torch.float32,
    }


@pytest.mark.parametrize("constant", [0.0, 3.0, 0.1, -1e30, 1e-30])
def test_a_constant_channel_comes_back_as_it_was(constant: float) -> None:
    rows = normal(50, 4)
    rows[:, 2] = constant
    channel = round_trip(rows, "int8")[:, 2]
    torch.testing.assert_close(channel, rows[:, 2], rtol=8 * U, atol=0.0)


@pytest.mark.parametrize("n_rows", [1, 7])
def test_rows_that_are_all_equal_come_back_as_they_were(n_rows: int) -> None:
    rows = normal(1, 16).expand(n_rows, 16)
    torch.testing.assert_close(round_trip(rows, "int8"), rows, rtol=8 * U, atol=0.0)


def test_one_outlying_row_does_not_harm_the_others() -> None:
    rows = normal(1000, 32)
    calm = (round_trip(rows, "int8") - rows)[1:].square().sum() / rows[1:].square().sum()
    rows[0] = 1000.0 * rows[0].sign()
    stormy = (round_trip(rows, "int8") - rows)[1:].square().sum() / rows[1:].square().sum()
    # A step of largest / 127 is uniform noise of (2.4 / 127)**2 / 12 = 3e-5 of the variance.
    assert calm.item() == pytest.approx(3e-5, rel=0.3)
    # The one shifts every mean by 1000 / 1000 = 1, which makes the largest of the others about 3.2
    # (5e-5). With scales for channels alone a step would be 1000 / 127 = 7.9, and nothing left.
    assert stormy.item() == pytest.approx(5e-5, rel=0.3)


def test_bfloat16_rows_are_encoded_as_the_numbers_that_they_are() -> None:
    rows = normal(30, 8).bfloat16()
    ours, theirs = (encode(x, "int8", RESID) for x in (rows, rows.float()))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# Decoding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", get_args(CodecName))
@pytest.mark.parametrize("start", [0, 1, 7, 10])
def test_rows_are_decoded_from_any_start(codec: CodecName, start: int) -> None:
    encoded = encode(normal(10, 6), codec, RESID)
    whole = decoded(encoded, 6)
    for n_rows in range(10 - start + 1):
        out = torch.full((n_rows, 6), torch.nan)
        decode_into(out, encoded, start)
        assert torch.equal(out, whole[start : start + n_rows])


@pytest.mark.parametrize("codec", get_args(CodecName))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_decoded_to_the_dtype_that_is_asked_for(
    codec: CodecName, dtype: torch.dtype
) -> None:
    encoded = encode(normal(10, 6), codec, RESID)
    assert torch.equal(decoded(encoded, 6, dtype), decoded(encoded, 6).to(dtype))


def test_decoding_writes_where_it_is_told_and_nowhere_else() -> None:
    rows = normal(4, 3)
    memory = torch.full((8, 3), torch.nan)
    decode_into(memory[2:6], encode(rows, "float32", RESID), 0)
    assert torch.equal(memory[2:6], rows)
    assert memory[[0, 1, 6, 7]].isnan().all()


def test_the_dtype_by_default_is_that_of_the_codec_and_float32_for_int8() -> None:
    assert {codec: decoded_dtype(codec) for codec in get_args(CodecName)} == {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "int8": torch.float32,
    }


# What a codec costs ------------------------------------------------------------------------------


def test_the_cost_is_the_fraction_of_the_variance_that_is_lost() -> None:
    rows = torch.tensor([[257 / 256], [3.0]])
    cost = measure_cost(rows, encode(rows, "bfloat16", RESID))
    # bfloat16 rounds 257/256 to 1 and keeps 3: an error of 1/256. The mean is 1025/512, and both
    # rows are 511/512 from it.
    assert cost.squared_error == (1 / 256) ** 2
    assert cost.squared_deviation == 2 * (511 / 512) ** 2
    assert cost.fvu == pytest.approx(2 / 511**2)


def test_the_cost_is_measured_on_the_first_rows() -> None:
    rows = torch.tensor([[1.0], [3.0], [257 / 256]])
    encoded = encode(rows, "bfloat16", RESID)
    assert measure_cost(rows, encoded, sample_rows=2) == CodecCost(0.0, 2.0)
    assert measure_cost(rows, encoded, sample_rows=3).squared_error == (1 / 256) ** 2


def test_a_cast_to_the_same_dtype_costs_nothing() -> None:
    rows = normal(10, 4)
    assert measure_cost(rows, encode(rows, "float32", RESID)).fvu == 0.0
    half = rows.bfloat16()
    assert measure_cost(half, encode(half, "bfloat16", RESID)).fvu == 0.0


def test_costs_add_up_by_their_sums_and_not_by_their_fractions() -> None:
    a, b = CodecCost(1.0, 4.0), CodecCost(2.0, 16.0)
    assert a + b == CodecCost(3.0, 20.0)
    assert (a + b).fvu == 0.15  # not the mean of 1/4 and 1/8
    assert sum((a, b), CodecCost()) == a + b


def test_rows_without_variance_cost_nothing() -> None:
    assert CodecCost().fvu == 0.0
    rows = torch.ones(5, 3)
    assert measure_cost(rows, encode(rows, "int8", RESID)).fvu == 0.0


def test_int8_costs_more_than_float16_and_less_than_a_thousandth() -> None:
    rows = normal(1000, 32)
    codecs: tuple[CodecName, ...] = get_args(CodecName)
    costs = {codec: measure_cost(rows, encode(rows, codec, RESID)).fvu for codec in codecs}
    # float16 keeps 11 bits and bfloat16 8, so one costs 2**-6 of the other; the largest of 32
    # normal entries is about 2.4, and (2.4 / 127)**2 / 12 = 3e-5.
    assert costs["float32"] == 0.0
    assert costs["float16"] / costs["bfloat16"] == pytest.approx(2**-6, rel=0.05)
    assert costs["int8"] == pytest.approx(3e-5, rel=0.3)
