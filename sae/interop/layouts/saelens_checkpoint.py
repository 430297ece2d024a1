"""Training checkpoints of SAELens: weights as they are trained, with what is to be folded beside.

Chosen over a batch while it is trained, a BatchTopK or Matryoshka dictionary is used by its
threshold, as SAELens does with what it saves at the end.
"""

from typing import Any

from activation_cache.common.errors import InputError
from sae.interop.folding import Whitening
from sae.interop.layout import Hints
from sae.interop.layouts.saelens import Given, assemble, facts_of, holds_files
from sae.interop.layouts.saelens_keys import setting
from sae.interop.pretrained import PretrainedSAE
from sae.interop.sources import Source, json_of
from sae.serialization import CONFIG_FILE, WEIGHTS_FILE

NAME = "saelens-checkpoint"

SCALER_FILE = "activation_scaler.json"
WHITENING_FILE = "activation_whitening.safetensors"


def recognises(source: Source) -> bool:
    if not holds_files(source):
        return False
    config = source.config(CONFIG_FILE)
    is_training_form = "batchtopk" in str(config.get("architecture"))
    return isinstance(config.get("metadata"), dict) and (
        is_training_form or source.has(SCALER_FILE) or source.has(WHITENING_FILE)
    )


def read(source: Source, hints: Hints) -> PretrainedSAE:
    config = source.config(CONFIG_FILE)
    scaler = source.config(SCALER_FILE) if source.has(SCALER_FILE) else {}
    given = _given(source, scaler, hints)
    _refuse_contradiction(config, scaler)
    return assemble(config, source.tensors(WEIGHTS_FILE), facts_of(config), given)


def _given(source: Source, scaler: dict[str, Any], hints: Hints) -> Given:
    scale = hints.norm_scaling_factor
    if scaler.get("scaling_factor") is not None:
        scale = setting(scaler, "scaling_factor", float, file=SCALER_FILE)
    whitening = None
    if source.has(WHITENING_FILE) and setting(
        scaler, "has_whitening", bool, True, file=SCALER_FILE
    ):
        tensors = source.tensors(WHITENING_FILE)
        parts = [tensors.take(name) for name in ("mean", "matrix", "inverse_matrix")]
        tensors.finish()
        whitening = Whitening(*parts)
    return Given(scale=scale, whitening=whitening)


def _refuse_contradiction(config: dict[str, Any], scaler: dict[str, Any]) -> None:
    kind = config.get("normalize_activations")
    for name, wanted in (
        ("scaling_factor", "expected_average_only_in"),
        ("has_whitening", "covariance_whitening"),
    ):
        if scaler.get(name) and kind != wanted:
            raise InputError(
                f"{SCALER_FILE} has {json_of(scaler[name])} for {name}, and {CONFIG_FILE} says "
                f"normalize_activations {json_of(kind)}: whether it is folded cannot be told; "
                f"remove the one that is wrong"
            )
