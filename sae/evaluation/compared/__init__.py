"""The same reconstruction in other projects' conventions, for reading their tables.

Activations are those of our counted tokens, unless a convention says otherwise: what differs is
the formula. Whoever adds a project adds its file and its entry.
"""

from collections.abc import Mapping

from sae.evaluation.compared.all_positions import ALL_POSITIONS
from sae.evaluation.compared.convention import Convention
from sae.evaluation.compared.dictionary_learning import DICTIONARY_LEARNING
from sae.evaluation.compared.openai import OPENAI
from sae.evaluation.compared.sae_lens import SAE_LENS, SAE_LENS_BEFORE
from sae.evaluation.compared.saebench import SAEBENCH
from sae.evaluation.compared.sparsify import SPARSIFY

COMPARED: Mapping[str, tuple[Convention, ...]] = {
    "SAELens": SAE_LENS,
    "SAELens before July 2026": SAE_LENS_BEFORE,
    "SAEBench 0.6": SAEBENCH,
    "dictionary_learning": DICTIONARY_LEARNING,
    "sparsify": SPARSIFY,
    "OpenAI sparse_autoencoder": OPENAI,
    "all positions": ALL_POSITIONS,
}
"""By project, in the order of the table."""

__all__ = ["COMPARED", "Convention"]
