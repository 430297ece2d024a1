"""Evaluate dictionaries on held-out text."""

import math
from collections.abc import Sequence

from activation_cache import LanguageModel, SourceConfig, load_model
from activation_cache.common.dtypes import DTYPES
from activation_cache.common.errors import InputError
from activation_cache.stream.source import ActivationSource
from sae.base import SAE
from sae.evaluation import EvalReport, evaluate_all
from sae.evaluation.evaluate import TextBatch
from sae.provenance import Provenance

NEEDED = ("model_name", "hook_name", "dataset_path", "context_size", "eval_tokens")
"""What must be known of a dictionary for it to be evaluated."""


def evaluate_dictionary(sae: SAE, *, device: str = "auto") -> EvalReport:
    """Load the model that a saved dictionary names, and measure the dictionary on held-out text.

    On the same device this gives the numbers of the run that made it, to the last digit.
    """
    known = sae.provenance
    values = ((name, getattr(known, name)) for name in NEEDED)
    unusable = [(n, v) for n, v in values if not v or (isinstance(v, int) and v < 0)]
    if unusable:
        found = ", ".join(f"{name} ({value!r})" for name, value in unusable)
        raise InputError(f"the dictionary has no usable {found}: give it as a flag")
    model = load_model(
        str(known.model_name),
        device=device,
        dtype=DTYPES[known.model_dtype or "float32"],
        processing=known.processing or "raw",
    )
    if known.model_weights not in (None, model.description["weights"]):
        raise InputError(
            f"the dictionary is for another model than what {model.name} names now: its weights "
            f"have changed since"
        )
    sae = sae.to(model.device)
    return evaluate_on_held_out_text([sae], model, held_out_batches(model, known))[0]


def evaluate_on_held_out_text(
    saes: Sequence[SAE], model: LanguageModel, batches: Sequence[TextBatch]
) -> list[EvalReport]:
    """Reports of dictionaries of one site, in order."""
    hook_name = str(saes[0].hook_name)
    for sae in saes:
        if model.width(hook_name) != sae.d_in:
            raise InputError(
                f"the dictionary takes activations of width {sae.d_in}, but {hook_name} of "
                f"{model.name} has width {model.width(hook_name)}: choose the site it was "
                f"trained on"
            )
    return evaluate_all(saes, model, batches, hook_name)


def held_out_batches(model: LanguageModel, of: Provenance) -> list[TextBatch]:
    """The first `eval_tokens` tokens of the held-out text, with the positions that count.

    Contexts are whole, so there may be more tokens, by less than a context.
    """
    assert of.hook_name and of.dataset_path and of.context_size and of.eval_tokens  # NEEDED
    cfg = SourceConfig(
        hook_names=(of.hook_name,),
        dataset=of.dataset_path,
        text_column="text" if of.text_column is None else of.text_column,
        context_size=of.context_size,
        prepend_bos=of.prepend_bos is not False,
        all_positions=bool(of.all_positions),
    )
    source = ActivationSource(model, cfg)
    batches: list[TextBatch] = []
    n_contexts = math.ceil(of.eval_tokens / of.context_size)
    for tokens in source.token_blocks("held_out", repeat=False):
        tokens = tokens[:n_contexts]
        batches.append((tokens, source.counted(tokens)))
        n_contexts -= len(tokens)
        if n_contexts == 0:
            break
    return batches
