"""Sweeps as sparse_coding pickles them, and what its classes compute."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae

D_IN, D_SAE = 8, 32


class LearnedDict:
    """The original's mathematics: `predict` centres, encodes, decodes and takes the centre back."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__ |= {"n_feats": D_SAE, "activation_size": D_IN, **attributes}

    def unit(self, rows: Tensor) -> Tensor:
        return rows / rows.norm(dim=-1).clamp(1e-8)[:, None]

    def center(self, x: Tensor) -> Tensor:
        return x

    def uncenter(self, x: Tensor) -> Tensor:
        return x

    def rows(self) -> Tensor:
        return self.unit(self.encoder) if self.norm_encoder else self.encoder

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.rows().T + self.encoder_bias).clamp(min=0)

    def decode(self, acts: Tensor) -> Tensor:
        return acts @ self.unit(self.encoder)


class TiedSAE(LearnedDict):
    def center(self, x: Tensor) -> Tensor:
        return ((x - self.center_trans) @ self.center_rot.T) * self.center_scale

    def uncenter(self, x: Tensor) -> Tensor:
        return (x / self.center_scale) @ self.center_rot + self.center_trans


class OldTiedSAE(LearnedDict):
    """Without attributes for centring, as before 2023-09."""


class UntiedSAE(LearnedDict):
    def rows(self) -> Tensor:
        return self.encoder

    def decode(self, acts: Tensor) -> Tensor:
        return acts @ self.unit(self.decoder)


class ReverseSAE(LearnedDict):
    """Decodes as in its training: the original's `decode` sums over the wrong index."""

    def decode(self, acts: Tensor) -> Tensor:
        return torch.where(acts > 0, acts - self.encoder_bias, acts) @ self.rows()


class PCAEncoder(LearnedDict):
    pass


def name_as_in_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes are pickled under the names that the original has for them."""
    module = types.ModuleType("autoencoders.learned_dict")
    for cls in (TiedSAE, UntiedSAE, ReverseSAE):
        monkeypatch.setattr(cls, "__module__", module.__name__)
        setattr(module, cls.__name__, cls)
    pca = types.ModuleType("autoencoders.pca")
    monkeypatch.setattr(PCAEncoder, "__module__", pca.__name__)
    setattr(pca, "PCAEncoder", PCAEncoder)  # noqa: B010
    for name, of in (("autoencoders", types.ModuleType("autoencoders")), ("autoencoders.pca", pca)):
        monkeypatch.setitem(sys.modules, name, of)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def random(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder_of(**more: Any) -> dict[str, Any]:
    encoder = random(D_SAE, D_IN, seed=1) * torch.linspace(0.3, 3, D_SAE)[:, None]
    return {"encoder": encoder, "encoder_bias": random(D_SAE, seed=2), **more}


def centring() -> dict[str, Tensor]:
    rotation, _ = torch.linalg.qr(random(D_IN, D_IN, seed=3))
    scale = torch.linspace(0.5, 2, D_IN)
    return {"center_trans": mean(), "center_rot": rotation, "center_scale": scale}


def identity() -> dict[str, Tensor]:
    ones, eye = torch.ones(D_IN), torch.eye(D_IN)
    return {"center_trans": mean(), "center_rot": eye, "center_scale": ones}


def mean() -> Tensor:
    return random(D_IN, scale=3.0, seed=4)


def inputs() -> Tensor:
    return random(200, D_IN, scale=2.0, seed=5) + mean()


def save(folder: Path, *dictionaries: LearnedDict) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / "learned_dicts.pt"
    swept = [(it, {"dict_size": D_SAE, "l1_alpha": at / 1e3}) for at, it in enumerate(dictionaries)]
    torch.save(swept, path)
    return path


def assert_same(ours: sae.SAE, original: LearnedDict, means: Tensor | float = 0.0) -> None:
    x = inputs()
    acts = original.encode(original.center(x - means))
    expected = original.uncenter(original.decode(acts)) + means
    assert 0.1 < (acts > 0).float().mean() < 0.9
    assert torch.equal(ours.encode(x) > 0, acts > 0)
    assert torch.allclose(ours.encode(x), acts, rtol=1e-5, atol=1e-5 * acts.max().item())
    assert torch.allclose(ours(x), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


DICTIONARIES: dict[str, Callable[[], LearnedDict]] = {
    "tied": lambda: TiedSAE(**encoder_of(norm_encoder=True), **identity()),
    "tied with a scaled encoder": lambda: TiedSAE(**encoder_of(norm_encoder=False), **identity()),
    "tied and centred": lambda: TiedSAE(**encoder_of(norm_encoder=True), **centring()),
    "tied, scaled and centred": lambda: TiedSAE(**encoder_of(norm_encoder=False), **centring()),
    "untied": lambda: UntiedSAE(**encoder_of(decoder=random(D_SAE, D_IN, scale=3.0, seed=6))),
    "reverse": lambda: ReverseSAE(**encoder_of(norm_encoder=True)),
    "reverse with a scaled encoder": lambda: ReverseSAE(**encoder_of(norm_encoder=False)),
}
