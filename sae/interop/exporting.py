"""What the layouts that can be written have in common: any dictionary as one class."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.files import write_json, write_together
from sae.base import SAE
from sae.interop.pretrained import VECTORS, Activation, PretrainedConfig, PretrainedSAE

ROWS_AT_ONCE = 4096


def as_pretrained(sae: SAE) -> PretrainedSAE:
    """The same features and reconstruction in the class that layouts are written from.

    A tied encoder is written out. Weights in float32 are shared, not copied.
    """
    if isinstance(sae, PretrainedSAE):
        return sae
    activation = sae.cfg.activation
    if activation is None:
        raise InputError(
            f"other projects have no word for what the architecture {sae.cfg.architecture} "
            f"computes: save it with sae.save"
        )
    vectors = (name for name, of in VECTORS.items() if activation in of)
    named = {name: getattr(sae, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec", *vectors)}
    if activation == "jumprelu" and (named["threshold"] < 0).any():
        raise InputError("threshold is negative: other projects would take max(h, 0) first")
    k = sae.cfg.k if activation == "topk" else None
    cfg = PretrainedConfig(d_sae=sae.d_sae, activation=activation, k=k)
    return PretrainedSAE(cfg, {name: w.detach() for name, w in named.items()}, sae.provenance)


def refuse_inexpressible(
    sae: PretrainedSAE,
    layout: str,
    activations: Collection[Activation],
    *,
    normalizes: bool = False,
    transcodes: bool = False,
    skips: bool = False,
) -> None:
    """`InputError` for what a layout cannot say: it would load, and compute something else."""
    cfg = sae.cfg
    obstacles = {
        f"the activation {cfg.activation}, only {', '.join(activations)}": (
            cfg.activation not in activations
        ),
        f"the {cfg.normalization} of its inputs": cfg.normalization != "none" and not normalizes,
        "features that keep negative values": cfg.keeps_negative,
        "features that compete by the norms of their decoder rows": (
            cfg.selects_by_decoder_norm and not has_equal_rows(sae.W_dec)
        ),
        "a bias that decoding takes back": cfg.reverses_bias,
        f"inputs of width {sae.d_in} for outputs of width {sae.d_out}": (
            sae.d_in != sae.d_out and not transcodes
        ),
        "a skip connection": sae.W_skip is not None and not skips,
    }
    for what, is_there in obstacles.items():
        if is_there:
            raise InputError(f"{layout} files cannot express {what}: write it in another layout")


def write_files(
    folder: Path,
    weights_file: str,
    tensors: Mapping[str, Tensor],
    config_file: str,
    config: Mapping[str, Any],
) -> None:
    """Write weights and the config that describes them, both or neither."""
    save = torch.save if weights_file.endswith(".pt") else save_file
    stored = {name: contiguous(tensor) for name, tensor in tensors.items()}
    files = {
        weights_file: lambda path: save(stored, path),
        config_file: lambda path: write_json(path, config),
    }
    write_together(folder, files)


def contiguous(tensor: Tensor) -> Tensor:
    """A tensor as files hold it: in memory of its own order, with nothing attached."""
    return tensor.detach().cpu().contiguous()


def has_equal_rows(W_dec: Tensor, norm: float | None = None) -> bool:
    """Whether the rows have one norm (or `norm`), but for rounding."""
    norms = torch.linalg.vector_norm(W_dec, dim=1)
    return torch.allclose(norms, norms.mean() if norm is None else torch.full_like(norms, norm))


def biases(sae: PretrainedSAE, *, subtracts_b_dec: bool) -> dict[str, Tensor]:
    """`b_enc`, and `b_mag` of a gated one, for an encoder that subtracts b_dec or does not."""
    found: dict[str, Tensor] = {"b_enc": sae.b_enc}
    if sae.cfg.activation == "gated":
        found["b_mag"] = sae.b_mag
    if sae.cfg.subtracts_b_dec == subtracts_b_dec:
        return found
    b_dec = sae.b_dec.double()
    parts = [rows.double() @ b_dec for rows in sae.W_enc_rows.split(ROWS_AT_ONCE)]
    shift = torch.cat(parts) * (1 if subtracts_b_dec else -1)
    folded = {"b_enc": sae.b_enc + shift}
    if sae.cfg.activation == "gated":  # its magnitude is scaled before b_mag is added
        folded["b_mag"] = sae.b_mag + shift * sae.r_mag.double().exp()
    return {name: bias.to(torch.float32) for name, bias in folded.items()}
