"""Toy models of superposition (Elhage et al. 2022): many at once, which never see each other.

    kind           hidden layer      output                  what it has to say
    linear         h = W x           W' h + b                x
    relu_output    h = W x           relu(W' h + b)          x
    relu_hidden    h = relu(W x)     relu(W' h + b)          x
    absolute       h = relu(W x)     relu(W_out h + b)       |x|

The loss of one model is the mean over tokens and features of importance * (output - target)^2.
"""
# Shapes: S = settings, R = restarts, n = features, m = hidden dimensions, B = tokens.
# X = 1 where all restarts of a setting see the same tokens, else R.

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from activation_cache.common.errors import refuse_below
from activation_cache.common.schema import convert

Kind = Literal["linear", "relu_output", "relu_hidden", "absolute"]

VALUES_AT_ONCE = {"cpu": 2**17, "cuda": 2**26}
"""Outputs that are computed together: those of a CPU stay in its cache."""
TOKENS_AT_ONCE = 8192
"""In the evaluation of losses."""


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """What one toy model is."""

    n_features: int
    n_hidden: int
    kind: Kind = "relu_output"

    def __post_init__(self) -> None:
        convert(Kind, self.kind, "kind")
        refuse_below(1, n_features=self.n_features, n_hidden=self.n_hidden)

    @property
    def is_tied(self) -> bool:
        return self.kind != "absolute"

    @property
    def relu_hidden(self) -> bool:
        return self.kind in ("relu_hidden", "absolute")

    @property
    def relu_output(self) -> bool:
        return self.kind != "linear"

    def target(self, x: Tensor) -> Tensor:
        return x.abs() if self.kind == "absolute" else x


class ToyModels(nn.Module):
    """`settings` times `restarts` toy models of one kind, computed in batched products.

    `W` [S, R, m, n] is the paper's: a feature's direction is a column. `W_out` [S, R, n, m] is its
    transpose but for untied kinds, `b` [S, R, n] the bias of the output. The restarts of a setting
    differ in their initial weights, which are normal with variance 2 / (n + m), and see the same
    tokens. Untied models start with neurons in pairs of opposite weights and W_out = |W|': from
    other weights, outputs are dead behind their ReLU, or see one sign of their feature for good.
    """

    def __init__(
        self, cfg: ToyConfig, *, settings: int = 1, restarts: int = 1, seed: int = 0
    ) -> None:
        super().__init__()
        self.cfg = cfg
        generator = torch.Generator().manual_seed(seed)
        n, m = cfg.n_features, cfg.n_hidden
        W = torch.randn(settings, restarts, m, n, generator=generator) * math.sqrt(2 / (n + m))
        if not cfg.is_tied:
            W[:, :, m // 2 : 2 * (m // 2)] = -W[:, :, : m // 2]
        self.W = nn.Parameter(W)
        self.untied_W_out = None if cfg.is_tied else nn.Parameter(W.mT.abs().contiguous())
        self.b = nn.Parameter(torch.zeros(settings, restarts, n))

    @property
    def W_out(self) -> Float[Tensor, "S R n m"]:
        return self.W.mT if self.untied_W_out is None else self.untied_W_out

    @property
    def settings(self) -> int:
        return self.W.shape[0]

    @property
    def restarts(self) -> int:
        return self.W.shape[1]

    def hidden(self, x: Float[Tensor, "S X n B"]) -> Float[Tensor, "S R m B"]:
        return _hidden(x, self.W, self.cfg)

    def output(self, h: Float[Tensor, "S R m B"]) -> Float[Tensor, "S R n B"]:
        """What the models say, given their hidden layer: their own or one put in its place."""
        return _output(h, self.W_out, self.b, self.cfg)

    def forward(self, x: Float[Tensor, "S X n B"]) -> Float[Tensor, "S R n B"]:
        return self.output(self.hidden(x))

    @torch.no_grad()
    def losses(
        self,
        x: Float[Tensor, "S X n B"],
        importance: Float[Tensor, "*S n"],
        weights: Float[Tensor, "S B"] | None = None,
        target: Float[Tensor, "S Y n B"] | None = None,
    ) -> Float[Tensor, "S R"]:
        """The loss of every model. `weights` of the tokens sum to 1; by default, all are equal. The
        target is what the kind of model has to say of `x`, unless it is given."""
        target = self.cfg.target(x) if target is None else target
        if weights is None:
            weights = x.new_full((len(x), x.shape[3]), 1 / x.shape[3])
        losses = torch.zeros(self.W.shape[:2], dtype=torch.float64, device=x.device)
        for tokens in torch.arange(x.shape[3], device=x.device).split(TOKENS_AT_ONCE):
            b = slice(int(tokens[0]), int(tokens[-1]) + 1)
            for s, r in self._parts(len(tokens)):
                seen, wanted, W, W_out, bias = _at((x, target, self.W, self.W_out, self.b), s, r)
                out = _output(_hidden(seen[..., b], W, self.cfg), W_out, bias, self.cfg)
                error = (out - wanted[..., b]).double().square() * _column(importance, s)
                losses[s, r] += (error.mean(dim=2) * weights[s, None, b]).sum(dim=2)
        return losses.float()

    @torch.no_grad()
    def set_gradients_(
        self,
        x: Float[Tensor, "S X n B"],
        importance: Float[Tensor, "*S n"],
        *,
        target: Float[Tensor, "S 1 n B"] | None = None,
        l1_coeffs: Float[Tensor, " S"] | None = None,
    ) -> None:
        """Set every parameter's gradient of the sum of all losses on these tokens.

        By hand, which takes half the time of autograd. The target is what the kind of model has to
        say of `x`, unless it is given. `l1_coeffs` weigh the mean over tokens of sum(|h|).
        """
        target = self.cfg.target(x) if target is None else target
        for parameter in self.parameters():
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
        for s, r in self._parts(x.shape[3]):
            l1 = None if l1_coeffs is None else l1_coeffs[s, None, None, None] / x.shape[3]
            self._set_gradients_of_part(s, r, x, target, _column(importance, s), l1)

    def _set_gradients_of_part(
        self, s: slice, r: slice, x: Tensor, target: Tensor, importance: Tensor, l1: Tensor | None
    ) -> None:
        x, target, W, W_out, b = _at((x, target, self.W, self.W_out, self.b), s, r)
        h = _hidden(x, W, self.cfg)
        out = _output(h, W_out, b, self.cfg)
        grad = self._output_gradients(out, target, importance * (2.0 / target[0, 0].numel()))
        grad_h = W_out.mT @ grad
        if l1 is not None:
            grad_h.add_(h.sign() * l1)
        if self.cfg.relu_hidden:
            grad_h.mul_(h.sign())
        _grad(self.b)[s, r] = grad.sum(dim=3)
        of_W = _times_tokens(grad_h, x)
        if self.untied_W_out is None:
            of_W.add_(h @ grad.mT)
        else:
            _grad(self.untied_W_out)[s, r] = grad @ h.mT
        _grad(self.W)[s, r] = of_W

    @torch.no_grad()
    def input_gradients(
        self, x: Float[Tensor, "S X n B"], importance: Float[Tensor, "*S n"]
    ) -> Float[Tensor, "S R n B"]:
        """How each token's weighted squared error changes with what the model sees."""
        h = self.hidden(x)
        out = _output(h, self.W_out, self.b, self.cfg)
        weight = 2.0 * _column(importance, slice(None))
        grad_h = self.W_out.mT @ self._output_gradients(out, self.cfg.target(x), weight)
        if self.cfg.relu_hidden:
            grad_h.mul_(h.sign())
        return self.W.mT @ grad_h

    def _output_gradients(self, out: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Of the weighted squared errors, before the ReLU."""
        grad = (out - target).mul_(weight)
        return grad.mul_(out.sign_()) if self.cfg.relu_output else grad

    def _parts(self, n_tokens: int) -> Iterator[tuple[slice, slice]]:
        """Settings and restarts that are computed together."""
        models = max(1, VALUES_AT_ONCE[self.W.device.type] // (n_tokens * self.cfg.n_features))
        many_settings = max(1, models // self.restarts)
        for s in range(0, self.settings, many_settings):
            for r in range(0, self.restarts, models):
                yield slice(s, s + many_settings), slice(r, r + models)


def _at(tensors: tuple[Tensor, ...], s: slice, r: slice) -> tuple[Tensor, ...]:
    """Some settings and restarts of each; what all restarts share stays shared."""
    return tuple(t[s] if t.shape[1] == 1 else t[s, r] for t in tensors)


def _column(importance: Float[Tensor, "*S n"], s: slice) -> Float[Tensor, "*part 1 n 1"]:
    """The importances of some settings, in the shape that outputs are multiplied with."""
    of_part = importance[s] if importance.ndim == 2 else importance
    return of_part[..., None, :, None]


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _hidden(x: Tensor, W: Tensor, cfg: ToyConfig) -> Float[Tensor, "S R m B"]:
    """Tokens that all restarts see meet all their weights in one product."""
    shared = x.shape[1] == 1
    h = (W.flatten(1, 2) @ x[:, 0]).view(*W.shape[:3], -1) if shared else W @ x
    return h.relu_() if cfg.relu_hidden else h


def _times_tokens(grad_h: Tensor, x: Tensor) -> Float[Tensor, "S R m n"]:
    if x.shape[1] == 1:
        return (grad_h.flatten(1, 2) @ x[:, 0].mT).view(*grad_h.shape[:3], -1)
    return grad_h @ x.mT


def _output(h: Tensor, W_out: Tensor, b: Tensor, cfg: ToyConfig) -> Float[Tensor, "S R n B"]:
    out = (W_out @ h).add_(b[..., None])
    return out.relu_() if cfg.relu_output else out
