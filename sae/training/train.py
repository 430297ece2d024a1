"""Fit dictionaries to a stream of activations. A generator: it does not log, print or save."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat

import torch
from jaxtyping import Float
from torch import Tensor

from sae.base import SAE
from sae.errors import InputError
from sae.training.config import TrainConfig
from sae.training.trainer import StepRecord, Trainer

Batch = Tensor | Mapping[str, Tensor]
"""Activations [batch, d_in], or such tensors by hook name."""


def train(
    saes: SAE | Sequence[SAE],
    batches: Iterable[Batch],
    cfg: TrainConfig | Sequence[TrainConfig],
) -> Generator[StepRecord]:
    """Train one dictionary or several on the same stream, yielding a record per step of each.

    `batches` are tensors [batch, d_in], the same for all, or mappings by hook name from which each
    dictionary takes its own. `cfg` is one for all or one for each. A dictionary's training stops
    after exactly `n_tokens`, or where the stream ends, and its result is, on a CPU to the last bit,
    the one that it would have alone. A dictionary that was trained or loaded goes on from its
    weights. Raises `InputError` for a stream that is empty, of the wrong width, or not finite at
    its head.
    """
    saes = [saes] if isinstance(saes, SAE) else saes
    cfgs = repeat(cfg, len(saes)) if isinstance(cfg, TrainConfig) else cfg
    trainers = [Trainer(sae, cfg, i) for i, (sae, cfg) in enumerate(zip(saes, cfgs, strict=True))]
    stream = iter(batches)
    head = _take(stream, max(_head_tokens(trainer) for trainer in trainers), trainers[0].sae)
    try:
        for trainer in trainers:
            trainer.initialise(_sample(head, trainer))
        for batch in chain(head, stream):
            for trainer in trainers:
                if not trainer.is_done:
                    left = trainer.cfg.n_tokens - trainer.n_tokens
                    x = _activations(batch, trainer.sae)[:left]
                    yield trainer.step(x.to(trainer.sae.device))
            if all(trainer.is_done for trainer in trainers):
                break
    finally:
        for trainer in trainers:
            trainer.sae.fold_input_scale_()


def _head_tokens(trainer: Trainer) -> int:
    return min(trainer.cfg.init_tokens, trainer.cfg.n_tokens)


def _sample(head: Sequence[Batch], trainer: Trainer) -> Float[Tensor, "n d_in"]:
    """As many whole batches of the head as the dictionary asks for, whatever others ask for."""
    taken = _take(iter(head), _head_tokens(trainer), trainer.sae)
    rows = torch.cat([_activations(batch, trainer.sae) for batch in taken])
    return rows[: trainer.cfg.n_tokens]


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
