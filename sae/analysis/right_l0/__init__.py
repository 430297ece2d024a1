"""Whether the L0 of dictionaries is right, from how nearly orthogonal their features are."""

from sae.analysis.right_l0.right_l0 import Point, RightL0, Verdict, judge, right_l0
from sae.analysis.right_l0.similarity import Similarity, decoder_similarity, random_similarity

__all__ = [
    "Point",
    "RightL0",
    "Similarity",
    "Verdict",
    "decoder_similarity",
    "judge",
    "random_similarity",
    "right_l0",
]
