"""What every dictionary is: an encoder and a decoder, tied or not, and a config that says which.

Nothing here is about training: `sae.trainable` has what an architecture adds for that.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from activation_cache.common.errors import InputError, refuse_below
from sae.codes import Codes
from sae.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class SAEConfig(ABC):
    """What the configs of all dictionaries have in common."""

    architecture: ClassVar[str]

    d_sae: int
    """Number of features."""
    tied: bool = False
    """Encode with the transposed decoder: half the parameters. All but relu train one number that
    it is multiplied by."""

    def __post_init__(self) -> None:
        refuse_below(1, d_sae=self.d_sae)

    @abstractmethod
    def build(self, d_in: int, *, seed: int = 0) -> "SAE[Any]":
        """A freshly initialised dictionary for activations of width `d_in`."""


Cfg = TypeVar("Cfg", bound=SAEConfig, covariant=True)


class SAE(nn.Module, Generic[Cfg]):
    """A sparse autoencoder: x_hat = acts @ W_dec + b_dec, acts = activation of the encoder.

    Rows of `W_dec` have unit norm. `forward` is pure: nothing about the dictionary changes in it.
    """

    STORED_NAMES: ClassVar[Mapping[str, str]] = {"untied_W_enc_rows": "W_enc"}
    """How saved files call parameters and buffers, where not by their own name."""

    gain: nn.Parameter | None
    """Of a tied dictionary that has one: W_enc = gain * W_dec.T."""

    def __init__(self, cfg: Cfg, d_in: int, *, seed: int = 0) -> None:
        super().__init__()
        refuse_below(1, d_in=d_in)
        refuse_more_than_memory(cfg.d_sae, d_in)
        self.cfg = cfg
        self.d_in = d_in
        self.provenance = Provenance()
        generator = torch.Generator().manual_seed(seed)
        W_dec = torch.randn(cfg.d_sae, d_in, generator=generator)
        W_dec /= W_dec.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(W_dec)
        self.untied_W_enc_rows = None if cfg.tied else nn.Parameter(W_dec.clone())
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.register_parameter("gain", None)

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        return self.W_enc_rows.T

    @property
    def W_enc_rows(self) -> Float[Tensor, "d_sae d_in"]:
        """The encoder with a feature in each row, which is how it lies in memory."""
        if self.untied_W_enc_rows is not None:
            return self.untied_W_enc_rows
        return self.W_dec if self.gain is None else self.gain * self.W_dec

    @property
    def d_sae(self) -> int:
        return self.cfg.d_sae

    @property
    def device(self) -> torch.device:
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        return self.W_dec.dtype

    @property
    def hook_name(self) -> str | None:
        """The TransformerLens name of the site that the dictionary is for, where it is known."""
        return self.provenance.hook_name

    @abstractmethod
    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Tensor | Codes:
        """Features from pre-activations, in the form that is cheapest to decode."""

    def pre_acts(self, x: Float[Tensor, "batch {self.d_in}"]) -> Tensor:
        """What the features are made of."""
        return (x.to(self.dtype) - self.b_dec) @ self.W_enc + self.b_enc

    def extra_repr(self) -> str:
        """Sizes and settings, for `repr`."""
        settings = {"d_in": self.d_in, **vars(self.cfg)}
        return ", ".join(f"{name}={value}" for name, value in settings.items())

    def encode(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens {self.d_sae}"]:
        """All features of each token; `InputError` where x is no tensor of width d_in."""
        acts = self.activate(self.pre_acts(self.rows_of(x)))
        acts = acts.dense() if isinstance(acts, Codes) else acts
        return acts.view(*x.shape[:-1], self.d_sae)

    def encode_sparse(self, x: Float[Tensor, "*tokens d_in"]) -> Codes:
        """The active features of each token."""
        acts = self.activate(self.pre_acts(self.rows_of(x)))
        codes = acts if isinstance(acts, Codes) else Codes.from_dense(acts)
        return codes if x.ndim == 2 else codes.view(*x.shape[:-1])

    def rows_of(self, x: Tensor) -> Float[Tensor, "rows {self.d_in}"]:
        """Activations of any leading shape as rows; `InputError` where they do not fit."""
        if not isinstance(x, Tensor):
            raise InputError(
                f"x must be a torch tensor, got {type(x).__name__}: torch.as_tensor(x)"
            )
        if x.ndim == 0 or x.shape[-1] != self.d_in:
            raise InputError(
                f"x has shape {[*x.shape]}, and the dictionary takes activations of width "
                f"{self.d_in} in the last dimension"
            )
        return x if x.ndim == 2 else x.reshape(-1, self.d_in)

    def decode(self, acts: Tensor | Codes) -> Float[Tensor, "*tokens {self.d_in}"]:
        """The reconstruction from dense or sparse features."""
        return self.sum_of_rows(acts) + self.b_dec

    def forward(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens {self.d_in}"]:
        return self.decode(self.encode(x))

    def reconstruct(
        self, x: Float[Tensor, "*tokens d_in"]
    ) -> tuple[Float[Tensor, "*tokens _"], Codes]:
        """The reconstruction, and the active features that it is made of."""
        acts = self.encode_sparse(x)
        return self.decode_for(x, acts), acts

    def decode_for(
        self, x: Float[Tensor, "*tokens d_in"], acts: Tensor | Codes
    ) -> Float[Tensor, "*tokens _"]:
        """The reconstruction of x from these features, which need not be its own."""
        return self.decode(acts)

    def share_of(
        self,
        features: list[int] | slice,
        acts: Float[Tensor, "*tokens n"],
        x: Float[Tensor, "*tokens d_in"],
    ) -> Float[Tensor, "*tokens _"]:
        """What some features with these values add to the reconstruction of x."""
        return acts @ self.W_dec[features]

    def sum_of_rows(self, acts: Tensor | Codes) -> Tensor:
        """The decoder rows of the features, weighted and summed."""
        return acts.decode(self.W_dec) if isinstance(acts, Codes) else acts @ self.W_dec


def refuse_more_than_memory(d_sae: int, d_in: int) -> None:
    """`InputError` for a dictionary whose matrices no memory here can hold."""
    n_bytes, memory = 4 * d_sae * d_in, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if n_bytes > memory:
        raise InputError(
            f"d_sae {d_sae} is too much: a matrix of {d_sae:,} features of width {d_in:,} takes "
            f"{n_bytes / 1e9:,.0f} GB, and this machine has {memory / 1e9:,.0f} GB: give fewer"
        )
