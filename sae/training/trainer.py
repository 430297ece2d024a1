"""One dictionary in training: its optimiser, its firing history, and what one step does."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from sae.codes import fire_counts
from sae.selection import Shadow
from sae.trainable import PenalisedConfig, TrainableSAE, TrainingPass
from sae.training.config import TrainConfig
from sae.training.dead import FiringTracker
from sae.training.forward import forward
from sae.training.health import Health, not_finite
from sae.training.inputs import clip_of, norm_scale, refuse_without_scale, usual_norm
from sae.training.losses import auxk_loss, mse_loss, variance
from sae.training.optimizer import older_optimizer, optimizer_of
from sae.training.record import StepRecord
from sae.training.running_mean import RunningMean
from sae.training.schedules import decay, warm_up
from sae.training.sparsity import controller_of
from sae.training.start import start_
from sae.training.weights import (
    fold_scale_,
    normalise_decoder_,
    project_decoder_gradient_,
    set_trained_,
    unfold_scale_,
)

Reduce = Callable[[Sequence[Tensor]], None]
"""Averages tensors over the processes that share the batches of a dictionary, in place."""

STATISTIC = {"sum": "threshold_sum", "weight": "threshold_weight"}
"""How checkpoints call the parts of the running mean: the first one was of thresholds."""
SHARE = "threshold_share"


class Trainer:
    """One dictionary with all that its training needs: optimiser, scale, firing history.

    While it is trained the dictionary is in the units of training, in which inputs have a mean norm
    of about sqrt(d_in); `dictionary()` is the finished one. A step is forward, backward, reduce,
    update, record: methods that can be called one by one.
    """

    COUNT_STEPS = 20
    """Counting features makes the host wait for the device, so it is not done every step."""
    COUNTERS = ("is_sparse", "has_failed", "n_steps", "n_tokens")
    SPARSE_BELOW, DENSE_ABOVE = 0.02, 0.04
    """Shares of the features active on a token at which the form of the step changes."""

    def __init__(
        self,
        sae: TrainableSAE,
        cfg: TrainConfig,
        dictionary: int = 0,
        reduce: Reduce = lambda tensors: None,
    ) -> None:
        """`reduce` is called between backward and update with the gradients and the loss."""
        cfg.refuse_unfit(sae.cfg)
        self.sae = sae
        self.cfg = cfg
        self.position = dictionary
        self.reduce = reduce
        self.scale = 1.0
        """What inputs are multiplied by."""
        self.largest_norm: float | None = None
        """Inputs of a larger norm are scaled down to it, before they are multiplied."""
        self.lr = cfg.learning_rate(sae.d_sae)
        sae.unit = cfg.unit(sae.d_in)
        set_trained_(sae, cfg.frozen, False)
        self.optimizer: Optimizer = optimizer_of(sae, self.lr, normalise=cfg.normalise)
        self.controller = controller_of(sae)
        """Where an L0 is given, not a penalty."""
        self.tracker = FiringTracker(sae.d_sae, cfg.dead_window_tokens, sae.device)
        self.statistic = RunningMean(sae.device)
        self.health = Health(sae.device)
        self.dead = torch.zeros(0, dtype=torch.int64, device=sae.device)
        self.may_be_sparse = True
        """Whether steps may be sparse at all: the dense ones are the reference."""
        self.is_sparse = sae.cfg.is_sparse_from_the_start
        self.has_failed = False
        self.n_steps = 0
        self.n_tokens = 0
        self._shadow = Shadow()

    @property
    def is_done(self) -> bool:
        return self.has_failed or self.n_tokens >= self.cfg.n_tokens

    def initialise(self, sample: Float[Tensor, "n d_in"]) -> None:
        """Fit the scale and the biases to activations. `InputError` where they are not finite."""
        refuse_without_scale(sample, normalise=self.cfg.normalise)
        sample = sample.to(self.sae.device, torch.float32)
        if self.cfg.clip_input_norm is not None:
            self.largest_norm = self.cfg.clip_input_norm * usual_norm(sample) or None
        sample = sample * self._factors(sample)
        self.scale = norm_scale(sample) if self.cfg.normalise else 1.0
        if self.sae.is_fresh:
            self._choose_form(start_(self.sae, sample, self.scale) / self.sae.d_sae)
        else:
            unfold_scale_(self.sae, self.scale)

    def dictionary(self) -> TrainableSAE:
        """A copy of the dictionary as it is now, for inputs as they are."""
        finished = copy.deepcopy(self.sae)
        self._finish(finished)
        return finished

    def finish(self) -> None:
        """Make the dictionary itself the finished one."""
        self._finish(self.sae)
        self.scale = 1.0

    def _finish(self, sae: TrainableSAE) -> None:
        fold_scale_(sae, self.scale)
        set_trained_(sae, self.cfg.frozen, True)
        found = {name: coefficient.item() for name, coefficient in self.searched.items()}
        sae.cfg = replace(sae.cfg, **found)

    @property
    def searched(self) -> dict[str, Float[Tensor, ""]]:
        """The penalty coefficient as it is now, by the name of its setting, if it is searched."""
        cfg = self.sae.cfg
        if self.controller is None or not isinstance(cfg, PenalisedConfig):
            return {}
        return {f"{cfg.penalty}_coeff": cfg.penalty_coeff * self.controller.factor}

    def step(
        self, x: Float[Tensor, "batch d_in"], target: Float[Tensor, "batch d_in"] | None = None
    ) -> StepRecord:
        """One optimiser step on a batch; `target` is what is to be reconstructed, if not x.

        A batch whose loss or gradient is not finite changes nothing. Where `cfg.on_nan` is stop, or
        a hundred had to be skipped, `NotFinite` is raised: on a GPU a few steps late, with the next
        count of features.
        """
        out = self.forward(x, target)
        loss, parts = self.losses(out)
        self.backward(loss)
        self.reduce([*self.gradients, loss.detach()])
        lr, grad_norm = self.update(loss, len(x))
        record = self.record_step(out, loss, parts, lr, grad_norm)
        if self._may_wait and self.health.has_new_skips(self.cfg.on_nan):
            where = (
                f"step {record.step} ({record.n_tokens:,} tokens) of the dictionary on "
                f"{self.sae.hook_name or 'its activations'}"
            )
            raise not_finite(x, where, record.loss, grad_norm, self.cfg.on_nan)
        return record

    @property
    def progress(self) -> float:
        """The share of the tokens that have been seen."""
        return min(self.n_tokens / self.cfg.n_tokens, 1.0)

    def forward(self, x: Tensor, target: Tensor | None = None) -> TrainingPass:
        is_sparse = self.is_sparse and self.may_be_sparse
        x = x.to(self.sae.dtype)
        factors = self._factors(x) * self.scale
        return forward(
            self.sae,
            x * factors,
            None if target is None else target.to(self.sae.dtype) * factors,
            sparse=is_sparse,
            products=self.cfg.products,
            shadow=self._shadow,
        )

    def _factors(self, x: Tensor) -> float | Float[Tensor, "batch 1"]:
        """What inputs are multiplied by before the scale."""
        return 1.0 if self.largest_norm is None else clip_of(x, self.largest_norm)

    def losses(self, out: TrainingPass) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised, and its parts."""
        cfg, sae = self.cfg, self.sae
        parts = {"mse": mse_loss(out.x_hat, out.target, cfg.loss_reduction), **out.penalties}
        if cfg.loss_reduction == "mean_d":
            squares = [name for name in out.penalties if sae.cfg.powers.get(name, 2) == 2]
            parts |= {name: parts[name] / out.target.shape[1] for name in squares}
        if len(self.dead) and sae.cfg.auxk_coeff:
            parts["auxk"] = auxk_loss(sae, out, self.dead, cfg.loss_reduction, cfg.products)
        loss = parts["mse"]
        for name, coefficient in sae.cfg.coefficients.items():
            if name in parts:
                loss = loss + self._weight(name) * coefficient * parts[name]
        return loss, parts

    def _weight(self, name: str) -> float | Tensor:
        """What the coefficient of a penalty is multiplied by."""
        cfg, its = self.cfg, self.sae.cfg
        factor = cfg.penalty_factor(its.powers.get(name, 2), self.sae.d_in)
        if not isinstance(its, PenalisedConfig) or name != its.penalty:
            return factor
        if self.controller is not None:
            return factor * self.controller.factor
        return factor * warm_up(self.progress, cfg.penalty_warmup_fraction)

    def backward(self, loss: Float[Tensor, ""]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    @property
    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.sae.parameters() if p.grad is not None]

    def update(self, loss: Float[Tensor, ""], batch_tokens: int) -> tuple[float, Tensor]:
        """One step of the optimiser: the learning rate it had, and the norm of the gradient.

        Of weights that no longer fit a cache, every pass counts: clipping is left out where it
        would multiply by 1.
        """
        cfg, sae = self.cfg, self.sae
        project_decoder_gradient_(sae)
        grad_norm = get_total_norm(self.gradients)
        is_bad = ~torch.isfinite(loss.detach() + grad_norm)
        if cfg.clip_grad_norm is not None:
            clip_grads_with_norm_(sae.parameters(), cfg.clip_grad_norm, grad_norm)
        risen = warm_up((self.n_tokens + batch_tokens) / cfg.n_tokens, cfg.lr_warmup_fraction)
        lr = self.lr * min(risen, decay(self.progress, cfg.lr_decay_fraction))
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        on_cpu = grad_norm.device.type == "cpu"
        if not on_cpu:  # nothing waits: where this is 1, the step changes nothing
            self.optimizer.found_inf = is_bad.to(torch.float32)  # type: ignore[attr-defined]
        if not (on_cpu and is_bad):
            self.optimizer.step()
            if cfg.frozen != "decoder":  # whose rows have unit norm but for rounding
                normalise_decoder_(sae)  # after the step: a saved dictionary has unit rows
            sae.constrain_()
        return lr, grad_norm

    @property
    def _may_wait(self) -> bool:
        """Whether asking for a number is cheap, or is due at this step anyway."""
        return self.sae.device.type == "cpu" or self.n_steps % self.COUNT_STEPS == 0

    @torch.no_grad()
    def record_step(
        self, out: TrainingPass, loss: Tensor, parts: dict[str, Tensor], lr: float, norm: Tensor
    ) -> StepRecord:
        """Everything after the optimiser: counters, dead features, and the record of the step."""
        batch_tokens = len(out.x)
        fires = fire_counts(out.acts)
        l0 = fires.sum() / batch_tokens
        is_good = torch.isfinite(loss.detach() + norm)
        self.health.see(loss.detach(), is_good)
        self.tracker.update(fires * is_good, batch_tokens * is_good)
        statistic = self.sae.statistic(out.acts)
        if statistic is not None:
            self.statistic.update(statistic, is_good, self.n_steps)
            self.sae.set_statistic_(self.statistic.value)
        if self.controller is not None:
            reached = warm_up(self.progress, self.cfg.penalty_warmup_fraction)
            self.controller.update(l0, reached, is_good)
        self.n_steps += 1
        self.n_tokens += batch_tokens
        if self.n_steps % self.COUNT_STEPS == 0:
            self.dead = self.tracker.dead.nonzero().flatten()
            if is_good:
                self._choose_form(l0.item() / self.sae.d_sae)
        return StepRecord(
            dictionary=self.position,
            step=self.n_steps - 1,
            n_tokens=self.n_tokens,
            lr=lr,
            loss=loss.detach(),
            parts={name: part.detach() for name, part in parts.items()},
            l0=l0,
            fvu=parts["mse"].detach()
            / variance(out.target, self.sae.b_dec, self.cfg.loss_reduction),
            n_dead=len(self.dead),
            grad_norm=norm,
            spikes=self.health.n_spikes.clone(),
            skipped=self.health.n_skipped.clone(),
            searched=self.searched,
        )

    # To resume elsewhere -------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on, but for the settings and the batches."""
        return {
            "sae": {
                "weights": self.sae.state_dict(),
                "input_scale": self.scale,
                "largest_norm": self.largest_norm,
                "is_fresh": self.sae.is_fresh,
                **self._statistic_state(),
            },
            "optimizer": self.optimizer.state_dict(),
            "tokens_since_fired": self.tracker.tokens_since_fired,
            "dead": self.dead,
            "health": self.health.state_dict(),
            **({} if self.controller is None else {"controller": self.controller.state_dict()}),
            **{name: getattr(self, name) for name in self.COUNTERS},
        }

    def _statistic_state(self) -> dict[str, Any]:
        """Nothing for an architecture that has none."""
        if not self.statistic.weight:
            return {}
        parts = {key: getattr(self.statistic, name) for name, key in STATISTIC.items()}
        return {**parts, SHARE: self.statistic.share}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        weights = state["sae"]["weights"]
        if "gain" not in weights and self.sae.gain is not None:  # of an older version
            self.sae.gain = None
        self.sae.load_state_dict(weights)
        self.scale, self.sae.is_fresh = state["sae"]["input_scale"], state["sae"]["is_fresh"]
        self.largest_norm = state["sae"].get("largest_norm")  # of an older version: None
        for name, key in STATISTIC.items():
            if key in state["sae"]:
                setattr(self.statistic, name, state["sae"][key].to(self.sae.device, copy=True))
                self.statistic.share = state["sae"].get(SHARE)
        optimizer = copy.deepcopy(state["optimizer"])
        if (older := older_optimizer(self.sae, self.lr, optimizer)) is not None:
            self.optimizer = older
        else:
            self.optimizer.load_state_dict(optimizer)
        self.tracker.tokens_since_fired.copy_(state["tokens_since_fired"])
        self.dead = state["dead"].to(self.sae.device)
        self.health.load_state_dict(state["health"])
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])
        for name in self.COUNTERS:
            setattr(self, name, state[name])

    def _choose_form(self, density: float) -> None:
        """Sparse once few features are active, dense again only if they are many: no flapping."""
        if not self.sae.cfg.is_sparse_from_the_start:
            self.is_sparse = density < (self.DENSE_ABOVE if self.is_sparse else self.SPARSE_BELOW)
