"""A few features of a run, for its report."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sae.features import Features
from sae.features import open as open_features
from sae.features.folder import FACTS
from sae.features.telling import telling

FEATURES = "features"
"""The folder in a run that holds the features of its dictionary."""

SHOWN_BEFORE, SHOWN_AFTER, N_TOKENS = 8, 4, 4
NAMED = {"\n": "↵", "\t": "⇥", "\r": "␍"}
UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Cs", "Co")
"""Categories of characters that cannot be seen, or that would turn a line around."""


@dataclass(frozen=True, kw_only=True)
class FeatureRow:
    """One feature as the report shows it; all text can be seen."""

    index: int
    density: float
    max: float
    alignment: float
    fires_on: Sequence[str]
    raises: Sequence[str]
    before: str
    at: str
    after: str


@dataclass(frozen=True, kw_only=True)
class TellingFeatures:
    """The chosen ones, and of how many."""

    rows: Sequence[FeatureRow]
    d_sae: int
    n_tokens: int


def telling_features(run: Path, seed: int) -> TellingFeatures | None:
    """Of a run folder; None where its features were not collected."""
    if not (run / FEATURES / FACTS).exists():
        return None
    features = open_features(run / FEATURES)
    rows = [_row(features, index) for index in telling(features, seed=seed)]
    return TellingFeatures(rows=rows, d_sae=len(features), n_tokens=features.facts.n_tokens)


def _row(features: Features, index: int) -> FeatureRow:
    feature = features[index]
    best = feature.top[0]
    tokens = [visible(token) for token in best.tokens]
    raised = feature.logits[: len(feature.logits) // 2]
    return FeatureRow(
        index=index,
        density=feature.density,
        max=feature.max,
        alignment=feature.alignment,
        fires_on=[visible(features.word(token)) for token, _ in feature.tokens[:N_TOKENS]],
        raises=[visible(features.word(token)) for token, _ in raised[:N_TOKENS]],
        before="".join(tokens[max(0, best.at - SHOWN_BEFORE) : best.at]),
        at=tokens[best.at],
        after="".join(tokens[best.at + 1 : best.at + 1 + SHOWN_AFTER]),
    )


def visible(text: str) -> str:
    """Characters that cannot be seen, or that would turn the line around, as what they are."""
    return "".join(_visible(c) for c in text)


def _visible(character: str) -> str:
    if unicodedata.category(character) not in UNSEEN:
        return character
    return NAMED.get(character) or f"\\u{ord(character):04x}"
