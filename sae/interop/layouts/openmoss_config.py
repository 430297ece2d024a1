"""The configs of OpenMOSS' dictionaries: what they say, and which cannot be loaded."""

from collections.abc import Mapping
from typing import Any, TypeVar

from activation_cache.common.errors import InputError
from sae.interop.layout import Hints
from sae.interop.pretrained import Normalization
from sae.interop.sources import DOWNLOAD, Source, Tensors, json_of

LLAMA_SCOPE, LATER = "hyperparams.json", "config.json"

AVERAGE_NORM = "dataset_average_activation_norm"

UNUSABLE = {
    "lorsa": "it encodes by attention over the sequence, and a dictionary here sees one token",
    "clt": "a cross-layer transcoder reads one layer and writes many, and a dictionary here one",
    "crosscoder": "it reads and writes several sites at once, and a dictionary here one",
    "molt": "its features are matrices, and those of a dictionary here are vectors",
    "mixcoder": "it has an encoder for each of several modalities, and a dictionary here one",
}
"""Kinds of the same project that are no dictionary of one site, and why."""

USED = {
    *("sae_type", "hook_point_in", "hook_point_out", "d_model", "d_sae", "expansion_factor"),
    *("act_fn", "top_k", "jump_relu_threshold", "norm_activation", AVERAGE_NORM),
    *("sparsity_include_decoder_norm", "use_decoder_bias", "apply_decoder_bias_to_pre_encoder"),
    "use_glu_encoder",
}
HARMLESS = {
    *("device", "dtype", "seed", "sae_pretrained_name_or_path", "strict_loading", "exp_name"),
    *("exp_series", "exp_result_path", "exp_result_dir", "tp_size", "ddp_size", "use_ddp"),
    *("bias_init_method", "init_decoder_norm", "init_encoder_norm", "init_search", "initial_k"),
    *("init_encoder_with_decoder_transpose", "k_warmup_steps", "lp", "l1_coefficient"),
    *("l1_coefficient_warmup_steps", "use_batch_norm_mse", "use_ghost_grads"),
    *(
        "decoder_exactly_fixed_norm",
        "force_unit_decoder_norm",
        "promote_act_fn_dtype",
        "circuit_tracing_mode",
    ),
    *("jumprelu_threshold_grad_scale", "jumprelu_threshold_window", "use_triton_kernel"),
    *("sparsity_threshold_for_triton_spmm_kernel", "sparsity_threshold_for_csr"),
}
"""Settings of training and of how it is computed, not of what."""

T = TypeVar("T")

LARGEST: dict[type, float] = {bool: 1, int: 2**63, float: 3.4e38}
"""Numbers beyond are no settings; the last is what float32 can express."""


def config_name(source: Source) -> str:
    return LLAMA_SCOPE if source.has(LLAMA_SCOPE) else LATER


class Settings:
    """A config of either name, of which every key is understood."""

    def __init__(self, source: Source) -> None:
        self.name = config_name(source)
        self.path = source.folder / self.name
        self.content = source.config(self.name)
        kind = self.content.get("sae_type", "sae")
        if kind != "sae":
            reason = UNUSABLE.get(kind) if isinstance(kind, str) else None
            raise InputError(
                f"{self.path} is of sae_type {json_of(kind)}, which cannot be loaded: "
                f"{reason or 'what it computes is not known'}"
            )
        unknown = sorted(set(self.content) - USED - HARMLESS)
        if unknown:
            raise InputError(
                f"{self.path} has the unknown keys {', '.join(unknown)[:200]}: what the "
                f"dictionary computes is not known"
            )
        if self.said("use_glu_encoder", bool, False):
            raise InputError(
                f"{self.path} has use_glu_encoder true: features that are a product of two "
                f"encoders cannot be loaded; take a dictionary without"
            )
        self.d_model = self.said("d_model", int)
        self.d_sae = self._d_sae()

    def said(self, name: str, kind: type[T], default: T | None = None) -> T:
        """A value of this kind, or the default where there is one."""
        value = self.content.get(name, default)
        if kind is float and type(value) is int:
            value = float(value) if abs(value) < 2**63 else None
        is_number = isinstance(value, int | float)
        if type(value) is not kind or (is_number and not abs(value) <= LARGEST[kind]):
            raise InputError(
                f"{self.path} has {json_of(self.content.get(name))} for {name}, expected "
                f"{kind.__name__}; {DOWNLOAD}"
            )
        return value

    def _d_sae(self) -> int:
        if self.content.get("d_sae") is not None:
            return self.said("d_sae", int)
        return int(self.d_model * self.said("expansion_factor", float))

    @property
    def sites(self) -> tuple[str, str]:
        site = self.said("hook_point_in", str)
        return site, site if self.content.get("hook_point_out") is None else self.said(
            "hook_point_out", str
        )

    @property
    def reads_and_writes_one_site(self) -> bool:
        return self.sites[0] == self.sites[1]

    def normalization(self) -> Normalization:
        """What is done to each token. What is the same for all tokens is in `scales`."""
        kind = self.said("norm_activation", str)
        if kind in ("dataset-wise", "inference", "none"):
            return "none"
        if kind == "token-wise" and self.reads_and_writes_one_site:
            return "constant_norm"
        reasons = {
            "token-wise": "a transcoder would have to know the norm of what it predicts",
            "batch-wise": "features would depend on the other tokens of a batch",
        }
        raise InputError(
            f"{self.path} has norm_activation {json_of(kind)}, which cannot be loaded: "
            f"{reasons.get(kind, 'what it does is not known')}"
        )

    def scales(self, tensors: Tensors, hints: Hints) -> tuple[float, float]:
        """What inputs and outputs are multiplied by, the same for all tokens."""
        stored = [f"{AVERAGE_NORM}.{site}" for site in self.sites]
        if self.said("norm_activation", str) != "dataset-wise":
            tensors.leave(*stored)  # written all the same, from memory that nobody filled
            return self._no_hint(hints, (1.0, 1.0))
        found = self.content.get(AVERAGE_NORM)
        if isinstance(found, Mapping):
            norms = [found.get("in"), found.get("out")]
        else:
            by_site = {name: tensors.value(name) for name in dict.fromkeys(stored)}
            norms = [by_site[name] for name in stored]
        if norms[0] is not None:
            s_in, s_out = (self.d_model**0.5 / self._positive(norm) for norm in norms)
            return self._no_hint(hints, (s_in, s_out))
        if hints.norm_scaling_factor is None or not self.reads_and_writes_one_site:
            raise InputError(
                f"the files at {self.path.parent} do not say what activations were scaled by "
                f"(no {AVERAGE_NORM}): {self._remedy()}"
            )
        if not 0 < hints.norm_scaling_factor <= LARGEST[float]:
            raise InputError(
                f"norm_scaling_factor must be a number above 0, got {hints.norm_scaling_factor}"
            )
        return hints.norm_scaling_factor, hints.norm_scaling_factor

    def _remedy(self) -> str:
        if self.reads_and_writes_one_site:
            return "give norm_scaling_factor, sqrt(d_model) over the mean norm at the site"
        return "of a transcoder both factors are needed, so it cannot be loaded"

    def _no_hint(self, hints: Hints, scales: tuple[float, float]) -> tuple[float, float]:
        if hints.norm_scaling_factor is not None:
            raise InputError(
                f"norm_scaling_factor {hints.norm_scaling_factor} was given, and the files at "
                f"{self.path.parent} say themselves what activations are scaled by: leave it out"
            )
        return scales

    def _positive(self, norm: Any) -> float:
        is_number = isinstance(norm, int | float) and not isinstance(norm, bool)
        if not is_number or not 1e-30 < norm < 1e30:
            raise InputError(
                f"{self.path.parent} has {json_of(norm)} for the mean norm of activations, which "
                f"must be above 0; {DOWNLOAD}"
            )
        return float(norm)
