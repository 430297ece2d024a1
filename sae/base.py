"""What every dictionary is: a config that can be built, and an encoder and decoder, tied or not."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from activation_cache.common.errors import InputError
from sae.codes import Codes, indices_of
from sae.kernels import values_at
from sae.selection import PRE_ACTS_AT_ONCE, Products, Shadow, select

ROWS_IN_CACHE = 1024
"""Rows that one pass over the weights takes at a time on a CPU."""

Revival = Literal["auxk", "resample", "none"]
"""How an architecture brings features back that have stopped firing."""


@dataclass(frozen=True, kw_only=True)
class SAEConfig(ABC):
    """What the dictionaries of every architecture have in common."""

    architecture: ClassVar[str]
    revival: ClassVar[Revival] = "none"
    is_sparse_from_the_start: ClassVar[bool] = False
    """Whether few features are active however the weights are: their number is fixed."""
    chooses_over_the_batch: ClassVar[bool] = False
    """Whether the features of a token depend on the other tokens of a training batch."""

    d_sae: int
    """Number of features."""
    tied: bool = False
    """Encode with the transpose of the decoder: half the parameters, and unit encoder columns."""

    def __post_init__(self) -> None:
        if self.d_sae < 1:
            raise InputError(f"d_sae must be at least 1, got {self.d_sae}")

    @property
    def initial_density(self) -> float:
        """Share of the features that are active on a token at first, before an untied encoder is
        scaled: half by chance."""
        return 0.5

    @abstractmethod
    def build(self, d_in: int, *, seed: int = 0) -> "SAE[Any]":
        """A freshly initialised dictionary for activations of width `d_in`."""

    @property
    def coefficients(self) -> Mapping[str, float]:
        """The weight of each penalty that the architecture adds to the reconstruction loss."""
        return {}


Cfg = TypeVar("Cfg", bound=SAEConfig, covariant=True)


@dataclass(frozen=True)
class TrainingPass:
    """What the losses need of one batch, in the units that the dictionary is trained in."""

    x: Float[Tensor, "batch d_in"]
    x_hat: Float[Tensor, "batch d_in"]
    acts: Float[Tensor, "batch d_sae"] | Codes
    penalties: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    """By the names of `SAEConfig.coefficients`: sums over features, means over the batch."""


class SAE(nn.Module, Generic[Cfg]):
    """A sparse autoencoder: x_hat = acts @ W_dec + b_dec, acts = activation of the encoder.

    Rows of `W_dec` have unit norm. `forward` is pure: nothing about the dictionary changes in it.
    While a dictionary is trained, `input_scale` is the factor that brings its inputs to a norm of
    about sqrt(d_in); features and reconstructions are in the units of the input all the same, and
    `fold_input_scale_` moves the factor into the biases, exactly.
    """

    def __init__(self, cfg: Cfg, d_in: int, *, seed: int = 0) -> None:
        super().__init__()
        if d_in < 1:
            raise InputError(f"d_in must be at least 1, got {d_in}")
        _refuse_more_than_memory(cfg.d_sae, d_in)
        self.cfg = cfg
        self.d_in = d_in
        self.input_scale = 1.0
        self.is_fresh = True
        """Whether the weights are random still."""
        self.metadata: dict[str, Any] = {}
        self._shadow = Shadow()
        generator = torch.Generator().manual_seed(seed)
        W_dec = torch.randn(cfg.d_sae, d_in, generator=generator)
        W_dec /= W_dec.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(W_dec)
        self.untied_W_enc_rows = None if cfg.tied else nn.Parameter(W_dec.clone())
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        return self.W_enc_rows.T

    @property
    def W_enc_rows(self) -> Float[Tensor, "d_sae d_in"]:
        """The encoder with a feature in each row, which is how it lies in memory."""
        return self.W_dec if self.untied_W_enc_rows is None else self.untied_W_enc_rows

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
        return self.metadata.get("hook_name")

    # Encoding and decoding -----------------------------------------------------------------------

    @abstractmethod
    def nonlinearity(self, pre_acts: Tensor, features: Tensor | None = None) -> Tensor:
        """Features from pre-activations, entry by entry: of all features, or of those given.

        `features` are the indices [batch, k] that the entries of `pre_acts` [batch, k] belong to.
        """

    def support(self, pre_acts: Float[Tensor, "batch n"], slack: int = 1) -> Int[Tensor, "batch k"]:
        """The features of each token that can be active or can have a gradient, -1 for none.

        Where their number is fixed, `slack` asks for that many times as many.
        """
        return indices_of(pre_acts > 0)

    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Tensor | Codes:
        """The features, in the form that is cheapest to decode."""
        return self.nonlinearity(pre_acts)

    def penalties(
        self, out: "TrainingPass", pre_acts: Tensor, features: Tensor | None
    ) -> dict[str, Float[Tensor, ""]]:
        """What the architecture is trained to keep small beside the error, unweighted.

        Like `nonlinearity`, from the pre-activations of all features or of those given.
        """
        return {}

    def encode(self, x: Float[Tensor, "batch {self.d_in}"]) -> Float[Tensor, "batch {self.d_sae}"]:
        """All features of each token."""
        acts = self.activate(self._pre_acts(self._scaled(x)))
        return (acts.dense() if isinstance(acts, Codes) else acts) / self.input_scale

    def encode_sparse(self, x: Float[Tensor, "batch {self.d_in}"]) -> Codes:
        """The active features of each token."""
        acts = self.activate(self._pre_acts(self._scaled(x)))
        codes = acts if isinstance(acts, Codes) else Codes.from_dense(acts)
        return Codes(codes.indices, codes.values / self.input_scale, codes.d_sae)

    def decode(self, acts: Tensor | Codes) -> Float[Tensor, "batch {self.d_in}"]:
        """The reconstruction from dense or sparse features."""
        return self._sum_of_rows(acts) + self.b_dec / self.input_scale

    def forward(self, x: Float[Tensor, "batch {self.d_in}"]) -> Float[Tensor, "batch {self.d_in}"]:
        return self.decode(self.encode(x))

    def reconstruct(
        self, x: Float[Tensor, "batch {self.d_in}"]
    ) -> tuple[Float[Tensor, "batch _"], Codes]:
        """The reconstruction, and the active features that it is made of."""
        acts = self.encode_sparse(x)
        return self.decode(acts), acts

    def training_pass(
        self,
        x: Float[Tensor, "batch {self.d_in}"],
        *,
        sparse: bool = True,
        products: Products = "float32",
    ) -> TrainingPass:
        """Encode and decode one batch, keeping what the losses need.

        `sparse` computes all but the encoder's product on the `support` alone. Its numbers and
        gradients are the dense ones, exactly; it pays where few features are in the support.
        """
        x = self._scaled(x)
        centred, bias = x - self.b_dec.detach(), self._encoder_bias()
        if not sparse:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=products == "bfloat16"):
                pre_acts = centred @ self.W_enc + bias
                acts = self.nonlinearity(pre_acts)
                out = TrainingPass(x, self._sum_of_rows(acts) + self.b_dec, acts)
                return replace(out, penalties=self.penalties(out, pre_acts, None))
        selected = select(
            centred,
            self.W_enc_rows,
            bias,
            self.support,
            self._shadow,
            products=products,
            in_parts=not self.cfg.chooses_over_the_batch,
        )
        features = selected.indices
        values = values_at(selected.values, centred, self.W_enc_rows, bias, selected.by_feature)
        codes = selected.with_values(self.nonlinearity(values, features))
        out = TrainingPass(x, codes.decode(self.W_dec) + self.b_dec, codes)
        return replace(out, penalties=self.penalties(out, values, features))

    def pre_acts_of(
        self, x: Float[Tensor, "batch d_in"], features: Int[Tensor, " n"]
    ) -> Float[Tensor, "batch n"]:
        """The pre-activations of a few features, for scaled inputs."""
        rows, bias = self.W_enc_rows[features], self._encoder_bias()[features]
        return (x - self.b_dec.detach()) @ rows.T + bias

    def _scaled(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        return x if self.input_scale == 1.0 else x * self.input_scale

    def _pre_acts(self, x: Tensor) -> Float[Tensor, "batch d_sae"]:
        return (x - self.b_dec.detach()) @ self.W_enc + self._encoder_bias()

    def _encoder_bias(self) -> Float[Tensor, " d_sae"]:
        """b_enc, by which the constant b_dec in (x - b_dec) @ W_enc gets its gradient."""
        return _CentredBias.apply(self.b_enc, self.b_dec, self.W_enc_rows.detach())

    def _sum_of_rows(self, acts: Tensor | Codes) -> Tensor:
        return acts.decode(self.W_dec) if isinstance(acts, Codes) else acts @ self.W_dec

    # Upkeep during training ----------------------------------------------------------------------

    @torch.no_grad()
    def initialise_from_data_(self, x: Float[Tensor, "batch d_in"], *, normalise: bool) -> None:
        """Set the scale of the input from its mean norm, `b_dec` to its mean, the encoder's scale.

        The convention is SAELens' `expected_average_only_in`: E|x| becomes sqrt(d_in). Where the
        architecture says how many features are active at first, the bias sees to that. An untied
        encoder is scaled so that the random features it starts with, many of which fire at once,
        rebuild x with the least error that a factor can give. Of a dictionary that was trained, all
        but `b_dec` stays as it is.
        """
        x = x.to(self.device, torch.float32)
        if normalise:
            self.input_scale = math.sqrt(self.d_in) / x.norm(dim=1).mean().item()
        if not self.is_fresh:  # what is measured in the units of the input is folded
            for offset in self.offsets():
                offset.mul_(self.input_scale)
        self.b_dec.copy_(x.mean(dim=0) * self.input_scale)
        if self.is_fresh and self.cfg.initial_density < 0.5:
            n_tokens = max(64, PRE_ACTS_AT_ONCE[x.device.type] // self.d_sae)
            pre_acts = self._pre_acts(self._scaled(x[:n_tokens])).flatten()
            n_active = max(1, int(self.cfg.initial_density * len(pre_acts)))
            self.b_enc.sub_(pre_acts.topk(n_active, sorted=True).values[-1])
        if self.is_fresh and self.untied_W_enc_rows is not None:
            along, square = x.new_zeros(()), x.new_zeros(())
            for part in x.split(max(1, PRE_ACTS_AT_ONCE[x.device.type] // self.d_sae)):
                centred = self._scaled(part) - self.b_dec
                rebuilt = self._sum_of_rows(self.activate(self._pre_acts(self._scaled(part))))
                along += (rebuilt * centred).sum()
                square += rebuilt.square().sum()
            if square > 0:  # else all of x is its mean, or nothing fires
                self.untied_W_enc_rows.mul_(along / square)  # b_enc stays: docs/log.md
        self.is_fresh = False

    @torch.no_grad()
    def constrain_(self) -> None:
        """Bring every decoder row back to unit norm. Call it after the optimiser's step."""
        for rows in _blocks(self.W_dec):
            rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(1e-8))

    @torch.no_grad()
    def project_decoder_gradient_(self) -> None:
        """Remove what the gradient would change of the norms of the decoder rows."""
        if self.W_dec.grad is not None:
            for rows, grad in zip(_blocks(self.W_dec), _blocks(self.W_dec.grad), strict=True):
                along = torch.linalg.vecdot(grad, rows)
                grad.addcmul_(along[:, None], rows, value=-1.0)

    @torch.no_grad()
    def fold_input_scale_(self) -> None:
        """Move `input_scale` into the biases; what the dictionary computes does not change.

        relu, top-k and a threshold commute with a positive factor, so the weights stay as they are:
        rows of unit norm remain rows of unit norm, and tied weights remain tied.
        """
        for offset in self.offsets():
            offset.div_(self.input_scale)
        self.input_scale = 1.0

    def offsets(self) -> list[Tensor]:
        """The parameters and buffers that are measured in the units of the input."""
        return [self.b_enc, self.b_dec]

    @torch.no_grad()
    def reset_features_(self, features: Int[Tensor, " n"]) -> None:
        """Give features that are resampled biases that let them fire."""
        self.b_enc[features] = 0.0

    @torch.no_grad()
    def observe_(self, out: TrainingPass, is_good: Tensor | bool = True) -> None:
        """Take note of a training step that is good, for what is estimated, not trained."""

    # To go on with a training elsewhere ----------------------------------------------------------

    def training_state(self) -> dict[str, Any]:
        """Weights and all else that training has made of the dictionary, in its present units."""
        scale = {"input_scale": self.input_scale, "is_fresh": self.is_fresh}
        return {"weights": self.state_dict(), **scale}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Be in the middle of a training, exactly as a dictionary with the same config was."""
        self.load_state_dict(state["weights"])
        self.input_scale, self.is_fresh = state["input_scale"], state["is_fresh"]

    STORED_NAMES: ClassVar[Mapping[str, str]] = {"untied_W_enc_rows": "W_enc"}
    """How saved files call parameters and buffers, where not by their own name."""


def _refuse_more_than_memory(d_sae: int, d_in: int) -> None:
    n_bytes, memory = 4 * d_sae * d_in, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if n_bytes > memory:
        raise InputError(
            f"d_sae {d_sae} is too much: a matrix of {d_sae:,} features of width {d_in:,} takes "
            f"{n_bytes / 1e9:,.0f} GB, and this machine has {memory / 1e9:,.0f} GB: give fewer"
        )


def _blocks(rows: Tensor) -> tuple[Tensor, ...]:
    """Views that stay in a processor's cache from one operation to the next; a GPU takes all."""
    return rows.split(ROWS_IN_CACHE) if rows.device.type == "cpu" else (rows,)


class _CentredBias(torch.autograd.Function):
    """The bias of a product of centred inputs, answerable for what they were centred by.

    Through the product itself, b_dec would get its gradient by way of one for x, which nobody needs
    and which costs as much as the encoder; a vector times the weights is the same.
    """

    @staticmethod
    def forward(ctx: Any, b_enc: Tensor, b_dec: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return b_enc.view_as(b_enc)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        (rows,) = ctx.saved_tensors
        return grad, -(grad @ rows), None
