"""Files of SAELens, and what SAELens computes with them, written out for the tests."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae.base import SAE

D_IN, D_SAE, D_OUT = 8, 32, 6
HOOK = "blocks.3.hook_resid_pre"
SAES = ("standard", "topk", "abstopk", "jumprelu", "gated", "matching_pursuit")
TRANSCODERS = (
    *("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
)
EVERY = (*SAES, *TRANSCODERS)


def inputs(seed: int = 7) -> Tensor:
    """Activations with a mean that is far from zero."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(40, D_IN, generator=generator) * 2 + torch.linspace(-3, 6, D_IN)


def config_of(architecture: str, **changes: Any) -> dict[str, Any]:
    """A config of version 6."""
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": "transcoder" not in architecture,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12",
            "model_name": "gpt2-small",
            "hook_name": HOOK,
            "context_size": 128,
            "prepend_bos": True,
            "model_from_pretrained_kwargs": {},
        },
    }
    if "topk" in architecture:
        config |= {"k": 5, "rescale_acts_by_decoder_norm": True}
    if "transcoder" in architecture:
        config["d_out"] = D_OUT
        config["metadata"]["hook_name_out"] = "blocks.3.hook_mlp_out"
    if architecture == "matching_pursuit":
        config |= {
            "residual_threshold": 0.5,
            "max_iterations": 6,
            "stop_on_duplicate_support": True,
        }
    return config | changes


def weights_of(architecture: str, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors with the names and shapes that the architecture is stored with."""
    generator = torch.Generator().manual_seed(seed)
    d_out = D_OUT if "transcoder" in architecture else D_IN
    shapes: dict[str, tuple[int, ...]] = {"W_dec": (D_SAE, d_out), "b_dec": (d_out,)}
    if architecture != "matching_pursuit":
        shapes["W_enc"] = (D_IN, D_SAE)
    if architecture == "gated":
        shapes |= {"b_gate": (D_SAE,), "b_mag": (D_SAE,), "r_mag": (D_SAE,)}
    elif architecture != "matching_pursuit":
        shapes["b_enc"] = (D_SAE,)
    if "jumprelu" in architecture:
        shapes["threshold"] = (D_SAE,)
    if "skip" in architecture:
        shapes["W_skip"] = (D_OUT, D_IN)
    weights = {
        name: 0.4 * torch.randn(*shape, generator=generator) for name, shape in shapes.items()
    }
    if architecture == "matching_pursuit":  # longer rows would take out more than there is
        lengths = 0.9 + 0.2 * torch.rand(D_SAE, 1, generator=generator)
        weights["W_dec"] *= lengths / weights["W_dec"].norm(dim=1, keepdim=True)
    return weights


def put(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    stored = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(stored, folder / "sae_weights.safetensors")
    return folder


def original(
    config: dict[str, Any], weights: dict[str, Tensor], x: Tensor
) -> tuple[Tensor, Tensor]:
    """Features and reconstruction of SAELens 6, token by token normalisation included."""
    kind, architecture = config["normalize_activations"], config["architecture"]
    z, shift, scale = x, torch.zeros(len(x), 1), torch.ones(len(x), 1)
    if kind == "layer_norm":
        shift, scale = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        z = (x - shift) / (scale + 1e-5)
    if kind == "constant_norm_rescale":
        scale = x.norm(dim=1, keepdim=True) / D_IN**0.5
        z = x / scale
    centred = z - weights["b_dec"] if config["apply_b_dec_to_input"] else z
    W_dec, b_dec = weights["W_dec"], weights["b_dec"]
    if architecture == "matching_pursuit":
        acts = torch.stack([_pursue(config, W_dec, token) for token in centred])
        b_dec = b_dec * config["apply_b_dec_to_input"]
        return acts, (acts @ W_dec + b_dec) * scale + shift
    h = centred @ weights["W_enc"]
    if architecture == "gated":
        magnitude = (h * weights["r_mag"].exp() + weights["b_mag"]).relu()
        acts = magnitude * (h + weights["b_gate"] > 0)
    else:
        acts, W_dec = _activate(config, weights, h + weights["b_enc"])
    x_hat = (acts @ W_dec + b_dec) * scale + shift
    return acts, x_hat + x @ weights["W_skip"].T if "W_skip" in weights else x_hat


def _activate(
    config: dict[str, Any], weights: dict[str, Tensor], h: Tensor
) -> tuple[Tensor, Tensor]:
    W_dec = weights["W_dec"]
    if config.get("rescale_acts_by_decoder_norm"):
        norms = W_dec.norm(dim=1)
        h, W_dec = h * norms, W_dec / norms[:, None]
    if "threshold" in weights:
        return h.relu() * (h > weights["threshold"]), W_dec
    if "topk" not in config["architecture"]:
        return h.relu(), W_dec
    is_signed = config["architecture"] == "abstopk"
    kept = (h.abs() if is_signed else h).topk(config["k"], dim=1).indices
    values = h.gather(1, kept)
    return torch.zeros_like(h).scatter(1, kept, values if is_signed else values.relu()), W_dec


def _pursue(config: dict[str, Any], rows: Tensor, token: Tensor) -> Tensor:
    acts, residual = torch.zeros(len(rows)), token.clone()
    for _ in range(config["max_iterations"] or D_IN):
        before = acts != 0
        best = int((rows @ residual).argmax())
        value = max(float(residual @ rows[best]), 0.0)
        acts[best] += value
        residual = residual - value * rows[best]
        if config["stop_on_duplicate_support"] and torch.equal(before, acts != 0):
            break
        if config["residual_threshold"] > 0 and residual.norm() < config["residual_threshold"]:
            break
    return acts


def assert_agrees(dictionary: SAE, x: Tensor, acts: Tensor, x_hat: Tensor) -> None:
    """The same features, active in the same places, and the same reconstruction."""
    ours = dictionary.encode(x)
    assert (acts != 0).any()
    assert torch.equal(ours != 0, acts != 0)
    assert (ours - acts).abs().max() <= 1e-5 * acts.abs().max()
    assert (dictionary(x) - x_hat).abs().max() <= 1e-5 * x_hat.abs().max()
