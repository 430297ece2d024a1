"""Activations that lie in files: .npy and .safetensors, with no language model."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from activation_cache.common.errors import InputError, described
from activation_cache.stream.shuffle import Rows, ShuffleBuffer

SUFFIXES = (".npy", ".safetensors")
SITE = "activations"
"""What the site is called where nobody names it."""

CHUNK_ROWS = 1024
"""Rows that are read at once: neighbours, which may be of one text, stay in one split."""

HELD_OUT_EVERY = 20
"""One chunk in this many is held out of training."""


@dataclass(frozen=True)
class ActivationFiles:
    """The rows of one file, or of all in a folder one after the other.

    The last axis is the width; all others are rows. Nothing is read before it is needed.
    """

    source: str
    arrays: tuple[Any, ...]
    """[rows, width] each, memory-mapped."""
    device: torch.device

    @classmethod
    def open(cls, source: str, device: torch.device) -> "ActivationFiles":
        """`InputError` where there is none, or they do not fit together."""
        path = Path(source)
        paths = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file())
        paths = [p for p in paths if p.suffix in SUFFIXES]
        if not paths:
            raise InputError(
                f"no activations at {source}: give a .npy or .safetensors file, or a folder of them"
            )
        arrays = tuple(array for p in paths for array in _arrays_in(p))
        widths = sorted({array.shape[1] for array in arrays})
        if len(widths) > 1:
            raise InputError(f"the activations in {source} have widths {widths}: give one width")
        if sum(map(len, arrays)) < 2:
            raise InputError(f"the activations in {source} are fewer than two rows: give more")
        return cls(source, arrays, device)

    @property
    def width(self) -> int:
        return self.arrays[0].shape[1]

    @cached_property
    def n_rows(self) -> int:
        return sum(map(len, self.arrays))

    @cached_property
    def chunk_rows(self) -> int:
        """Smaller where there are few, so that some are held out."""
        return max(1, min(CHUNK_ROWS, self.n_rows // (2 * HELD_OUT_EVERY)))

    def chunks(self, *, held_out: bool) -> list[int]:
        """The numbers of the chunks of a split; of very few rows, the last is held out."""
        n = math.ceil(self.n_rows / self.chunk_rows)
        of_it = {c for c in range(n) if c % HELD_OUT_EVERY == HELD_OUT_EVERY - 1} or {n - 1}
        return [chunk for chunk in range(n) if (chunk in of_it) == held_out]

    @property
    def n_train(self) -> int:
        """Rows to train on."""
        return sum(len(range(*self._span(chunk))) for chunk in self.chunks(held_out=False))

    def held_out(self, n_rows: int) -> list[Tensor]:
        """The first so many held-out rows, in chunks."""
        found: list[Tensor] = []
        for chunk in self.chunks(held_out=True):
            found.append(self.rows(chunk)[:n_rows])
            n_rows -= len(found[-1])
            if n_rows <= 0:
                break
        return found

    def rows(self, chunk: int) -> Tensor:
        """[rows, width] in float32, on the device."""
        start, stop = self._span(chunk)
        parts: list[Tensor] = []
        for array in self.arrays:
            if start < len(array) and stop > 0:
                part = array[max(start, 0) : stop]
                parts.append(
                    torch.as_tensor(np.array(part) if isinstance(part, np.ndarray) else part)
                )
            start, stop = start - len(array), stop - len(array)
        return torch.cat(parts).to(self.device, torch.float32)

    def _span(self, chunk: int) -> tuple[int, int]:
        return chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.n_rows)


class ArrayStream:
    """Shuffled batches {hook name: [batch_tokens, width]} of files, for ever; it can be resumed.

    Chunks come in a random order, another in each pass, and their rows through a shuffle buffer.
    """

    def __init__(
        self, files: ActivationFiles, site: str, *, batch_tokens: int, buffer_tokens: int, seed: int
    ) -> None:
        self._files, self._site, self._seed = files, site, seed
        self._chunks = files.chunks(held_out=False)
        self._n_chunks = 0
        self._buffer = ShuffleBuffer(
            iter(self._next_chunk, None),
            capacity_tokens=max(batch_tokens, min(buffer_tokens, files.n_train)),
            batch_tokens=batch_tokens,
            seed=seed,
        )

    def __iter__(self) -> Iterator[Rows]:
        return self

    def __next__(self) -> Rows:
        return next(self._buffer)

    @property
    def pass_rows(self) -> int:
        """Rows of a pass over the files."""
        return self._files.n_train

    def _next_chunk(self) -> Rows:
        epoch, place = divmod(self._n_chunks, len(self._chunks))
        generator = torch.Generator().manual_seed(self._seed + 1_000_003 * epoch)
        order = torch.randperm(len(self._chunks), generator=generator)
        self._n_chunks += 1
        return {self._site: self._files.rows(self._chunks[int(order[place])])}

    def state_dict(self) -> dict[str, Any]:
        return {"n_chunks": self._n_chunks, "buffer": self._buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._n_chunks = state["n_chunks"]
        self._buffer.load_state_dict(state["buffer"])


def _arrays_in(path: Path) -> Iterator[Any]:
    try:
        if path.suffix == ".npy":
            found: Any = np.load(path, mmap_mode="r", allow_pickle=False)
            yield _as_rows(found, str(path))
            return
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys()):
                yield _as_rows(file.get_tensor(name), f"{name} in {path}")
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read activations from {path} ({described(error)})") from error


def _as_rows(array: Any, where: str) -> Any:
    is_number = str(array.dtype).removeprefix("torch.").startswith(("float", "bfloat"))
    if array.ndim < 2 or not is_number:
        raise InputError(
            f"{where} has shape {tuple(array.shape)} and type {array.dtype}: give floats "
            f"[rows, width], or [..., width]"
        )
    return array.reshape(-1, array.shape[-1])
