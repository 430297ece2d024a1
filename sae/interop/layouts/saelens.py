"""SAELens, version 6: `cfg.json` with `metadata`, and `sae_weights.safetensors`.

Training checkpoints have weights as they are trained, and what is to be folded beside. Chosen over
a batch while it is trained, a BatchTopK or Matryoshka dictionary is used by its threshold, as
SAELens does with what it saves at the end. Older configs end in `assemble` here too.
"""

import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.schema import shown
from sae.interop.folding import Whitening, fold_decoder_norms_, fold_scale_, fold_whitening_
from sae.interop.layout import Hints, facts, harmless_keys, positive, processing
from sae.interop.layouts.native import CONFIG_FILE, WEIGHTS_FILE
from sae.interop.layouts.saelens_export import write
from sae.interop.layouts.saelens_keys import ACTIVATIONS, COMPUTED, NORMALIZATIONS
from sae.interop.pretrained import PretrainedConfig, PretrainedSAE
from sae.interop.sources import PLAIN, Config, Source, Tensors
from sae.provenance import Provenance

__all__ = ["NAME", "read", "recognises", "write"]

NAME = "saelens"

SCALER_FILE = "activation_scaler.json"
WHITENING_FILE = "activation_whitening.safetensors"

REFUSED = {
    "temporal": "its features depend on the tokens before, and a dictionary here takes one token",
    "crosscoder": "it reads several sites at once, and a dictionary here reads one",
}

FACTS = (
    *("model_name", "model_class_name", "hook_name", "hook_name_out", "hook_head_index"),
    *("dataset_path", "context_size", "prepend_bos", "seqpos_slice", "exclude_special_tokens"),
    *("sequence_separator_token", "disable_concat_sequences", "neuronpedia_id"),
    *("sae_lens_training_version", "training_architecture", "hf_hook_name", "hf_hook_name_out"),
)
"""What of SAELens' metadata is kept, under its own names, which are those used here."""


def holds_files(source: Source) -> bool:
    """Whether the two files of a dictionary are there, and meant."""
    files = (CONFIG_FILE, WEIGHTS_FILE)
    return source.has(*files) and any(name in source.names for name in files)


def recognises(source: Source) -> bool:
    return holds_files(source) and isinstance(source.config(CONFIG_FILE).get("metadata"), dict)


def read(source: Source, hints: Hints) -> PretrainedSAE:
    config, scaler = source.config(CONFIG_FILE), source.config(SCALER_FILE)
    kind = config.get("normalize_activations")
    for name, wanted in (
        ("scaling_factor", "expected_average_only_in"),
        ("has_whitening", "covariance_whitening"),
    ):
        if scaler.get(name) and kind != wanted:
            raise InputError(
                f"{SCALER_FILE} has {name} {shown(scaler[name])}, and {CONFIG_FILE} "
                f"normalize_activations {shown(kind)}: remove the one that is wrong"
            )
    scale = scaler.value("scaling_factor", float | None, hints.norm_scaling_factor)
    if scale is not None:
        positive(scale, f"scaling_factor in {SCALER_FILE}")
    whitening = None
    if source.has(WHITENING_FILE) and scaler.value("has_whitening", bool, True):
        tensors, d_in = source.tensors(WHITENING_FILE), config.value("d_in", int)
        whitening = (
            tensors.take("mean", d_in),
            tensors.take("matrix", d_in, d_in),
            tensors.take("inverse_matrix", d_in, d_in),
        )
        tensors.finish()
    weights = source.tensors(WEIGHTS_FILE)
    return assemble(config, weights, facts_of(config), scale, whitening)


def facts_of(config: Config) -> Provenance:
    """Where activations came from, by a config of version 6."""
    metadata = Config(CONFIG_FILE, config["metadata"])
    known = {name: metadata.get(name) for name in FACTS}
    known |= {name: metadata.name(name) for name in ("model_name", "hook_name", "hook_name_out")}
    if isinstance(options := metadata.get("model_from_pretrained_kwargs"), dict):
        known["processing"] = processing(options)  # SAELens itself adds no processing
    if known["model_class_name"] == "AutoModelForCausalLM":  # whose sites are modules
        known["hf_hook_name"] = known.pop("hook_name")
        known["hf_hook_name_out"] = known.pop("hook_name_out")
    if config.get("reshape_activations") == "hook_z":
        known["reshape_activations"] = "hook_z"
    return facts(**known)


# Reading -----------------------------------------------------------------------------------------


def assemble(
    config: Config,
    tensors: Tensors,
    provenance: Provenance,
    scale: float | None,
    whitening: Whitening | None = None,
) -> PretrainedSAE:
    """The dictionary that a config of version 6 and its tensors are, for raw activations.

    `scale` and `whitening` are what is known beside the config of how those were normalised.
    """
    architecture = config.one_of("architecture", ACTIVATIONS, reasons=REFUSED)
    config.refuse_unknown(COMPUTED | harmless_keys(NAME))
    config.one_of("reshape_activations", ("none", "hook_z"), "none")
    activation = ACTIVATIONS[architecture]
    kind = config.one_of("normalize_activations", NORMALIZATIONS, "none")
    is_transcoder, pursues = "transcoder" in architecture, activation == "matching_pursuit"
    subtracts = config.value("apply_b_dec_to_input", bool, not is_transcoder)
    if is_transcoder and (subtracts or kind != "none"):
        raise InputError(
            f"a {architecture} with apply_b_dec_to_input {subtracts} and normalize_activations "
            f"{kind} cannot be loaded: what that does to its output is not known"
        )
    d_in, k = config.value("d_in", int), None
    if activation in ("topk", "abs_topk"):
        k = config.value("k", int)
    cfg = PretrainedConfig(
        d_sae=config.value("d_sae", int),
        tied=pursues,
        activation=activation,
        k=config.value("max_iterations", int, d_in) if pursues else k,
        subtracts_b_dec=subtracts,
        normalization=NORMALIZATIONS[kind],
        residual_threshold=config.value("residual_threshold", float, 1e-2) if pursues else 0.0,
        stops_at_same_support=pursues and config.value("stop_on_duplicate_support", bool, True),
    )
    weights = _weights(tensors, cfg, d_in, None if is_transcoder else d_in)
    if "skip" in architecture:
        weights["W_skip"] = tensors.take("W_skip", None, None).T
    tensors.finish()
    sae = PretrainedSAE(cfg, weights, provenance)
    rescales = "topk" in architecture and config.value(
        "rescale_acts_by_decoder_norm", bool, "batchtopk" in architecture
    )
    _fold_(sae, kind, scale, whitening, rescales)
    return sae


def _weights(
    tensors: Tensors, cfg: PretrainedConfig, d_in: int, d_out: int | None
) -> dict[str, Tensor]:
    names = dict(PLAIN)
    if cfg.activation == "matching_pursuit":
        del names["W_enc"], names["b_enc"]
    if cfg.activation == "gated":
        names |= {"b_enc": "b_gate", "r_mag": "r_mag", "b_mag": "b_mag"}
    weights = tensors.named(names, d_in, cfg.d_sae, d_out)
    if cfg.activation == "matching_pursuit":
        weights["b_enc"] = torch.zeros(cfg.d_sae)
        if not cfg.subtracts_b_dec:  # then SAELens does not add it either
            weights["b_dec"] = torch.zeros_like(weights["b_dec"])
    if cfg.activation == "jumprelu":
        weights["threshold"] = _threshold(tensors, cfg.d_sae)
    return weights


def _threshold(tensors: Tensors, d_sae: int) -> Tensor:
    if "log_threshold" in tensors:  # of early training checkpoints
        return tensors.take("log_threshold", d_sae).exp()
    if "topk_threshold" not in tensors:
        return tensors.take("threshold", d_sae)
    value = tensors.value("topk_threshold", float)
    return torch.full((d_sae,), value, dtype=torch.float64)


def _fold_(
    sae: PretrainedSAE, kind: str, scale: float | None, whitening: Whitening | None, rescales: bool
) -> None:
    """Fold in SAELens' order, which decides the units of features that are rescaled by norms."""
    if kind == "expected_average_only_in":
        if scale is None:
            raise InputError(
                "activations have to be scaled by a factor that the files leave out: give "
                "norm_scaling_factor, which SAELens lists in its pretrained_saes.yaml"
            )
        fold_scale_(sae, scale)
        if rescales and sae.cfg.activation == "jumprelu":
            sae.threshold.data = sae.threshold / scale  # as is the norm that it is tested by
    if rescales:
        fold_decoder_norms_(sae)
    if kind == "covariance_whitening":
        if whitening is None:
            raise InputError(
                f"activations have to be whitened: put the {WHITENING_FILE} of the training "
                f"beside the files, or take what SAELens saves at the end"
            )
        fold_whitening_(sae, whitening)
