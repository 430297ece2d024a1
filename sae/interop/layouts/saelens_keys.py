"""Keys and values in SAELens' configs, of all versions, and our names of them."""

from collections.abc import Mapping

from sae.interop.pretrained import Activation, Normalization
from sae.interop.sources import keys

ACTIVATIONS: Mapping[str, Activation] = {
    "standard": "relu",
    "topk": "topk",
    "abstopk": "abs_topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "matching_pursuit": "matching_pursuit",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
}
"""By SAELens' architectures. The last two are what training saves; used, they are a threshold."""

NORMALIZATIONS: Mapping[str, Normalization] = {
    "none": "none",
    "expected_average_only_in": "none",  # folded
    "covariance_whitening": "none",  # folded
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
}

COMPUTED = keys(
    "architecture d_in d_sae d_out k apply_b_dec_to_input normalize_activations",
    "reshape_activations rescale_acts_by_decoder_norm residual_threshold max_iterations",
    "stop_on_duplicate_support",
)
"""Keys of version 6 that say what a dictionary computes."""
