"""A dictionary that somebody else trained: every way of encoding that published files know.

    z = the input, normalised where the file asks for it
    h = (z - b_dec) W_enc + b_enc            (b_dec only where `subtracts_b_dec`)
    acts = activation(h)
    x_hat = acts W_dec + b_dec, with the normalisation undone, and x W_skip added where there is one

Files differ in the rest: what follows from the weights alone is folded into them when they are
read, and what depends on the token (layer norm, say) stays explicit here. These dictionaries are
for use, not for training; docs/interop.md has the layouts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from activation_cache.common.errors import InputError
from sae.base import SAE, SAEConfig
from sae.codes import Codes
from sae.interop.matching_pursuit import matching_pursuit
from sae.provenance import Provenance

Activation = Literal[
    "relu",
    "tanh_relu",
    "jumprelu",
    "topk",
    "abs_topk",
    "groupmax",
    "gated",
    "matching_pursuit",
]
"""How features come from pre-activations h [batch, d_sae].

relu        max(h, 0)
tanh_relu   tanh(max(h, 0))
jumprelu    max(h, 0) where h > threshold
topk        the k largest h of a token, then max(h, 0) (or h itself, where `keeps_negative`)
abs_topk    the k largest |h| of a token, with their signs
groupmax    the largest max(h, 0) of each of k groups of neighbouring features
gated       max(h exp(r_mag) + b_mag, 0) where h + b_enc > 0, with h before any bias
matching_pursuit   found in k rounds at most in z - b_dec, by decoder rows alone (a file of its own)
"""

Normalization = Literal["none", "layer_norm", "constant_norm"]
"""What is done to each token before encoding, and undone after decoding.

layer_norm      minus its mean, over its unbiased standard deviation + 1e-5; undone without the 1e-5
constant_norm   times sqrt(d_in) over its norm
"""

VECTORS: Mapping[str, tuple[Activation, ...]] = {
    "threshold": ("jumprelu",),
    "r_mag": ("gated",),
    "b_mag": ("gated",),
}
"""What an activation needs beside the four weights, each [d_sae]."""


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig(SAEConfig):
    """How a dictionary of somebody else encodes and decodes."""

    architecture: ClassVar[str] = "pretrained"

    activation: Activation
    k: int | None = None
    """Features of a token, or groups of features; rounds of matching pursuit, at most."""
    keeps_negative: bool = False
    """Whether the k largest pre-activations of a token count even where they are negative."""
    selects_by_decoder_norm: bool = False
    """Whether features compete for the k places by h times the norm of their decoder row."""
    subtracts_b_dec: bool = True
    reverses_bias: bool = False
    """Whether decoding takes b_enc back out of the active features."""
    normalization: Normalization = "none"
    residual_threshold: float = 0.0
    """The length of what matching pursuit has left over at which it stops; 0 for none."""
    stops_at_same_support: bool = False
    """Whether matching pursuit stops at a round that finds no new feature."""

    def __post_init__(self) -> None:
        super().__post_init__()
        chooses = self.activation in ("topk", "abs_topk", "groupmax")
        if chooses and not 1 <= (self.k or 0) <= self.d_sae:
            raise InputError(f"k must be in 1..d_sae ({self.d_sae}), got {self.k}")
        if self.activation == "groupmax" and self.d_sae % (self.k or 1):
            raise InputError(f"{self.d_sae} features cannot be split into {self.k} equal groups")
        if self.activation == "matching_pursuit" and (not self.tied or (self.k or 0) < 1):
            raise InputError("matching pursuit is tied and takes k rounds, at least 1")

    def build(self, d_in: int, *, seed: int = 0) -> "PretrainedSAE":
        raise InputError("a pretrained dictionary is loaded, not built: give an architecture")


@dataclass(frozen=True)
class Moments:
    """What normalising has taken from each token, and decoding gives back."""

    shift: Float[Tensor, "*tokens 1"]
    scale: Float[Tensor, "*tokens 1"]


class PretrainedSAE(SAE[PretrainedConfig]):
    """A dictionary for inference. `decode` of one that normalises its input needs `moments(x)`.

    Tensors: `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_out]`, `b_enc [d_sae]`, `b_dec [d_out]`; by
    activation those of `VECTORS`; `W_skip [d_in, d_out]` of a transcoder with a skip connection. A
    tied dictionary is given without `W_enc`. Raises `InputError` where they do not fit together.
    """

    threshold: Tensor
    r_mag: Tensor
    b_mag: Tensor
    W_skip: Tensor | None

    def __init__(
        self,
        cfg: PretrainedConfig,
        tensors: Mapping[str, Tensor],
        provenance: Provenance | None = None,
    ) -> None:
        nn.Module.__init__(self)  # SAE's own makes random weights, which may be large
        _check_shapes(cfg, tensors)
        self.cfg = cfg
        self.d_in = tensors["W_dec" if cfg.tied else "W_enc"].shape[1 if cfg.tied else 0]
        self.provenance = provenance or Provenance()
        weights = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
        W_enc = weights.pop("W_enc", None)
        self.untied_W_enc_rows = None if W_enc is None else _parameter(W_enc.T)
        self.gain = None
        for name, tensor in weights.items():
            setattr(self, name, _parameter(tensor))
        if "W_skip" not in weights:
            self.W_skip = None

    @property
    def d_out(self) -> int:
        """Width of what is reconstructed: `d_in`, but for a transcoder."""
        return self.W_dec.shape[1]

    # Normalisation -------------------------------------------------------------------------------

    def moments(self, x: Float[Tensor, "*tokens {self.d_in}"]) -> Moments | None:
        """What `decode` needs to know of each token; None where nothing is normalised."""
        x = x.to(self.dtype)
        if self.cfg.normalization == "layer_norm":
            return Moments(x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True))
        if self.cfg.normalization == "constant_norm":
            norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return Moments(torch.zeros_like(norm), norm / self.d_in**0.5)
        return None

    def _normalised(self, x: Tensor) -> Tensor:
        x, moments = x.to(self.dtype), self.moments(x)
        if moments is None:
            return x
        guard = 1e-5 if self.cfg.normalization == "layer_norm" else 0.0
        return (x - moments.shift) / (moments.scale + guard)

    # Encoding and decoding -----------------------------------------------------------------------

    def pre_acts(self, x: Tensor) -> Tensor:
        x = self._normalised(x)
        centred = x - self.b_dec if self.cfg.subtracts_b_dec else x
        if self.cfg.activation == "matching_pursuit":
            return centred  # its pre-activations are another in each round
        pre_acts = centred @ self.W_enc
        return pre_acts if self.cfg.activation == "gated" else pre_acts + self.b_enc

    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Tensor | Codes:
        match self.cfg.activation:
            case "relu":
                return pre_acts.relu()
            case "tanh_relu":
                return pre_acts.relu().tanh()
            case "jumprelu":
                return pre_acts.relu() * (pre_acts > self.threshold)
            case "gated":
                magnitude = (pre_acts * self.r_mag.exp() + self.b_mag).relu()
                return magnitude * (pre_acts + self.b_enc > 0)
            case "groupmax":
                groups = pre_acts.relu().unflatten(1, (self.cfg.k or 1, -1))
                values, places = groups.max(dim=2)
                first = torch.arange(groups.shape[1], device=places.device) * groups.shape[2]
                return Codes(first + places, values, self.d_sae)
            case "topk" | "abs_topk":
                return self._largest(pre_acts)
            case "matching_pursuit":
                return matching_pursuit(
                    pre_acts,
                    self.W_dec,
                    n_rounds=self.cfg.k or 0,
                    residual_threshold=self.cfg.residual_threshold,
                    stops_at_same_support=self.cfg.stops_at_same_support,
                )

    def _largest(self, pre_acts: Tensor) -> Codes:
        ranks = pre_acts
        if self.cfg.selects_by_decoder_norm:
            ranks = ranks * torch.linalg.vector_norm(self.W_dec, dim=1)
        if self.cfg.activation == "abs_topk":
            ranks = ranks.abs()
        indices = ranks.topk(self.cfg.k or 0, dim=1, sorted=False).indices
        values = pre_acts.gather(1, indices)
        if self.cfg.activation == "topk" and not self.cfg.keeps_negative:
            values = values.relu()
        return Codes(indices, values, self.d_sae)

    def decode(
        self, acts: Tensor | Codes, moments: Moments | None = None
    ) -> Float[Tensor, "*tokens {self.d_out}"]:
        """The reconstruction. `ValueError` where it needs `moments(x)` and does not get them."""
        if self.cfg.normalization != "none" and moments is None:
            raise ValueError(
                f"this dictionary undoes the {self.cfg.normalization} of its input: give decode "
                f"moments(x), or call the dictionary on x"
            )
        if self.cfg.reverses_bias:
            acts = acts.dense() if isinstance(acts, Codes) else acts
            acts = acts - self.b_enc * (acts != 0)
        x_hat = self.sum_of_rows(acts) + self.b_dec
        return x_hat if moments is None else x_hat * moments.scale + moments.shift

    def decode_for(
        self, x: Float[Tensor, "*tokens d_in"], acts: Tensor | Codes
    ) -> Float[Tensor, "*tokens {self.d_out}"]:
        x_hat = self.decode(acts, self.moments(x))
        return x_hat if self.W_skip is None else x_hat + x.to(self.dtype) @ self.W_skip

    def share_of(
        self,
        features: list[int] | slice,
        acts: Float[Tensor, "*tokens n"],
        x: Float[Tensor, "*tokens d_in"],
    ) -> Float[Tensor, "*tokens {self.d_out}"]:
        if self.cfg.reverses_bias:
            acts = acts - self.b_enc[features] * (acts != 0)
        share, moments = super().share_of(features, acts, x), self.moments(x)
        return share if moments is None else share * moments.scale

    def forward(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens {self.d_out}"]:
        return self.reconstruct(x)[0]


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.contiguous(), requires_grad=False)


def _check_shapes(cfg: PretrainedConfig, tensors: Mapping[str, Tensor]) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    d_sae, d_out = cfg.d_sae, found["W_dec"][-1]
    d_in = d_out if cfg.tied else found["W_enc"][0]
    expected = {"W_dec": (d_sae, d_out), "b_enc": (d_sae,), "b_dec": (d_out,)}
    expected |= {name: (d_sae,) for name, of in VECTORS.items() if cfg.activation in of}
    if not cfg.tied:
        expected["W_enc"] = (d_in, d_sae)
    if "W_skip" in tensors:
        expected["W_skip"] = (d_in, d_out)
    if found != expected or 0 in (d_in, d_out):
        raise InputError(f"the weights do not fit together: {found}, expected {expected}")
    if cfg.subtracts_b_dec and d_in != d_out:
        raise InputError(
            f"b_dec of width {d_out} cannot be subtracted from inputs of width {d_in}: a "
            f"transcoder has subtracts_b_dec false"
        )
