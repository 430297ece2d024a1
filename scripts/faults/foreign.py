"""Small dictionaries of other projects, in the files that their programs write."""

import io
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

D_IN, D_SAE = 4, 8


@dataclass(frozen=True)
class Foreign:
    """One dictionary: its weights, and its config where it has one."""

    weights_file: str
    tensors: dict[str, Tensor]
    config_file: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    """What its program writes beside the weights, and in the same file."""

    def write(self, folder: Path) -> Path:
        path = folder / self.weights_file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.with_tensors(self.tensors))
        if self.config_file is not None:
            (folder / self.config_file).write_text(json.dumps(self.config))
        return folder

    def with_tensors(self, tensors: dict[str, Tensor]) -> bytes:
        """The file of weights, with others."""
        if self.weights_file.endswith(".safetensors"):
            return save({name: tensor.contiguous() for name, tensor in tensors.items()})
        buffer = io.BytesIO()
        if self.weights_file.endswith(".npz"):
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType] - names are no flags
        else:
            torch.save({**tensors, **self.plain}, buffer)
        return buffer.getvalue()


class Sweep(Foreign):
    """A list of objects of a class that is not here."""

    def with_tensors(self, tensors: dict[str, Tensor]) -> bytes:
        names = ("autoencoders", "autoencoders.learned_dict")
        modules = {name: ModuleType(name) for name in names}
        shell = type("UntiedSAE", (), {"__module__": names[1]})
        vars(modules[names[1]])["UntiedSAE"] = shell
        made, buffer = shell(), io.BytesIO()
        vars(made).update(tensors)
        sys.modules.update(modules)
        try:
            torch.save([(made, {"l1_alpha": 1e-3, "dict_size": D_SAE})], buffer)
        finally:
            for name in names:
                del sys.modules[name]
        return buffer.getvalue()


def _tensors(**transposed: str) -> dict[str, Tensor]:
    """Weights by the names that a project has for `W_enc`, `W_dec`, `b_enc` and `b_dec`.

    A name that ends in `.T` is of a matrix that the project stores the other way round.
    """
    generator = torch.Generator().manual_seed(0)
    ours = {
        "W_enc": torch.randn(D_IN, D_SAE, generator=generator),
        "W_dec": torch.randn(D_SAE, D_IN, generator=generator),
        "b_enc": torch.randn(D_SAE, generator=generator),
        "b_dec": torch.randn(D_IN, generator=generator),
        "threshold": torch.rand(D_SAE, generator=generator) + 0.1,
    }
    return {
        name.removesuffix(".T"): ours[of].T.contiguous() if name.endswith(".T") else ours[of]
        for of, name in transposed.items()
    }


OWN_NAMES = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
LINEAR = {
    "W_enc": "encoder.weight.T",
    "W_dec": "decoder.weight.T",
    "b_enc": "encoder.bias",
    "b_dec": "decoder.bias",
}
MATRICES = {"W_enc": "W_E", "W_dec": "W_D", "b_enc": "b_E", "b_dec": "b_D"}
SITE = "blocks.1.hook_resid_post"
OPENMOSS = {
    **{"hook_point_in": SITE, "hook_point_out": SITE, "d_model": D_IN, "expansion_factor": 2},
    **{"norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True, "top_k": 2},
}

FOREIGN = {
    "saelens": Foreign(
        "sae_weights.safetensors",
        _tensors(**OWN_NAMES, threshold="threshold"),
        "cfg.json",
        {
            **{"architecture": "jumprelu", "d_in": D_IN, "d_sae": D_SAE, "dtype": "float32"},
            **{"device": "cpu", "apply_b_dec_to_input": False, "normalize_activations": "none"},
            **{"reshape_activations": "none", "metadata": {"hook_name": SITE}},
        },
    ),
    "dictionary_learning": Foreign(
        "ae.pt",
        _tensors(**{**LINEAR, "b_dec": "b_dec"}),
        "config.json",
        {
            "trainer": {
                **{"dict_class": "AutoEncoderTopK", "activation_dim": D_IN, "dict_size": D_SAE},
                **{"k": 2, "layer": 1, "lm_name": "gpt2", "submodule_name": "resid_post_layer_1"},
            },
            "buffer": {"d_submodule": D_IN, "io": "out", "ctx_len": 16},
        },
        {"k": torch.tensor(2), "threshold": torch.tensor(-1.0)},
    ),
    "sparsify": Foreign(
        "sae.safetensors",
        _tensors(**{**LINEAR, "W_dec": "W_dec", "b_dec": "b_dec"}),
        "cfg.json",
        {
            **{"activation": "topk", "expansion_factor": 2, "normalize_decoder": True, "k": 2},
            **{"num_latents": 0, "multi_topk": False, "d_in": D_IN},
        },
    ),
    "openai": Foreign(
        "8.pt",
        _tensors(**{**LINEAR, "b_enc": "latent_bias", "b_dec": "pre_bias"}),
        plain={"activation": "TopK", "activation_state_dict": {"k": 2, "postact_fn": "ReLU"}},
    ),
    "gemma_scope": Foreign("params.npz", _tensors(**OWN_NAMES, threshold="threshold")),
    "gemma_scope_2": Foreign(
        "params.safetensors",
        _tensors(W_enc="w_enc", W_dec="w_dec", b_enc="b_enc", b_dec="b_dec", threshold="threshold"),
        "config.json",
        {
            **{"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt"},
            **{"hf_hook_point_in": "model.layers.1.output", "affine_connection": False},
        },
    ),
    "llama_scope": Foreign(
        "checkpoints/final.safetensors",
        _tensors(**LINEAR),
        "hyperparams.json",
        {
            **OPENMOSS,
            **{"d_sae": D_SAE, "act_fn": "jumprelu", "jump_relu_threshold": 0.3},
            "dataset_average_activation_norm": {"in": 2.5, "out": 2.5},
        },
    ),
    "openmoss": Foreign(
        "sae_weights.safetensors",
        _tensors(**MATRICES, threshold="activation_function.log_jumprelu_threshold")
        | {f"dataset_average_activation_norm.{SITE}": torch.tensor(2.5)},
        "config.json",
        {**OPENMOSS, "sae_type": "sae", "act_fn": "jumprelu"},
    ),
    "hoagy": Sweep(
        "learned_dicts.pt",
        _tensors(**{"W_enc": "encoder.T", "W_dec": "decoder", "b_enc": "encoder_bias"}),
    ),
}
"""By the layout that they are in."""
