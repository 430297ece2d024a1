"""Adam with one second moment for each vector, and a learning rate for each parameter."""

import math
from typing import Any

import torch
from torch import Tensor

from sae.trainable import TrainableSAE
from sae.training.weights import blocks

ROW_STEP = 20.0
"""How far a row of the weights moves at most in a step, in learning rates. Rows have unit norm."""
TYPICAL_NORM = 14.0
"""Of the inputs in training that learning rates were chosen for: about sqrt(192)."""

BETAS = 0.9, 0.999
EPSILON = 1e-8
LARGEST = torch.finfo(torch.float32).max


class VectorAdam(torch.optim.Optimizer):
    """Adam whose second moment is one number for each vector of the input space.

    These are the rows of the encoder and the decoder, and b_dec; of other parameters each number
    has one, as in Adam. So a dictionary is trained the same in every basis of its inputs: turned
    activations give turned features, and dimensions without variance change nothing. Adam divides
    each coordinate by the size of its own gradients, and so lets noise in the many coordinates that
    hardly vary, which the neurons of an MLP are, move a feature as far as the others do
    (docs/log.md). Blocks with a second moment in common are Adam-mini's (Zhang et al. 2024).

    A group has one parameter, the `width` of its vectors, and the `factor` of its learning rate.
    """

    found_inf: Tensor | None = None
    """Where this is 1, a step changes nothing. Nothing waits for the answer."""

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            (parameter,) = group["params"]
            if parameter.grad is not None:
                self._update(parameter, parameter.grad, group["lr"], group["width"])

    def _update(self, parameter: Tensor, grad: Tensor, lr: float | Tensor, width: int) -> None:
        vectors, grads = parameter.view(-1, width), grad.reshape(-1, width)
        state = self.state[parameter]
        if not state:
            state["n_steps"] = torch.zeros((), dtype=grad.dtype, device=grad.device)
            state["exp_avg"] = torch.zeros_like(vectors)
            state["exp_avg_sq"] = torch.zeros_like(vectors[:, :1])
        is_good: float | Tensor = 1.0
        if self.found_inf is not None:
            is_good = 1 - self.found_inf
            grads = torch.where(is_good > 0, grads, 0)
        state["n_steps"] += is_good
        n_steps = state["n_steps"].clamp_min(1)
        of_mean, of_square = (-torch.expm1(n_steps * math.log(beta)) for beta in BETAS)
        rate = lr * is_good / of_mean
        for rows, grad_rows, means, squares in zip(
            *map(blocks, (vectors, grads, state["exp_avg"], state["exp_avg_sq"])), strict=True
        ):
            mean_square = torch.linalg.vecdot(grad_rows, grad_rows)[:, None] / width
            squares.lerp_(mean_square, (1 - BETAS[1]) * is_good)
            means.lerp_(grad_rows, (1 - BETAS[0]) * is_good)
            steps = rate / ((squares / of_square).sqrt() + EPSILON)
            # Finite, so that no learning rate moves what has never had a gradient.
            rows.addcmul_(means, steps.clamp_max_(LARGEST), value=-1)


def optimizer_of(sae: TrainableSAE, lr: float, *, normalise: bool) -> VectorAdam:
    """A group for each parameter, whose `factor` is what its learning rate is multiplied by.

    A vector's step grows with its width alone. Rows of unit norm shall turn as far at every width;
    the offsets that features are chosen by need more where inputs are larger, which is known of
    inputs that are normalised.
    """
    norm = math.sqrt(sae.d_in)
    factors = {
        name: rate * norm / TYPICAL_NORM for name, rate in sae.offset_rates().items() if normalise
    }
    groups = []
    for name, parameter in sae.named_parameters():
        of_rows = parameter.dim() == 2
        width = sae.d_in if of_rows or name == "b_dec" else 1
        factor = ROW_STEP * sae.row_rate / norm if of_rows else factors.get(name, 1.0)
        groups.append({"params": [parameter], "width": width, "factor": factor})
    return VectorAdam(groups, lr)


def older_optimizer(sae: TrainableSAE, lr: float, state: dict[str, Any]) -> torch.optim.Adam | None:
    """The optimizer of a checkpoint that an older version wrote: Adam, in its state then. None if
    it is not older."""
    groups = state["param_groups"]
    if "width" in groups[0]:
        return None
    if len(groups) == 1:  # for all parameters
        groups = [{**groups[0], "params": [i], "factor": 1.0} for i in groups[0]["params"]]
    adam = torch.optim.Adam([{"params": [p]} for p in sae.parameters()], lr=lr, fused=True)
    adam.load_state_dict({**state, "param_groups": groups})
    return adam
