"""SAELens' dictionaries: `python exchange_sae_lens.py save|load FOLDER`.

Saved with `save_inference_model`, or `save_model` where a class has no training form, and loaded
with `SAE.load_from_disk`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import D_IN, D_SAE, Use, disturb, run
from torch import Tensor

SIZES = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu"}


def training_forms() -> Iterator[tuple[str, Any]]:
    import sae_lens  # pyright: ignore[reportMissingImports]

    widths = {"matryoshka_widths": [D_SAE // 4, D_SAE]}
    for name, settings in {
        "Standard": {},
        "TopK": {"k": 6},
        "AbsTopK": {"k": 6},
        "BatchTopK": {"k": 6},
        "MatryoshkaBatchTopK": {"k": 6, **widths},
        "JumpReLU": {},
        "Gated": {},
        "MatchingPursuit": {"max_iterations": 8},
    }.items():
        config = getattr(sae_lens, f"{name}TrainingSAEConfig")(**SIZES, **settings)
        yield name, getattr(sae_lens, f"{name}TrainingSAE")(config)
    for normalize in ("layer_norm", "constant_norm_rescale"):
        config = sae_lens.StandardTrainingSAEConfig(**SIZES, normalize_activations=normalize)
        yield f"Standard, {normalize}", sae_lens.StandardTrainingSAE(config)


def transcoders() -> Iterator[tuple[str, Any]]:
    import sae_lens  # pyright: ignore[reportMissingImports]

    for name in ("Transcoder", "SkipTranscoder", "JumpReLUTranscoder", "JumpReLUSkipTranscoder"):
        config = getattr(sae_lens, f"{name}Config")(
            **SIZES, d_out=D_IN + 8, apply_b_dec_to_input=False
        )
        yield name, getattr(sae_lens, name)(config)


def save(folder: Path) -> Iterator[tuple[str, Use]]:
    for seed, (name, sae) in enumerate([*training_forms(), *transcoders()]):
        disturb(sae, seed)
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.4)
        if name == "MatchingPursuit":  # its decoder has unit rows, or the pursuit diverges
            sae.W_dec.data /= sae.W_dec.data.norm(dim=1, keepdim=True)
        write = getattr(sae, "save_inference_model", sae.save_model)
        write(folder / name)
        yield name, load(folder / name)


def load(folder: Path) -> Use:
    import sae_lens  # pyright: ignore[reportMissingImports]

    sae = sae_lens.SAE.load_from_disk(folder)

    def use(x: Tensor) -> tuple[Tensor, Tensor]:
        features = sae.encode(x)
        return features, sae(x)

    return use


if __name__ == "__main__":
    torch.manual_seed(0)
    run(save, load)
