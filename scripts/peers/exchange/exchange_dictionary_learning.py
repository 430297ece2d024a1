"""dictionary_learning's dictionaries: `python exchange_dictionary_learning.py save|load FOLDER`.

Saved as its training loop does, the state dict in ae.pt and the settings in config.json, and loaded
with `from_pretrained` of the class that config.json names, which for `AutoEncoder` would normalise
the decoder if it were not told otherwise.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import D_IN, D_SAE, K, Use, disturb, run
from torch import Tensor


def dictionaries() -> Iterator[Any]:
    from dictionary_learning import dictionary  # pyright: ignore[reportMissingImports]
    from dictionary_learning.trainers import (  # pyright: ignore[reportMissingImports]
        batch_top_k,
        matryoshka_batch_top_k,
        top_k,
    )

    for name in ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder"):
        yield getattr(dictionary, name)(D_IN, D_SAE)
    yield top_k.AutoEncoderTopK(D_IN, D_SAE, K)
    yield batch_top_k.BatchTopKSAE(D_IN, D_SAE, K)
    yield matryoshka_batch_top_k.MatryoshkaBatchTopKSAE(
        D_IN, D_SAE, K, [D_SAE // 4, 3 * D_SAE // 4]
    )


def save(folder: Path) -> Iterator[tuple[str, Use]]:
    for seed, module in enumerate(dictionaries()):
        name = type(module).__name__
        disturb(module, seed)
        if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            module.threshold.fill_(0.4)
        (folder / name).mkdir(parents=True)
        torch.save(module.state_dict(), folder / name / "ae.pt")
        trainer = {"dict_class": name, "activation_dim": D_IN, "dict_size": D_SAE, "k": K}
        (folder / name / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
        yield name, load(folder / name)


def load(folder: Path) -> Use:
    settings = json.loads((folder / "config.json").read_text())["trainer"]
    cls = next(type(of) for of in dictionaries() if type(of).__name__ == settings["dict_class"])
    raw = {"normalize_decoder": False} if settings["dict_class"] == "AutoEncoder" else {}
    module = cls.from_pretrained(folder / "ae.pt", **raw)

    def use(x: Tensor) -> tuple[Tensor, Tensor]:
        features = module.encode(x)
        return features, module.decode(features)

    return use


if __name__ == "__main__":
    torch.manual_seed(0)
    run(save, load)
