"""Small random models of any architecture that transformers and TransformerLens both know.

They show what holds at the sites of an architecture before anything is downloaded.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from activation_cache.common.errors import InputError, described
from activation_cache.model.language_model import LanguageModel, known_architectures

SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("head_dim", "kv_lora_rank", "v_head_dim", "state_size", "mamba_d_state"), 8),
    **dict.fromkeys(("rotary_dim", "qk_rope_head_dim", "qk_nope_head_dim"), 4),
    **dict.fromkeys(("sliding_window", "q_lora_rank", "mamba_d_head"), 16),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0),
    # The usual .02 gives activations near zero, on which every tolerance passes.
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
}
"""The sizes by the names that configurations of transformers have for them."""


def architectures() -> dict[str, str]:
    """`model_type` and class of every causal language model that both libraries know, each class
    once. Those that also take images or sound are left out."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known, types = known_architectures(), dict[str, list[str]]()
    for model_type, name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()):
        cls = name if isinstance(name, str) else name[0]
        if cls in known and "Conditional" not in cls:
            types.setdefault(cls, []).append(model_type)
    # Of several that share a class, the one that it is named after.
    return {max(its, key=lambda t: cls.lower().startswith(t)): cls for cls, its in types.items()}


def small_model(model_type: str, tokenizer: Any, **overrides: Any) -> LanguageModel:
    """A random model of `config.model_type`; `overrides` are other values of its configuration.

    Its vocabulary is that of the tokenizer. Raises `InputError` where transformers does not know
    the architecture, or cannot build it so small.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    transformers.utils.logging.set_verbosity_error()
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(
            f"transformers has no causal language model of type {model_type!r}: give the "
            f"model_type of a config.json, as 'llama'"
        )
    kind: Any = CONFIG_MAPPING[model_type]
    known = {f.name for f in dataclasses.fields(kind)} | set(kind.attribute_map)
    sizes = {name: n for name, n in SMALL.items() if name in known}
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    build = getattr(transformers, name if isinstance(name, str) else name[0])
    try:
        hf = _random(build, kind(**{"vocab_size": len(tokenizer)} | sizes | overrides))
    except Exception as error:  # of sizes that do not go together
        raise InputError(
            f"cannot build a small {model_type} ({described(error)}): give a real one"
        ) from error
    hf = hf.eval().requires_grad_(False)
    return LanguageModel(f"a small random {model_type}", hf, tokenizer)


@torch.no_grad()
def _random(build: Callable[[Any], Any], config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = build(config)
        for name, parameter in hf.named_parameters():
            if name.endswith("bias"):  # zero at first: a forgotten one would go unseen
                parameter.normal_(std=SMALL["initializer_range"])
    hf.eval()(torch.arange(8)[None])  # sizes that do not go together are noticed now
    return hf
