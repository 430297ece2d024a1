"""Serve rows in random order from a buffer of fixed size. Tensors in, tensors out: no model."""
# Shapes: N = rows held, B = rows in a batch, D = width of a row (one per name).

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from activation_cache.common.errors import InputError

Rows = dict[str, Tensor]
"""Tensors [rows, width] by name; row i of each belongs to the same token."""


def _allocated(like: Tensor, *shape: int) -> Tensor:
    try:
        return like.new_empty(shape)
    except RuntimeError as error:
        raise InputError(
            f"no memory for a shuffle buffer of {shape[0]:,} rows: give a smaller --buffer-tokens"
        ) from error


class ShuffleBuffer:
    """Holds exactly `capacity_tokens` rows and serves them in random batches, for ever.

    The memory is allocated once, in the dtype and on the device of the first rows. Every batch is a
    uniformly random set of B of the N rows held; just those B slots are then overwritten with the
    next B rows that arrive, so each row is copied twice in its life, however large the buffer is.

    The mixing that this guarantees: every row is served exactly once; how long it waits is
    geometric with a mean of N/B batches, whatever waits beside it; and two rows that arrived
    together are served in the same batch with probability (B-1)/(2N-B-1), about B/2N.
    """

    def __init__(
        self, rows: Iterator[Rows], *, capacity_tokens: int, batch_tokens: int, seed: int
    ) -> None:
        self.capacity_tokens = capacity_tokens
        self.batch_tokens = batch_tokens
        self._rows = rows
        self._generator = torch.Generator().manual_seed(seed)
        self._held: Rows = {}
        self._pending: Rows = {}
        self._free = _allocated(torch.arange(0), capacity_tokens)
        torch.arange(capacity_tokens, out=self._free)

    def __iter__(self) -> Iterator[Rows]:
        return self

    def __next__(self) -> Rows:
        self._refill()
        order = torch.randperm(self.capacity_tokens, generator=self._generator)
        self._free = order[: self.batch_tokens]
        return {name: held[self._free.to(held.device)] for name, held in self._held.items()}

    def _refill(self) -> None:
        """Overwrite the free slots with the rows that come next."""
        while len(self._free):
            if _length(self._pending) == 0:
                self._pending = next(self._rows)
            if not self._held:
                n, pending = self.capacity_tokens, self._pending
                self._held = {name: _allocated(x, n, x.shape[1]) for name, x in pending.items()}
            n = min(len(self._free), _length(self._pending))
            for name, rows in self._pending.items():
                self._held[name][self._free[:n].to(rows.device)] = rows[:n]
            self._pending = {name: rows[n:] for name, rows in self._pending.items()}
            self._free = self._free[n:]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the source of rows, which its owner saves at the same moment."""
        return {
            "held": {name: rows.clone() for name, rows in self._held.items()},
            "pending": {name: rows.clone() for name, rows in self._pending.items()},
            "free": self._free.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._held = {name: rows.clone() for name, rows in state["held"].items()}
        self._pending = {name: rows.clone() for name, rows in state["pending"].items()}
        self._free = state["free"].clone()
        self._generator.set_state(state["generator"])


def _length(rows: Rows) -> int:
    return next((len(tensor) for tensor in rows.values()), 0)
