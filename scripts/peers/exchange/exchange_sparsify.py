"""sparsify's dictionaries: `python exchange_sparsify.py save|load FOLDER`.

Saved with `SparseCoder.save_to_disk` and loaded with `SparseCoder.load_from_disk`.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from common import D_IN, D_SAE, K, Use, disturb, run
from torch import Tensor

VARIANTS = {
    "topk": {},
    "topk, transcoder": {"transcode": True},
    "topk, skip transcoder": {"transcode": True, "skip_connection": True},
    "groupmax": {"activation": "groupmax"},
}


def save(folder: Path) -> Iterator[tuple[str, Use]]:
    from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]

    for seed, (name, settings) in enumerate(VARIANTS.items()):
        cfg = SparseCoderConfig(expansion_factor=D_SAE // D_IN, k=K, **settings)
        coder = SparseCoder(D_IN, cfg)
        disturb(coder, seed)
        coder.save_to_disk(folder / name)
        yield name, load(folder / name)


def load(folder: Path) -> Use:
    from sparsify import SparseCoder  # pyright: ignore[reportMissingImports]

    coder = SparseCoder.load_from_disk(folder)

    def use(x: Tensor) -> tuple[Tensor, Tensor]:
        found = coder.encode(x)
        features = x.new_zeros(len(x), coder.num_latents)
        features.scatter_(1, found.top_indices, found.top_acts)
        return features, coder(x).sae_out

    return use


if __name__ == "__main__":
    torch.manual_seed(0)
    run(save, load)
