"""Training checkpoints of SAELens: weights as they are trained, with what is to be folded beside.

Chosen over a batch while it is trained, a BatchTopK or Matryoshka dictionary is used by its
threshold, as SAELens does with what it saves at the end.
"""

from activation_cache.common.errors import InputError
from activation_cache.common.schema import shown
from sae.interop.layout import Hints, positive
from sae.interop.layouts.saelens import assemble, facts_of, holds_files
from sae.interop.pretrained import PretrainedSAE
from sae.interop.sources import Source
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
    config, scaler = source.config(CONFIG_FILE), source.config(SCALER_FILE)
    kind = config.get("normalize_activations")
    for name, wanted in (
        ("scaling_factor", "expected_average_only_in"),
        ("has_whitening", "covariance_whitening"),
    ):
        if scaler.get(name) and kind != wanted:
            raise InputError(
                f"{SCALER_FILE} says {name} {shown(scaler[name])}, and {CONFIG_FILE} "
                f"normalize_activations {shown(kind)}: remove the one that is wrong"
            )
    scale = scaler.said("scaling_factor", float | None, hints.norm_scaling_factor)
    if scale is not None:
        positive(scale, f"scaling_factor in {SCALER_FILE}")
    whitening = None
    if source.has(WHITENING_FILE) and scaler.said("has_whitening", bool, True):
        tensors, d_in = source.tensors(WHITENING_FILE), config.said("d_in", int)
        whitening = (
            tensors.take("mean", d_in),
            tensors.take("matrix", d_in, d_in),
            tensors.take("inverse_matrix", d_in, d_in),
        )
        tensors.finish()
    weights = source.tensors(WEIGHTS_FILE)
    return assemble(config, weights, facts_of(config), scale, whitening)
