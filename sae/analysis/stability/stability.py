"""Which features of dictionaries reappear over seeds, and which are no better than random."""
# Shapes: F = features of one dictionary, S = other seeds, T = twins.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.analysis.stability.activity import Activity, Pairing, fvu_of, measure
from sae.analysis.stability.assignment import EXACT_PAIRS, expected_nearest, nearest, nearest_other
from sae.analysis.stability.dictionaries import (
    SparseDictionary,
    decoder_rows,
    encoder_rows,
    refuse_what_does_not_fit,
)
from sae.analysis.stability.seeds import SeedMatches, match_seeds
from sae.analysis.stability.subspaces import fit_span, is_rotated, mixtures
from sae.analysis.stability.verdicts import (
    VERDICTS,
    FeatureStability,
    Thresholds,
    Verdict,
    verdicts,
)


@dataclass(frozen=True, kw_only=True)
class Stability:
    """One dictionary, held against those of other seeds and against its twins."""

    features: FeatureStability
    pw_mcc: float
    """Mean decoder cosine of matched features, mean over the other seeds."""
    mmcs: float
    """Mean over features of the largest decoder cosine with another seed's, mean over these."""
    twin_mmcs: float
    """The same over the twins. NaN without twins."""
    random_mmcs: float
    """What random directions would give, in as many dimensions and with as many features."""
    n_features: dict[Verdict, int]
    variance_share: dict[Verdict, float]
    """Of the variance of the reconstruction, carried by the features of each verdict: sums to 1."""
    fvu: float
    fvu_without_unstable: float
    """With the contributions of the features that are called unstable left out."""


def stability(
    dictionaries: Sequence[SparseDictionary],
    twins: Sequence[SparseDictionary],
    batches: Iterable[Float[Tensor, "_ d_in"]],
    *,
    thresholds: Thresholds | None = None,
    exact_pairs: int = EXACT_PAIRS,
) -> list[Stability]:
    """Judge every feature of every dictionary.

    `dictionaries` differ in the seed alone; `twins` were trained like them with frozen random
    weights, and may be none. `batches` are gone through twice: for activations, and for FVU without
    unstable features. `InputError` for fewer than two dictionaries, for dictionaries that do not
    fit together, and where there are no activations, or only once.
    """
    thresholds = thresholds or Thresholds()
    refuse_what_does_not_fit([*dictionaries, *twins])
    matches = match_seeds(dictionaries, exact_pairs=exact_pairs)
    seeds = _Seeds(dictionaries, twins, matches, thresholds)
    activity = measure(dictionaries, twins, seeds.pairings, batches)
    judged = [seeds.judged(number, activity) for number in range(len(dictionaries))]
    lesser = fvu_of(dictionaries, [its.where("unstable") for its in judged], batches)
    return [
        seeds.summary(number, features, activity.reconstructed[number].fvu, fvu)
        for number, (features, fvu) in enumerate(zip(judged, lesser, strict=True))
    ]


class _Seeds:
    """The matches of dictionaries and twins, and the pairs whose activations are compared."""

    def __init__(
        self,
        dictionaries: Sequence[SparseDictionary],
        twins: Sequence[SparseDictionary],
        matches: SeedMatches,
        thresholds: Thresholds,
    ) -> None:
        self._at, self._matches, self._n = thresholds, matches, len(dictionaries)
        self._rows = [decoder_rows(d) for d in dictionaries]
        self._twin_rows = [decoder_rows(d) for d in twins]
        self.pairings = [Pairing(a, b, m.partner) for (a, b), m in matches.of.items()]
        self._number = {pair: number for number, pair in enumerate(matches.of)}
        self._twin_cosines = torch.full((self._n, len(twins)), float("nan"), dtype=torch.float64)
        self._nearest_twins = [torch.full((len(rows),), float("nan")) for rows in self._rows]
        self._twin_pairings: dict[tuple[int, int], tuple[int, int]] = {}
        for a, dictionary in enumerate(dictionaries):
            for t, twin in enumerate(twins):
                self._pair_with_twin(a, dictionary, t, twin)

    def _pair_with_twin(
        self, a: int, dictionary: SparseDictionary, t: int, twin: SparseDictionary
    ) -> None:
        first = len(self.pairings)
        cosine, by_decoder = nearest(self._rows[a], self._twin_rows[t])
        _, by_encoder = nearest(encoder_rows(dictionary), encoder_rows(twin))
        for partner in (by_decoder, by_encoder):
            self.pairings.append(Pairing(a, self._n + t, partner.squeeze(1)))
        self._twin_pairings[a, t] = first, first + 1
        self._twin_cosines[a, t] = cosine.double().mean()
        self._nearest_twins[a] = torch.fmax(self._nearest_twins[a], cosine.squeeze(1))

    def judged(self, a: int, activity: Activity) -> FeatureStability:
        at, others = self._at, self._matches.others(a)
        cosine = torch.stack([self._matches.of[a, b].cosine for b in others]).double()
        correlation = torch.stack([activity.pairs.correlations(self._number[a, b]) for b in others])
        like = (cosine >= at.decoder_cosine) & (correlation >= at.activation_correlation)
        rotated = self._rotated(a, activity)
        axis_reappears = _share(like & ~rotated)
        in_subspace = (axis_reappears < at.min_share) & (_share(like | rotated) >= at.min_share)
        of_twins = self._twin_correlations(a, activity)
        twin_correlation = _largest(of_twins)
        in_twins = _share(of_twins >= at.activation_correlation)
        nearest_own, index = nearest_other(self._rows[a])
        reconstructed = activity.reconstructed[a]
        unexplained = reconstructed.unexplained_along()
        fires = torch.from_numpy(activity.pairs.fires[a])
        duplicate = (nearest_own >= at.duplicate_cosine) & (fires[index] > 0)
        return FeatureStability(
            reappears=_share(like),
            matched_cosine=cosine.mean(dim=0),
            matched_correlation=correlation.mean(dim=0),
            nearest_twin=self._nearest_twins[a].double(),
            twin_correlation=twin_correlation,
            in_twins=in_twins,
            decoder_margin=cosine.mean(dim=0) - self._nearest_twins[a],
            activation_margin=correlation.mean(dim=0) - twin_correlation,
            reconstruction_margin=-_largest(-unexplained[1:]) - unexplained[0],
            removal_loss=reconstructed.removal_loss(),
            variance_share=reconstructed.variance_share(),
            nearest_in_dictionary=nearest_own,
            nearest_index=index,
            duplicate=duplicate,
            in_subspace=in_subspace,
            fires=fires,
            verdict=verdicts(
                fires=fires,
                in_twins=in_twins,
                duplicate=duplicate,
                axis_reappears=axis_reappears,
                in_subspace=in_subspace,
                min_share=at.min_share,
            ),
        )

    def _rotated(self, a: int, activity: Activity) -> Bool[Tensor, "S F"]:
        """In which other seeds each feature is rotated.

        Those whose own axis reappears are not asked. They span nothing in other seeds either: a
        feature that is the sum of two stable ones is no other basis of anything. Rows that are
        never active span nothing.
        """
        at, asked = self._at, ~self._has_exact(a)
        others = self._matches.others(a)
        rotated = torch.zeros(len(others), len(asked), dtype=torch.bool)
        rows, mixed = self._rows[a][asked], mixtures(self._rows[a])
        of_twins = [fit_span(rows, twin, at.subspace_dim) for twin in self._twin_rows]
        for number, b in enumerate(others):
            may_span = (torch.from_numpy(activity.pairs.fires[b]) > 0) & ~self._has_exact(b)
            spanning = self._rows[b][may_span]
            rotated[number, asked] = is_rotated(
                fit_span(rows, spanning, at.subspace_dim),
                fit_span(mixed, spanning, at.subspace_dim),
                of_twins,
                axis_cosine=at.axis_cosine,
                span_cosine=at.span_cosine,
                explained_rest=at.explained_rest,
            )
        return rotated

    def _has_exact(self, b: int) -> Bool[Tensor, " F"]:
        """Which features of a dictionary have a partner closer than a rotation in most others."""
        cosine = torch.stack([self._matches.of[b, c].cosine for c in self._matches.others(b)])
        return _share(cosine > self._at.axis_cosine) >= self._at.min_share

    def _twin_correlations(self, a: int, activity: Activity) -> Float[Tensor, "T F"]:
        """With each twin, the larger of the two that are looked at."""
        found = [
            torch.maximum(*(activity.pairs.correlations(number) for number in numbers))
            for (of, _), numbers in self._twin_pairings.items()
            if of == a
        ]
        empty = torch.zeros(0, len(self._rows[a]), dtype=torch.float64)
        return torch.stack(found) if found else empty

    def summary(
        self, a: int, features: FeatureStability, fvu: float, fvu_without_unstable: float
    ) -> Stability:
        matches, rows = self._matches, self._rows
        widths = [len(rows[b]) for b in matches.others(a)]
        expected = [expected_nearest(width, rows[a].shape[1]) for width in widths]
        masks: dict[Verdict, Tensor] = {verdict: features.where(verdict) for verdict in VERDICTS}
        shares: dict[Verdict, float] = {
            verdict: float(features.variance_share[mask].sum()) for verdict, mask in masks.items()
        }
        counts: dict[Verdict, int] = {verdict: int(mask.sum()) for verdict, mask in masks.items()}
        return Stability(
            features=features,
            pw_mcc=matches.pw_mcc_of(a),
            mmcs=matches.mmcs_of(a),
            twin_mmcs=self._twin_cosines[a].mean().item(),
            random_mmcs=sum(expected) / len(expected),
            n_features=counts,
            variance_share=shares,
            fvu=fvu,
            fvu_without_unstable=fvu_without_unstable,
        )


def _share(of: Bool[Tensor, "n F"]) -> Float[Tensor, " F"]:
    """NaN where there are none to be a share of."""
    return of.double().mean(dim=0)


def _largest(of: Float[Tensor, "n F"]) -> Float[Tensor, " F"]:
    """NaN where there are none."""
    return of.amax(dim=0) if len(of) else of.new_full((of.shape[1],), float("nan"))
