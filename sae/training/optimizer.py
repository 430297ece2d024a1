"""Adam, with a learning rate for each parameter."""

from typing import Any

import torch

from sae.trainable import TrainableSAE

TYPICAL_NORM = 14.0
"""Of the inputs in training that learning rates were chosen for: about sqrt(192)."""


def adam(sae: TrainableSAE, lr: float, *, normalise: bool) -> torch.optim.Adam:
    """A group for each parameter, whose `factor` is what its learning rate is multiplied by.

    Adam's steps do not grow with what they move: the offsets that features are chosen by need more
    where inputs are larger, which is known of inputs that are normalised.
    """
    scale = sae.d_in**0.5 / TYPICAL_NORM
    factors = {name: rate * scale for name, rate in sae.offset_rates().items() if normalise}
    groups = [
        {"params": [parameter], "factor": factors.get(name, 1.0)}
        for name, parameter in sae.named_parameters()
    ]
    return torch.optim.Adam(groups, lr=lr, fused=True)


def by_parameter(state: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's state with a group for each parameter: older versions had one for all."""
    (first, *others) = state["param_groups"]
    if others or len(first["params"]) == 1:
        return state
    groups = [{**first, "params": [i], "factor": 1.0} for i in first["params"]]
    return {**state, "param_groups": groups}
