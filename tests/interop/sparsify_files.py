"""Files as EleutherAI's sparsify writes them, and what its own class computes from them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae.base import SAE

D_IN, D_SAE, K = 8, 32, 4
CONFIG: dict[str, Any] = {
    **{"activation": "topk", "expansion_factor": 4, "normalize_decoder": True, "num_latents": 0},
    **{"k": K, "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D_IN},
}

State = dict[str, Tensor]


def inputs(scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(64, D_IN, generator=generator) + 3 * torch.arange(D_IN).cos()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def state(seed: int = 0, *, skip: bool = False) -> State:
    """Weights whose decoder rows have norms between 0.2 and 3."""
    W_dec = random(D_SAE, D_IN, seed=seed)
    W_dec *= torch.linspace(0.2, 3, D_SAE)[:, None] / W_dec.norm(dim=1, keepdim=True)
    tensors = {
        "encoder.weight": random(D_SAE, D_IN, seed=seed + 7) / 2,
        "encoder.bias": random(D_SAE, seed=seed),
        "W_dec": W_dec,
        "b_dec": random(D_IN, seed=seed),
    }
    return tensors | ({"W_skip": random(D_IN, D_IN, seed=seed)} if skip else {})


def original(config: dict[str, Any], of: State, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features and reconstruction by the mathematics of the package."""
    centred = x if config["transcode"] else x - of["b_dec"]
    pre = (centred @ of["encoder.weight"].T + of["encoder.bias"]).relu()
    if config["activation"] == "topk":
        values, indices = pre.topk(config["k"], dim=1)
    else:
        values, indices = pre.unflatten(1, (config["k"], -1)).max(dim=2)
        indices = indices + torch.arange(config["k"]) * (pre.shape[1] // config["k"])
    x_hat = (values[:, :, None] * of["W_dec"][indices]).sum(dim=1) + of["b_dec"]
    if "W_skip" in of:
        x_hat = x_hat + x @ of["W_skip"].T
    return torch.zeros_like(pre).scatter(1, indices, values), x_hat


def write(folder: Path, tensors: State, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


def check_same(ours: SAE, acts: Tensor, x_hat: Tensor, x: Tensor) -> None:
    found = ours.encode(x)
    assert 0 < (acts != 0).sum() < acts.numel()
    assert torch.equal(found != 0, acts != 0)
    assert (found - acts).abs().max() <= 1e-5 * acts.abs().max().clamp_min(1)
    assert (ours(x) - x_hat).abs().max() <= 1e-5 * x_hat.abs().max()
