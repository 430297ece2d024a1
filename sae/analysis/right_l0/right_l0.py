"""Whether L0 is right: where over a sweep the features of a dictionary are nearest to orthogonal.

Chanin and Garriga-Alonso 2025, "Sparse but wrong: incorrect L0 leads to incorrect features in
sparse autoencoders" (arXiv 2508.16560 v3). With too few active features a dictionary mixes
correlated features into one row, with too many it mixes them another way; either raises c_dec
(`similarity`), and the L0 at which that is least is the right one. The definition is read from the
authors' code; the text of the paper was not at hand.

Their older proxy, the nth decoder projection (the n times n_tokens largest entry of
(x - b_dec) W_dec.T), is left out: it moves with b_dec, which our training fits, and over our
dictionaries of known truth it was largest near the right L0 instead of least.

What is a proxy may fail, so nothing is said that the sweep does not show: there must be a least
c_dec, a rise on both sides beyond the luck of seeds, and no second dip. And c_dec must not be that
of random rows: there it has nothing more to say. Features in superposition overlap as random
directions do, and with too many active ones the rows move apart until they overlap less than the
features: c_dec then falls on and on, past the right L0. One failure cannot be seen from here:
features that only ever occur together. Their rows are no matter of L0, c_dec falls past it, and a
sweep with the right L0 in it is called "too low" (tests/analysis/test_right_l0.py shows both).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scipy.stats import t as student_t

from activation_cache.common.errors import InputError, refuse_not_positive
from activation_cache.common.numbers import Number
from sae.analysis.right_l0.similarity import N_DRAWS, decoder_similarity, random_similarity
from sae.analysis.stability.dictionaries import SparseDictionary

Verdict = Literal["too low", "too high", "about right", "cannot tell"]

ERROR_RATE = 0.05
"""Chance of any false rise among all that are looked at, one-sided."""


@dataclass(frozen=True)
class Point:
    """The dictionaries of one L0."""

    l0: float
    c_dec: float
    """Mean over seeds."""
    standard_error: float
    n_seeds: int


@dataclass(frozen=True)
class RightL0:
    """What a sweep shows of the right L0."""

    verdict: Verdict
    """About right: it lies inside the sweep, `between` two of its values. Too low: c_dec falls up
    to the largest L0. Too high: it falls down to the smallest."""
    reason: str
    best: float
    """The L0 of the sweep at which c_dec is least."""
    between: tuple[float | None, float | None]
    """The next L0s below and above `best` at which c_dec is beyond doubt larger; None where the
    sweep has none, or where its least value means nothing. The right L0 lies between them, where
    the proxy is to be trusted."""
    uncertainty: Literal["seeds", "features"]
    """What standard errors are over. Features know nothing of the luck of a training: with one seed
    for each L0 a verdict is weaker than it looks."""
    curve: tuple[Point, ...]
    """By rising L0."""
    random: float
    """c_dec of random rows."""

    def of(self, l0: float) -> Verdict:
        """The verdict on one L0, which need not be of the sweep."""
        low, high = self.between
        if low is not None and l0 <= low:
            return "too low"
        if high is not None and l0 >= high:
            return "too high"
        return "about right" if self.verdict == "about right" else "cannot tell"

    def __str__(self) -> str:
        low, high = self.between
        where = f": between {low:g} and {high:g}" if self.verdict == "about right" else ""
        return f"{self.verdict}{where} ({self.reason})"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what is not known is None."""
        return asdict(self)


def right_l0(
    sweep: Sequence[tuple[Number, SparseDictionary]], *, n_draws: int = N_DRAWS, seed: int = 0
) -> RightL0:
    """Judge a sweep that differs in L0 and, where there are several of an L0, in the seed.

    Give all of one setting the same L0: k, or the mean of what was measured. Errors are over seeds
    where these leave two degrees of freedom or more, over features by `n_draws` draws otherwise.
    `InputError` for fewer than three L0s, for dictionaries of different sizes, and for one without
    two rows that have a direction.
    """
    _refuse_unfit(sweep)
    l0s = sorted({float(l0) for l0, _ in sweep})
    groups = [[d for of, d in sweep if of == l0] for l0 in l0s]
    freedom = sum(len(group) - 1 for group in groups)
    draws = n_draws if freedom < 2 else 0
    found = [
        [decoder_similarity(d.W_dec, n_draws=draws, seed=seed) for d in group] for group in groups
    ]
    values = [[its.c_dec for its in group] for group in found]
    for l0, group in zip(l0s, values, strict=True):
        if not math.isfinite(sum(group)):
            raise InputError(
                f"the decoder of a dictionary with L0 {l0:g} is not finite, or all but one of its "
                f"rows are 0: leave it out of the sweep"
            )
    if draws:
        squares = [sum(its.standard_error**2 for its in g) / len(g) ** 2 for g in found]
    else:
        squares = [_pooled_variance(values) / len(group) for group in values]
    points = tuple(
        Point(l0, sum(group) / len(group), math.sqrt(square), len(group))
        for l0, group, square in zip(l0s, values, squares, strict=True)
    )
    d_sae, d_in = sweep[0][1].W_dec.shape
    return judge(
        points,
        random_similarity(d_in),
        must_overlap=d_sae > d_in,
        freedom=None if draws else freedom,
    )


def judge(
    points: Sequence[Point], random: float, *, must_overlap: bool, freedom: int | None = None
) -> RightL0:
    """The verdict on a curve, by rising L0.

    `random` is c_dec of random rows; `must_overlap` says that there are more rows than dimensions.
    `freedom` is that of the standard errors, which are over seeds; None: over features. c_dec is
    larger at one L0 than at another where the difference is larger than chance makes any of all
    differences in one of twenty sweeps (Student's t, Bonferroni).
    """
    n = len(points)
    level = ERROR_RATE / (n * (n - 1) / 2)
    least_t = student_t.ppf(1.0 - level, math.inf if freedom is None else freedom)

    def is_larger(a: int, b: int) -> bool:
        error = math.hypot(points[a].standard_error, points[b].standard_error)
        return points[a].c_dec - points[b].c_dec > float(least_t) * error

    best = min(range(n), key=lambda i: points[i].c_dec)
    low = next((i for i in range(best - 1, -1, -1) if is_larger(i, best)), None)
    high = next((i for i in range(best + 1, n) if is_larger(i, best)), None)
    outward = [*((i, j) for i in range(best) for j in range(i))]
    outward += [(i, j) for i in range(best + 1, n) for j in range(i + 1, n)]
    dip = next(((i, j) for i, j in outward if is_larger(i, j)), None)
    margin = float(least_t) * points[best].standard_error
    is_valley = low is not None and high is not None
    lowest_trusted = random - margin if is_valley else random + margin
    means_nothing = points[best].c_dec < lowest_trusted and (must_overlap or not is_valley)
    if means_nothing or dip is not None:
        low = high = None
    verdict, reason = _verdict(points, best, low, high, dip, means_nothing)
    return RightL0(
        verdict=verdict,
        reason=reason,
        best=points[best].l0,
        between=tuple(None if i is None else points[i].l0 for i in (low, high)),  # pyright: ignore[reportArgumentType]
        uncertainty="features" if freedom is None else "seeds",
        curve=tuple(points),
        random=random,
    )


def _verdict(
    points: Sequence[Point],
    best: int,
    low: int | None,
    high: int | None,
    dip: tuple[int, int] | None,
    means_nothing: bool,
) -> tuple[Verdict, str]:
    least = f"c_dec is least at L0 {points[best].l0:g}"
    if dip is not None:
        nearer, farther = (points[i].l0 for i in dip)
        return "cannot tell", (
            f"{least}, and it falls again from L0 {nearer:g} to {farther:g}: leave out that end, "
            f"if something else is wrong with its dictionaries"
        )
    if means_nothing:
        return (
            "cannot tell",
            f"{least}, and is no larger there than of random rows: it says no more",
        )
    if low is None and high is None:
        return "cannot tell", f"{least}, and nowhere beyond doubt larger: the curve is flat"
    if low is not None and high is not None:
        return "about right", f"{least} and rises on both sides"
    if high is not None and best == 0:
        return "too high", f"{least}, the smallest of the sweep: try smaller ones"
    if low is not None and best == len(points) - 1:
        return "too low", f"{least}, the largest of the sweep: try larger ones"
    side = "below" if low is None else "above"
    return "cannot tell", f"{least}, and no rise {side} it is beyond doubt: more seeds would tell"


def _pooled_variance(values: Sequence[Sequence[float]]) -> float:
    """Of a single seed, the same at every L0: a few seeds of one L0 say little of their spread."""
    squares = freedom = 0.0
    for group in values:
        mean = sum(group) / len(group)
        squares += sum((value - mean) ** 2 for value in group)
        freedom += len(group) - 1
    return squares / freedom


def _refuse_unfit(sweep: Sequence[tuple[Number, SparseDictionary]]) -> None:
    for l0, _ in sweep:
        refuse_not_positive(l0=l0)
    l0s = {float(l0) for l0, _ in sweep}
    if len(l0s) < 3:
        raise InputError(
            f"the sweep has {len(l0s)} different L0s, and a least value needs a rise on both "
            f"sides: give at least 3"
        )
    shapes = sorted({tuple(d.W_dec.shape) for _, d in sweep})
    if len(shapes) > 1:
        raise InputError(
            f"the sweep has decoders of shape {[*shapes[0]]} and {[*shapes[-1]]}, whose cosines "
            f"cannot be compared: give dictionaries of one width and one site"
        )
