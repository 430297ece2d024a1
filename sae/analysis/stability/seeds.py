"""Dictionaries of several seeds, matched with each other pair by pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.analysis.stability.assignment import EXACT_PAIRS, Match, assign, nearest
from sae.analysis.stability.dictionaries import (
    SparseDictionary,
    decoder_rows,
    refuse_what_does_not_fit,
)


@dataclass(frozen=True)
class SeedMatches:
    """Every ordered pair of dictionaries: who is whose partner, and how near rows are."""

    of: dict[tuple[int, int], Match]
    """By (dictionary, other dictionary), for the features of the first: one to one, rows that are
    each other's nearest first, the rest as they fit best. The best assignment of all is another:
    it parts two equal features where two halves of them gain more than that loses."""
    assigned: dict[tuple[int, int], float]
    """The mean cosine of the best assignment of all."""
    best: dict[tuple[int, int], float]
    """Mean over the features of the first of the largest cosine with any row of the other."""
    n: int

    @property
    def pw_mcc(self) -> float:
        """Mean over pairs of the mean decoder cosine of the best assignment."""
        return _mean(list(self.assigned.values()))

    @property
    def mmcs(self) -> float:
        """Mean of the largest cosine, over features, pairs and both directions."""
        return _mean(list(self.best.values()))

    def others(self, number: int) -> list[int]:
        return [other for other in range(self.n) if other != number]

    def pw_mcc_of(self, number: int) -> float:
        """The mean over the pairs that one dictionary is in."""
        return _mean([self.assigned[number, other] for other in self.others(number)])

    def mmcs_of(self, number: int) -> float:
        """The mean over its features and all others, looked for in the others."""
        return _mean([self.best[number, other] for other in self.others(number)])


def match_seeds(
    dictionaries: Sequence[SparseDictionary], *, exact_pairs: int = EXACT_PAIRS
) -> SeedMatches:
    """Match the features of every pair of dictionaries one to one, by signed decoder cosine.

    `assign` says what is done with wide ones. `InputError` for fewer than two dictionaries, and for
    those that do not fit together.
    """
    if len(dictionaries) < 2:
        raise InputError(
            f"{len(dictionaries)} dictionaries cannot be matched: give at least two, that differ "
            f"in the seed alone"
        )
    refuse_what_does_not_fit(dictionaries)
    rows = [decoder_rows(d) for d in dictionaries]
    found = SeedMatches({}, {}, {}, len(rows))
    for a, b in combinations(range(len(rows)), 2):
        mean = assign(rows[a], rows[b], exact_pairs=exact_pairs).mean_cosine()
        from_a, from_b = nearest(rows[a], rows[b]), nearest(rows[b], rows[a])
        match = _mutual_first(rows[a], rows[b], from_a, from_b[1], exact_pairs)
        found.of[a, b], found.of[b, a] = match, match.inverse(len(rows[b]))
        for pair, its_nearest in (((a, b), from_a), ((b, a), from_b)):
            found.assigned[pair] = mean
            found.best[pair] = its_nearest[0].double().mean().item()
    return found


def _mutual_first(
    a: Tensor, b: Tensor, from_a: tuple[Tensor, Tensor], from_b: Tensor, exact_pairs: int
) -> Match:
    """Pair rows that are each other's nearest, then assign those that are left."""
    cosine, to_b, to_a = from_a[0].squeeze(1), from_a[1].squeeze(1), from_b.squeeze(1)
    mutual = to_a[to_b] == torch.arange(len(a))
    taken = torch.zeros(len(b), dtype=torch.bool)
    taken[to_b[mutual]] = True
    rest_a, rest_b = (~mutual).nonzero().squeeze(1), (~taken).nonzero().squeeze(1)
    rest = assign(a[rest_a.to(a.device)], b[rest_b.to(b.device)], exact_pairs=exact_pairs)
    partner, its_cosine = torch.where(mutual, to_b, -1), torch.where(mutual, cosine, 0.0)
    has = rest.partner >= 0
    partner[rest_a[has]] = rest_b[rest.partner[has]]
    its_cosine[rest_a[has]] = rest.cosine[has]
    return Match(partner, its_cosine)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
