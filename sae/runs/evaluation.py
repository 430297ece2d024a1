"""Evaluate a dictionary on the held-out text that its metadata names."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from activation_cache import LanguageModel, SourceConfig, load_model
from activation_cache.common.dtypes import DTYPES, DtypeName
from activation_cache.common.errors import InputError
from activation_cache.common.schema import convert
from activation_cache.model.language_model import Processing
from activation_cache.stream.source import ActivationSource
from sae.base import SAE
from sae.evaluation import EvalReport, evaluate_all
from sae.evaluation.evaluate import TextBatch

NEEDED = ("model_name", "hook_name", "dataset_path", "context_size", "eval_tokens")
"""What the metadata of a dictionary must say for it to be evaluated."""


KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("model_name", "hook_name", "dataset_path", "text_column"), str),
    **dict.fromkeys(("context_size", "eval_tokens"), int),
    **dict.fromkeys(("prepend_bos", "all_positions"), bool),
    "model_dtype": DtypeName,
    "processing": Processing,
}
"""What it says is from a file, or a flag, and anything at first."""


def evaluate_dictionary(sae: SAE, *, device: str = "auto") -> EvalReport:
    """Load the model that a saved dictionary names, and measure the dictionary on held-out text.

    On the same device this gives the numbers of the run that made it, to the last digit.
    """
    missing = [name for name in NEEDED if name not in sae.metadata]
    if missing:
        raise InputError(f"the dictionary does not say its {', '.join(missing)}: give it as a flag")
    for name, kind in KINDS.items():
        if name in sae.metadata:
            given = convert(kind, sae.metadata[name], f"{name} of the dictionary", lenient=True)
            if given == "" or (kind is int and given < 1):
                raise InputError(f"{name} of the dictionary cannot be {given!r}: give it as a flag")
            sae.metadata[name] = given
    dtype = DTYPES[sae.metadata.get("model_dtype", "float32")]
    model = load_model(
        sae.metadata["model_name"],
        device=device,
        dtype=dtype,
        processing=sae.metadata.get("processing", "raw"),
    )
    weights = model.description["weights"]
    if sae.metadata.get("model_weights", weights) != weights:
        raise InputError(
            f"the dictionary is for another model than what {model.name} names now: its weights "
            f"have changed since"
        )
    sae = sae.to(model.device)
    return evaluate_on_held_out_text([sae], model, held_out_batches(model, sae.metadata))[0]


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


def held_out_batches(model: LanguageModel, metadata: Mapping[str, Any]) -> list[TextBatch]:
    """The first `eval_tokens` tokens of the held-out text, with the positions that count.

    Contexts are whole, so there may be more tokens, by less than a context.
    """
    cfg = SourceConfig(
        hook_names=(metadata["hook_name"],),
        dataset=metadata["dataset_path"],
        text_column=metadata.get("text_column", "text"),
        context_size=metadata["context_size"],
        prepend_bos=metadata.get("prepend_bos", True),
        all_positions=metadata.get("all_positions", False),
    )
    source = ActivationSource(model, cfg)
    batches: list[TextBatch] = []
    n_contexts = math.ceil(metadata["eval_tokens"] / metadata["context_size"])
    for tokens in source.token_blocks("held_out", repeat=False):
        tokens = tokens[:n_contexts]
        batches.append((tokens, source.counted(tokens)))
        n_contexts -= len(tokens)
        if n_contexts == 0:
            break
    return batches
