"""Files as dictionary_learning writes them, and what its own classes compute from them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae.base import SAE

D_IN, D_SAE, K = 8, 32, 4
SITE = "blocks.3.hook_resid_post"
TRAINER = {"lm_name": "openai-community/gpt2", "layer": 3, "submodule_name": "resid_post_layer_3"}
BUFFER = {"ctx_len": 128, "io": "out", "d_submodule": D_IN}
State = dict[str, Tensor]


def inputs(scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(64, D_IN, generator=generator) + 3 * torch.arange(D_IN).cos()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def layers(**biases: Tensor) -> State:
    """nn.Linear's matrices, with decoder columns of norms between 0.2 and 3."""
    decoder = random(D_IN, D_SAE)
    decoder *= torch.linspace(0.2, 3, D_SAE) / decoder.norm(dim=0)
    return {"encoder.weight": random(D_SAE, D_IN, seed=7) / 2, "decoder.weight": decoder, **biases}


def parameters(**more: Tensor) -> State:
    of = layers()
    return {
        "W_enc": of["encoder.weight"].T.contiguous(),
        "W_dec": of["decoder.weight"].T.contiguous(),
        "b_enc": random(D_SAE),
        "b_dec": random(D_IN),
        **more,
    }


def scalars(threshold: float) -> State:
    return {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(threshold)}


STATES: dict[str, Callable[[], State]] = {
    "AutoEncoder": lambda: layers(**{"encoder.bias": random(D_SAE), "bias": random(D_IN)}),
    "AutoEncoderNew": lambda: layers(
        **{"encoder.bias": random(D_SAE), "decoder.bias": random(D_IN)}
    ),
    "GatedAutoEncoder": lambda: layers(
        decoder_bias=random(D_IN),
        gate_bias=random(D_SAE),
        mag_bias=random(D_SAE, seed=3),
        r_mag=random(D_SAE, seed=4) / 2,
    ),
    "JumpReluAutoEncoder": lambda: parameters(threshold=random(D_SAE, seed=5)),
    "AutoEncoderTopK": lambda: layers(
        **{"encoder.bias": random(D_SAE), "b_dec": random(D_IN)}, **scalars(1.0)
    ),
    "BatchTopKSAE": lambda: layers(
        **{"encoder.bias": random(D_SAE), "b_dec": random(D_IN)}, **scalars(0.8)
    ),
    "MatryoshkaBatchTopKSAE": lambda: parameters(**scalars(0.8), group_sizes=torch.tensor([8, 24])),
}


def original(dict_class: str, state: State, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features and reconstruction by the mathematics of the package."""
    if "W_enc" in state:
        W_enc, b_enc, W_dec = state["W_enc"], state["b_enc"], state["W_dec"]
    else:
        W_enc, W_dec = state["encoder.weight"].T, state["decoder.weight"].T
        b_enc = state.get("encoder.bias", torch.zeros(D_SAE))
    match dict_class:
        case "AutoEncoder":
            b_dec, acts = state["bias"], ((x - state["bias"]) @ W_enc + b_enc).relu()
        case "AutoEncoderNew":
            b_dec, acts = state["decoder.bias"], (x @ W_enc + b_enc).relu()
        case "GatedAutoEncoder":
            b_dec = state["decoder_bias"]
            pre = (x - b_dec) @ W_enc
            magnitude = (state["r_mag"].exp() * pre + state["mag_bias"]).relu()
            acts = (pre + state["gate_bias"] > 0) * magnitude
        case "JumpReluAutoEncoder":
            b_dec, pre = state["b_dec"], x @ W_enc + b_enc
            acts = (pre * (pre > state["threshold"])).relu()
        case "AutoEncoderTopK":
            b_dec = state["b_dec"]
            acts = ((x - b_dec) @ W_enc + b_enc).relu()
            best = acts.topk(int(state["k"]), dim=1)
            acts = torch.zeros_like(acts).scatter(1, best.indices, best.values)
        case _:
            b_dec = state["b_dec"]
            acts = ((x - b_dec) @ W_enc + b_enc).relu()
            acts = acts * (acts > state["threshold"])
    return acts, acts @ W_dec + b_dec


def write(folder: Path, dict_class: str | None, content: Any, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "ae.pt")
    if dict_class is not None:
        trainer = {**TRAINER, "dict_class": dict_class, **config}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": BUFFER}))
    return folder


def check_same(ours: SAE, acts: Tensor, x_hat: Tensor, x: Tensor) -> None:
    found = ours.encode(x)
    assert 0 < (acts != 0).sum() < acts.numel()
    assert torch.equal(found != 0, acts != 0)
    assert (found - acts).abs().max() <= 1e-5 * acts.abs().max().clamp_min(1)
    assert (ours(x) - x_hat).abs().max() <= 1e-5 * x_hat.abs().max()
    assert torch.equal(ours.encode_sparse(x).dense() != 0, acts != 0)
