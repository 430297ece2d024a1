"""Fit dictionaries to a stream of activations. A generator: it does not log, print or save."""

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae.base import SAE, TrainingPass
from sae.codes import fire_counts
from sae.errors import InputError
from sae.training.dead import FiringTracker, resample_
from sae.training.losses import LossReduction, auxk_loss, mse_loss
from sae.training.schedules import warm_up, warm_up_and_decay

Batch = Tensor | Mapping[str, Tensor]
"""Activations [batch, d_in], or such tensors by hook name."""


WARMED_UP = ("l1", "l0")
"""Penalties that would kill features before these have learned anything."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How dictionaries are fitted. Fractions are shares of the whole run."""

    n_tokens: int = 500_000
    """Activation vectors to train on; each is seen once unless the stream repeats."""
    lr: float | None = None
    """Peak learning rate of Adam; by default 2e-3, falling with the root of widths over 1536."""
    lr_warmup_fraction: float = 0.02
    lr_decay_fraction: float = 0.3
    penalty_warmup_fraction: float = 0.1
    """The L1 and L0 penalties rise to their full weight over this share."""
    clip_grad_norm: float = math.inf
    """Largest norm of the gradient of all parameters together."""
    loss_reduction: LossReduction = "sum_d"
    """How the squared error is reduced; penalty coefficients belong to one of them."""
    normalise: bool = True
    """Bring the mean norm of the input to sqrt(d_in) for training; folded into the result."""
    product_dtype: Literal["float32", "bfloat16"] = "float32"
    """What the encoder multiplies in; weights, sums and all else stay in float32."""
    dead_after_tokens: int | None = None
    """Tokens without firing that make a feature dead; by default a fiftieth of the run, up to 10M.

    Short runs need short windows: a feature found dead late has no time left to learn."""
    init_tokens: int = 8192
    """Tokens of the stream's head that set the scale and the decoder bias; trained on as well."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_tokens", "init_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip_grad_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be positive, got {value}")

    def learning_rate(self, d_sae: int) -> float:
        if self.lr is not None:
            return self.lr
        return 2e-3 * min(1.0, math.sqrt(1536 / d_sae))

    @property
    def dead_window_tokens(self) -> int:
        if self.dead_after_tokens is not None:
            return self.dead_after_tokens
        return max(1, min(10_000_000, self.n_tokens // 50))


@dataclass(frozen=True)
class StepRecord:
    """What one optimiser step of one dictionary did. Tensors stay on the device until read."""

    dictionary: int
    """Position in the list that is being trained."""
    step: int
    n_tokens: int
    """Tokens seen, this batch included."""
    lr: float
    loss: Float[Tensor, ""]
    """What was minimised: all parts with their weights."""
    parts: dict[str, Float[Tensor, ""]]
    """The unweighted parts by name: mse, and l1, l0 or auxk where the architecture has them."""
    l0: Float[Tensor, ""]
    fvu: Float[Tensor, ""]
    """Of this batch, before the step. A figure to watch; the evaluator's is the one to report."""
    n_dead: int
    """Features that did not fire within the dead window, counted every few steps."""
    grad_norm: Float[Tensor, ""]


class Trainer:
    """One dictionary with its optimiser and its firing history."""

    CHECK_STEPS = 16
    """Counting features makes the host wait for the device, so it is not done every step."""
    SPARSE_BELOW, DENSE_ABOVE = 0.01, 0.02
    """Shares of the features active on a token at which the form of the step changes."""

    def __init__(self, sae: SAE, cfg: TrainConfig) -> None:
        self.sae = sae
        self.cfg = cfg
        self.lr = cfg.learning_rate(sae.d_sae)
        self.optimizer = torch.optim.Adam(sae.parameters(), lr=self.lr, fused=True)
        self.tracker = FiringTracker(sae.d_sae, cfg.dead_window_tokens, sae.device)
        self.generator = torch.Generator().manual_seed(cfg.seed)
        self.dead = torch.zeros(0, dtype=torch.int64, device=sae.device)
        self.n_resampled_at = 0
        self.is_sparse = sae.cfg.is_sparse_from_the_start

    def step(self, x: Tensor, dictionary: int, step: int, n_tokens: int) -> StepRecord:
        """One optimiser step on a batch, `n_tokens` having been seen before it."""
        sae, cfg = self.sae, self.cfg
        progress = min(n_tokens / cfg.n_tokens, 1.0)
        product_dtype = getattr(torch, cfg.product_dtype)
        out = sae.training_pass(x, sparse=self.is_sparse, product_dtype=product_dtype)
        parts = {"mse": mse_loss(out.x_hat, out.x, cfg.loss_reduction), **out.penalties}
        if sae.cfg.revival == "auxk" and len(self.dead):
            parts["auxk"] = auxk_loss(sae, out, self.dead, cfg.loss_reduction)
        penalty_weight = warm_up(progress, cfg.penalty_warmup_fraction)
        loss = parts["mse"]
        for name, coefficient in sae.cfg.coefficients.items():
            if name in parts:
                weight = penalty_weight if name in WARMED_UP else 1.0
                loss = loss + weight * coefficient * parts[name]

        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        sae.project_decoder_gradient_()
        grad_norm = torch.nn.utils.clip_grad_norm_(sae.parameters(), cfg.clip_grad_norm)
        factor = warm_up_and_decay(progress, cfg.lr_warmup_fraction, cfg.lr_decay_fraction)
        self.optimizer.param_groups[0]["lr"] = self.lr * factor
        self.optimizer.step()
        sae.constrain_()  # after the step: a saved dictionary has unit rows

        with torch.no_grad():
            fires = fire_counts(out.acts)
            self.tracker.update(fires, len(x))
            sae.observe_(out)
            l0 = fires.sum() / len(x)
            self._revive(out, step, n_tokens + len(x), l0)
            variance = (out.x - out.x.mean(dim=0)).square().sum()
            return StepRecord(
                dictionary=dictionary,
                step=step,
                n_tokens=n_tokens + len(x),
                lr=self.lr * factor,
                loss=loss.detach(),
                parts={name: part.detach() for name, part in parts.items()},
                l0=l0,
                fvu=(out.x - out.x_hat).square().sum() / variance,
                n_dead=len(self.dead),
                grad_norm=grad_norm,
            )

    def _choose_form(self, density: float) -> None:
        """Sparse once few features are active, dense again only if they are many: no flapping."""
        if not self.sae.cfg.is_sparse_from_the_start:
            self.is_sparse = density < (self.DENSE_ABOVE if self.is_sparse else self.SPARSE_BELOW)

    def _revive(self, out: TrainingPass, step: int, n_tokens: int, l0: Tensor) -> None:
        if step % self.CHECK_STEPS == 0:
            self.dead = self.tracker.dead.nonzero().flatten()
            self._choose_form(l0.item() / self.sae.d_sae)
        # Every tenth of the run, but not at its end: what is resampled needs time to learn.
        due = n_tokens - self.n_resampled_at >= 0.1 * self.cfg.n_tokens
        if self.sae.cfg.revival == "resample" and due and n_tokens < 0.7 * self.cfg.n_tokens:
            self.n_resampled_at = n_tokens
            dead = self.tracker.dead
            if dead.any():
                resample_(self.sae, dead, out, self.optimizer, self.generator)
                self.tracker.tokens_since_fired.masked_fill_(dead, 0)


def train(
    saes: SAE | Sequence[SAE], batches: Iterable[Batch], cfg: TrainConfig
) -> Generator[StepRecord]:
    """Train one dictionary or several on the same stream, yielding a record per step of each.

    `batches` are tensors [batch, d_in], the same for all, or mappings by hook name from which each
    dictionary takes its own. Training stops at `cfg.n_tokens`, or where the stream ends. Raises
    `InputError` for a stream that is empty, of the wrong width, or not finite at its head.
    """
    trainers = [Trainer(sae, cfg) for sae in ([saes] if isinstance(saes, SAE) else saes)]
    stream = iter(batches)
    head = _take(stream, min(cfg.init_tokens, cfg.n_tokens), trainers[0].sae)
    for trainer in trainers:
        sample = torch.cat([_activations(batch, trainer.sae) for batch in head])
        if not torch.isfinite(sample).all():
            raise InputError("the activations hold NaN or Inf: mend the stream before training")
        trainer.sae.initialise_from_data_(sample, normalise=cfg.normalise)
    n_tokens = 0
    try:
        for step, batch in enumerate(chain(head, stream)):
            for dictionary, trainer in enumerate(trainers):
                x = _activations(batch, trainer.sae).to(trainer.sae.device)
                yield trainer.step(x, dictionary, step, n_tokens)
            n_tokens += len(_activations(batch, trainers[0].sae))
            if n_tokens >= cfg.n_tokens:
                break
    finally:
        for trainer in trainers:
            trainer.sae.fold_input_scale_()


def _take(stream: Iterator[Batch], n_tokens: int, sae: SAE) -> list[Batch]:
    head: list[Batch] = []
    taken = 0
    for batch in stream:
        head.append(batch)
        taken += len(_activations(batch, sae))
        if taken >= n_tokens:
            break
    if not taken:
        raise InputError("the stream of activations is empty: there is nothing to train on")
    return head


def _activations(batch: Batch, sae: SAE) -> Float[Tensor, "batch d_in"]:
    """The tensor of a batch that belongs to this dictionary."""
    if isinstance(batch, Mapping):
        if sae.hook_name is None or sae.hook_name not in batch:
            sites = ", ".join(batch)
            raise InputError(
                f"the stream has no site {sae.hook_name!r}, only {sites}: "
                f"set sae.metadata['hook_name'] to one of them"
            )
        batch = batch[sae.hook_name]
    if batch.ndim != 2 or batch.shape[1] != sae.d_in:
        raise InputError(
            f"activations of shape {tuple(batch.shape)} do not fit a dictionary with d_in "
            f"{sae.d_in}: give tensors [batch, {sae.d_in}]"
        )
    return batch
