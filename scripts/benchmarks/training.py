"""The training step, against what its product and its memory traffic cost by themselves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders.common import synthetic_rows
from benchmarks.measure import BenchFlags, Measured, Row, measure
from sae.architectures import ARCHITECTURES
from sae.base import SAE
from sae.selection import Products
from sae.training import TrainConfig, Trainer

STANDSTILL = 1e-9
"""A learning rate at which L0 stays what it is."""

COPIED_AT_ONCE = 2**24
"""Floats that a copy moves: 64 MB, more than any cache."""


@dataclass(frozen=True)
class Shape:
    """The size of a training step."""

    architecture: str
    d_in: int
    d_sae: int
    k: int
    batch_tokens: int
    products: Products

    @property
    def bytes_moved(self) -> int:
        """What a sparse step has to read and write at least, in float32 but for low products.

        The optimiser: weights, their moment and gradients read, all but these written, and
        gradients written before. The encoder: weights read, pre-activations written and read once.
        The codes: a row of a table for each active feature, in decoding and in three gradients.
        """
        low = 4 if self.products == "float32" else 2
        weights = 2 * self.d_sae * self.d_in
        optimiser = weights * 4 * (3 + 2 + 1)
        encoder = weights // 2 * (4 + (2 * low if low == 2 else 0))
        pre_acts = 2 * low * self.batch_tokens * self.d_sae
        codes = 4 * 4 * self.batch_tokens * self.k * self.d_in
        return optimiser + encoder + pre_acts + codes


def shapes(flags: BenchFlags) -> Iterator[Shape]:
    """The table: one size for all architectures, and TopK at the sizes that people train."""
    small, large = (2048, 6144), [(2048, 24_576)]
    if flags.on.type == "cuda":
        large = [(b, s) for s in (24_576, 32_768, 131_072) for b in (4096, 8192)]
        small = (8192, 24_576)
    ks = (32, 64) if flags.k is None else (flags.k,)
    sizes = [(small, (ks[0],), tuple(ARCHITECTURES))] + [(size, ks, ("topk",)) for size in large]
    if flags.d_sae is not None or flags.batch_tokens is not None:
        (batch, d_sae), _, _ = sizes[-1]
        asked = (flags.batch_tokens or batch, flags.d_sae or d_sae)
        sizes = [(asked, ks, tuple(ARCHITECTURES))]
    for (batch, d_sae), its_ks, architectures in sizes:
        for architecture in architectures:
            for k in its_ks:
                for products in ("float32", "bfloat16"):
                    yield Shape(architecture, flags.d_in, d_sae, k, batch, products)


def ceiling_rows(flags: BenchFlags) -> Iterator[Row]:
    """ceiling-matmul and ceiling-copy: what the machine can do, for an encoder of 768 x 24,576."""
    d_sae, batch_tokens = flags.d_sae or 24_576, flags.batch_tokens or 2048
    shape = Shape("topk", flags.d_in, d_sae, 32, batch_tokens, "float32")
    for dtype in (torch.float32, torch.bfloat16):
        if flags.only in (None, "ceiling-matmul"):
            product = product_of(shape, dtype, flags.on)
            measured = measure(product, product, flags.repeats, flags.on)
            flop = 2 * shape.d_in * shape.d_sae
            note = f"{measured.tokens_per_s * flop / 1e9:,.0f} GFLOP/s"
            yield _row(flags, measured, "ceiling-matmul", shape, str(dtype).split(".")[1], note)
    if flags.only in (None, "ceiling-copy"):
        copy = copy_of(shape, flags.on)
        measured = measure(copy, copy, flags.repeats, flags.on)
        rate = measured.tokens_per_s / shape.batch_tokens * shape.bytes_moved / 1e9
        note = f"{rate:,.0f} GB/s read and written"
        yield _row(flags, measured, "ceiling-copy", shape, "float32", note)


def product_of(shape: Shape, dtype: torch.dtype, device: torch.device) -> Callable[[], int]:
    """The encoder's product alone."""
    x = torch.randn(shape.batch_tokens, shape.d_in, device=device).to(dtype)
    rows = torch.randn(shape.d_sae, shape.d_in, device=device).to(dtype)

    def work() -> int:
        F.linear(x, rows)
        return shape.batch_tokens

    return work


def copy_of(shape: Shape, device: torch.device) -> Callable[[], int]:
    """Moving as many bytes as a step has to."""
    source = torch.zeros(COPIED_AT_ONCE, device=device)
    target = torch.empty_like(source)
    n_copies = shape.bytes_moved / (2 * 4 * COPIED_AT_ONCE)

    def work() -> int:
        for _ in range(int(n_copies)):
            target.copy_(source)
        rest = int(n_copies % 1 * COPIED_AT_ONCE)
        target[:rest].copy_(source[:rest])
        return shape.batch_tokens

    return work


def step_rows(flags: BenchFlags) -> Iterator[Row]:
    """step-ARCHITECTURE: whole steps with the optimiser, against product and copies by themselves.

    Dictionaries whose sparsity is trained are brought to an L0 of k by their biases.
    """
    for shape in shapes(flags):
        name = f"step-{shape.architecture}"
        if flags.only in (None, name):
            trainer, batches = trainer_of(shape, flags.on)
            work, floor = steps_of(trainer, batches), floor_of(shape, flags.on)
            measured = measure(work, floor, flags.repeats, flags.on)
            yield _row(flags, measured, name, shape, shape.products)


def steps_of(trainer: Trainer, batches: Tensor) -> Callable[[], int]:
    """Training steps, one each time, on the batches in turns."""
    in_turns = cycle(batches)

    def work() -> int:
        trainer.step(next(in_turns))
        return batches.shape[1]

    return work


def floor_of(shape: Shape, device: torch.device) -> Callable[[], int]:
    """What no step can do without: the encoder's product, and its bytes moved."""
    dtype = torch.float32 if shape.products == "float32" else torch.bfloat16
    product = product_of(shape, dtype, device)
    copy = copy_of(shape, device)

    def work() -> int:
        product()
        return copy()

    return work


def trainer_of(shape: Shape, device: torch.device) -> tuple[Trainer, Tensor]:
    """A trainer in the middle of its run, and a few batches for it."""
    n_batches = 4
    rows = synthetic_rows(n_batches * shape.batch_tokens, shape.d_in, seed=0).to(device)
    cls = ARCHITECTURES[shape.architecture]
    given: dict[str, Any] = {"k": shape.k} if cls.is_sparse_from_the_start else {}
    sae = cls(d_sae=shape.d_sae, **given).build(shape.d_in).to(device)
    cfg = TrainConfig(n_tokens=10**9, lr=STANDSTILL, products=shape.products)
    trainer = Trainer(sae, cfg)
    trainer.initialise(rows[: cfg.init_tokens])
    trainer.n_tokens = cfg.n_tokens // 2
    if not cls.is_sparse_from_the_start:
        _bring_to_l0(sae, rows[:512] * trainer.scale, shape.k)
        trainer.is_sparse = True
    return trainer, rows.view(n_batches, shape.batch_tokens, shape.d_in)


@torch.no_grad()
def _bring_to_l0(sae: SAE, x: Tensor, l0: int) -> None:
    """Lower every encoder bias by as much as leaves about `l0` features of a token active."""
    threshold = getattr(sae, "threshold", torch.zeros((), device=x.device))
    pre_acts = sae.pre_acts(x) - threshold
    sae.b_enc.sub_(pre_acts.topk(l0, dim=1).values[:, -1].mean())


def bookkeeping_rows(flags: BenchFlags) -> Iterator[Row]:
    """bookkeeping: all that a step does beside passes, losses and optimiser, against the step."""
    if flags.only not in (None, "bookkeeping"):
        return
    d_sae = flags.d_sae or 24_576
    shape = Shape("topk", flags.d_in, d_sae, flags.k or 32, flags.batch_tokens or 2048, "bfloat16")
    trainer, batches = trainer_of(shape, flags.on)
    out = trainer.forward(batches[0])
    loss, parts = trainer.losses(out)

    def book() -> int:
        said = (out, loss, parts, 1e-3, loss)
        records = [trainer.record_step(*said) for _ in range(trainer.COUNT_STEPS)]
        record = records[-1]
        for figure in (record.loss, record.fvu, record.l0, record.grad_norm):
            figure.item()  # what is logged
        return trainer.COUNT_STEPS * shape.batch_tokens

    def step() -> int:
        trainer.step(batches[0])
        return shape.batch_tokens

    measured = measure(step, book, flags.repeats, flags.on)
    note = f"takes {measured.share_of_floor:.1%} of a step"
    yield _row(flags, measured, "bookkeeping", shape, shape.products, note)


def _row(
    flags: BenchFlags, measured: Measured, name: str, shape: Shape, dtype: str, note: str = ""
) -> Row:
    return measured.row(
        flags,
        name=name,
        device=flags.on.type,
        d_in=shape.d_in,
        d_sae=shape.d_sae,
        k=shape.k,
        batch=shape.batch_tokens,
        dtype=dtype,
        note=note,
    )
