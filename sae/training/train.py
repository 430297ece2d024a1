"""Fit dictionaries to a stream of activations. It does not log, print or save."""

import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.batches import Batch, Shuffled, batches_of, rows_of_batch
from sae.trainable import TrainableSAE
from sae.training.config import TrainConfig
from sae.training.health import NotFinite
from sae.training.record import StepRecord
from sae.training.trainer import Trainer


def train(
    saes: TrainableSAE | Sequence[TrainableSAE],
    batches: Iterable[Batch] | Tensor,
    cfg: TrainConfig | Sequence[TrainConfig] | None = None,
) -> Generator[StepRecord]:
    """Train one dictionary or several on the same stream, yielding a record per step of each.

    It is a generator: it trains as it is iterated, and a call alone does nothing. `fit` trains to
    the end. A stream that ends before `n_tokens` gives a warning.

    `batches` are tensors or arrays [..., d_in], the same for all, or mappings by hook name from
    which each dictionary takes its own; of tuples, as loaders give them, the first entry counts.
    One tensor or array is the rows of all batches, and is shuffled. `cfg` is one for all or one for
    each, by default `TrainConfig()`, or each row of an array once. A dictionary's training stops
    after exactly `n_tokens`, or where the stream ends, and its result is, on a CPU to the last bit,
    the one that it would have alone. A dictionary that was trained or loaded continues from its
    weights. Until the generator ends, or is closed, a dictionary is in the units of training:
    `Training` gives finished copies in between.

    Raises `InputError` for a stream that is empty, of the wrong width, or not finite, and
    `NotFinite` for a dictionary that diverges, once the others are done.
    """
    cfg = cfg or default_config(batches)
    with Training(saes, batches_of(batches, n_rows=longest(cfg)), cfg) as training:
        for records in training:
            yield from records
        for failure in training.failures.values():
            raise failure
        if any(not trainer.is_done for trainer in training.trainers):
            n_tokens = max(trainer.cfg.n_tokens for trainer in training.trainers)
            warnings.warn(
                f"the stream ended after {training.n_tokens:,} of n_tokens={n_tokens:,}: the "
                f"learning rate did not fall to 0, which costs much of the fit; give more batches, "
                f"or TrainConfig(n_tokens={training.n_tokens:_})",
                stacklevel=2,
            )


def default_config(batches: Iterable[Batch] | Tensor) -> TrainConfig:
    """Of an array, each row once."""
    source = batches_of(batches)
    return TrainConfig(n_tokens=len(source)) if isinstance(source, Shuffled) else TrainConfig()


def longest(cfg: TrainConfig | Sequence[TrainConfig]) -> int:
    """The tokens of the longest training."""
    return max(its.n_tokens for its in ([cfg] if isinstance(cfg, TrainConfig) else cfg))


class Training:
    """A training, one batch at a time, that can be saved between two batches and resumed.

    Iterating takes a batch and yields the records of the dictionaries that are not done. Closing it
    finishes the dictionaries; a context manager does that. `trainers[i].dictionary()` is a finished
    copy at any time.
    """

    def __init__(
        self,
        saes: TrainableSAE | Sequence[TrainableSAE],
        batches: Iterable[Batch],
        cfg: TrainConfig | Sequence[TrainConfig],
    ) -> None:
        saes = [saes] if isinstance(saes, TrainableSAE) else saes
        cfgs = repeat(cfg, len(saes)) if isinstance(cfg, TrainConfig) else cfg
        pairs = zip(saes, cfgs, strict=True)
        self.trainers = [Trainer(sae, cfg, i) for i, (sae, cfg) in enumerate(pairs)]
        self._batches = batches
        self._stream = iter(batches)
        self._head: deque[Batch] = deque()
        """Batches that have been looked at and not been trained on yet."""
        self._is_begun = False
        self.failures: dict[int, NotFinite] = {}
        """Why dictionaries, by their position, were not trained to their end."""

    def __iter__(self) -> Iterator[list[StepRecord]]:
        return self

    def __next__(self) -> list[StepRecord]:
        if not self._is_begun:
            self._begin()
        at_work = [trainer for trainer in self.trainers if not trainer.is_done]
        if not at_work:
            raise StopIteration
        batch = self._head.popleft() if self._head else next(self._stream)
        records: list[StepRecord] = []
        for trainer in at_work:
            try:
                records.append(trainer.step(_rows_for(trainer, batch)))
            except NotFinite as failure:
                self.failures[trainer.position] = failure
                trainer.has_failed = True
        return records

    def _begin(self) -> None:
        n_tokens = max(_head_tokens(trainer) for trainer in self.trainers)
        self._head.extend(_take(self._stream, n_tokens, self.trainers[0].sae))
        for trainer in self.trainers:
            trainer.initialise(_sample(self._head, trainer))
        self._is_begun = True

    @property
    def n_tokens(self) -> int:
        """Tokens that the dictionary that is furthest has seen."""
        return max(trainer.n_tokens for trainer in self.trainers)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, but for the settings.

        The stream must have a `state_dict` of its own.
        """
        return {
            "trainers": [trainer.state_dict() for trainer in self.trainers],
            "head": list(self._head),
            "is_begun": self._is_begun,
            "stream": self._batches.state_dict(),  # type: ignore[attr-defined]
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where another training of these dictionaries was. Before any batch."""
        for trainer, its_state in zip(self.trainers, state["trainers"], strict=True):
            trainer.load_state_dict(its_state)
        self._head = deque(state["head"])
        self._batches.load_state_dict(state["stream"])  # type: ignore[attr-defined]
        self._is_begun = state["is_begun"]

    def close(self) -> None:
        for trainer in self.trainers:
            trainer.finish()

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _rows_for(trainer: Trainer, batch: Batch) -> Float[Tensor, "batch d_in"]:
    """As many rows of the batch as the dictionary has still to see."""
    left = trainer.cfg.n_tokens - trainer.n_tokens
    return _activations(batch, trainer.sae)[:left].to(trainer.sae.device)


def _head_tokens(trainer: Trainer) -> int:
    return min(trainer.cfg.init_tokens, trainer.cfg.n_tokens)


def _sample(head: Iterable[Batch], trainer: Trainer) -> Float[Tensor, "n d_in"]:
    """As many whole batches of the head as the dictionary asks for, whatever others ask for."""
    taken = _take(iter(head), _head_tokens(trainer), trainer.sae)
    rows = torch.cat([_activations(batch, trainer.sae) for batch in taken])
    return rows[: trainer.cfg.n_tokens]


def _take(stream: Iterator[Batch], n_tokens: int, sae: TrainableSAE) -> list[Batch]:
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


def _activations(batch: Batch, sae: TrainableSAE) -> Float[Tensor, "batch d_in"]:
    """The rows of a batch that belong to this dictionary."""
    return rows_of_batch(batch, sae.d_in, sae.hook_name)
