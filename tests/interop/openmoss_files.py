"""Files as OpenMOSS' programs write them, those of 2024 and later ones."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sae

D_IN, D_SAE = 8, 32
SITE, OTHER = "blocks.15.hook_resid_post", "blocks.15.hook_mlp_out"
NORMS = {"in": 9.0, "out": 9.0}
S = math.sqrt(D_IN) / 9.0
LOG_THRESHOLD = "activation_function.log_jumprelu_threshold"

Forward = tuple[Tensor, Tensor]


def inputs() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.randn(64, D_IN, generator=generator) + 3 * torch.arange(D_IN).cos()


def linear_layers() -> dict[str, Tensor]:
    """Weights whose decoder rows have norms between 0.2 and 3, with biases that are not zero."""
    generator = torch.Generator().manual_seed(0)
    decoder = torch.randn(D_IN, D_SAE, generator=generator)
    decoder *= torch.linspace(0.2, 3, D_SAE) / decoder.norm(dim=0)
    return {
        "encoder.weight": torch.randn(D_SAE, D_IN, generator=generator) / 2,
        "encoder.bias": torch.randn(D_SAE, generator=generator) / 2,
        "decoder.weight": decoder,
        "decoder.bias": torch.randn(D_IN, generator=generator),
    }


def as_matrices(layers: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as the current program names and stores them."""
    return {
        "W_E": layers["encoder.weight"].T.contiguous(),
        "W_D": layers["decoder.weight"].T.contiguous(),
        "b_E": layers["encoder.bias"],
        "b_D": layers["decoder.bias"],
    }


def write(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], weights: str, name: str
) -> Path:
    (folder / weights).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(config))
    if weights.endswith(".pt"):
        torch.save({"sae": tensors, "version": "1"}, folder / weights)
    else:
        save_file(tensors, folder / weights)
    return folder


def agrees(loaded: sae.SAE[Any], original: Forward, x: Tensor | None = None) -> bool:
    """Whether support, features and reconstruction are those of the original."""
    x = inputs() if x is None else x
    acts, x_hat = original
    assert 0.02 < (acts != 0).double().mean() < 0.98, "the comparison says nothing"
    return (
        torch.equal(loaded.encode(x) != 0, acts != 0)
        and torch.allclose(loaded.encode(x), acts, rtol=1e-5, atol=1e-5 * float(acts.abs().max()))
        and torch.allclose(loaded(x), x_hat, rtol=1e-5, atol=1e-5 * float(x_hat.abs().max()))
    )


def refusal(folder: Path, **hints: Any) -> str:
    with pytest.raises(sae.InputError) as raised:
        sae.load(folder, **hints)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Llama Scope, December 2024 ----------------------------------------------------------------------


def llama_scope_config(**changes: Any) -> dict[str, Any]:
    return {
        **{"device": "cuda", "seed": 42, "dtype": "torch.bfloat16"},
        **{"hook_point_in": SITE, "hook_point_out": SITE, "d_model": D_IN, "d_sae": D_SAE},
        **{"expansion_factor": D_SAE // D_IN, "bias_init_method": "all_zero", "top_k": 4},
        **{"act_fn": "jumprelu", "jump_relu_threshold": 0.6, "norm_activation": "dataset-wise"},
        **{"dataset_average_activation_norm": NORMS, "sparsity_include_decoder_norm": True},
        **{"use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False},
        **{"use_glu_encoder": False, "lp": 1, "l1_coefficient": 8e-5, "tp_size": 1},
        **changes,
    }


def llama_scope(
    folder: Path, layers: dict[str, Tensor] | None = None, **changes: Any
) -> tuple[Path, dict[str, Any]]:
    config = llama_scope_config(**changes)
    weights = "checkpoints/final.safetensors"
    return write(folder, config, layers or linear_layers(), weights, "hyperparams.json"), config


# R1-Distill and later, and the current program ---------------------------------------------------


def later_config(**changes: Any) -> dict[str, Any]:
    return {
        **{"sae_type": "sae", "hook_point_in": SITE, "hook_point_out": SITE, "d_model": D_IN},
        **{"expansion_factor": D_SAE / D_IN, "act_fn": "jumprelu", "top_k": 4},
        **{"norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True},
        **{"use_decoder_bias": True, "jumprelu_threshold_window": 2.0, "use_triton_kernel": False},
        **changes,
    }


def log_threshold() -> Tensor:
    return torch.linspace(-2, 1, D_SAE)


def average_norms(**norms: float) -> dict[str, Tensor]:
    names = {"site": SITE, "other": OTHER}
    stem = "dataset_average_activation_norm"
    return {f"{stem}.{names[name]}": torch.tensor(norm) for name, norm in norms.items()}


def later(
    folder: Path, extra: dict[str, Tensor] | None = None, **changes: Any
) -> tuple[Path, dict[str, Any]]:
    """As the current program writes it."""
    config = later_config(**changes)
    tensors = as_matrices(linear_layers()) | (extra or {})
    if config["act_fn"] == "jumprelu":
        tensors[LOG_THRESHOLD] = log_threshold()
    return write(folder, config, tensors, "sae_weights.safetensors", "config.json"), config


def r1_distill(folder: Path, **changes: Any) -> tuple[Path, dict[str, Any]]:
    config = later_config(**changes)
    tensors = linear_layers() | {"log_jumprelu_threshold": log_threshold()}
    return write(folder, config, tensors, "sae_weights.safetensors", "config.json"), config
