"""The processes of one job under torch.distributed; alone, a process is rank 0 of 1."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch.distributed as dist

from activation_cache.common.errors import InputError

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=365)
"""For ranks that come later; one that is gone is noticed at once."""


def rank_and_world() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def all_gather(mine: T) -> list[T]:
    """What every rank gives, in the order of ranks."""
    if not dist.is_initialized():
        return [mine]
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, mine)
    return everyones


def of_rank_0(decide: Callable[[], T]) -> T:
    """What `decide` returns or refuses; rank 0 calls it for all."""
    if not dist.is_initialized():
        return decide()
    outcome: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = decide()
        except InputError as refused:
            outcome[0] = refused
    dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], InputError):
        raise outcome[0]
    return cast(T, outcome[0])


@contextmanager
def in_step() -> Iterator[Callable[[], None]]:
    """Within it, the ranks work each for itself; what it gives waits for all of them.

    Waiting takes no CPU time, however long it lasts. Where a rank leaves by an error, or is gone,
    those that wait for it leave with an `InputError`.
    """
    if not dist.is_initialized():
        yield lambda: None
        return
    group: Any = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)

    def wait_for_all() -> None:
        try:
            dist.all_gather_object([None] * dist.get_world_size(), None, group)
        except RuntimeError as error:  # its connections are closed
            raise InputError(
                "another process of this job has failed, and says why; the same call resumes"
            ) from error

    try:
        yield wait_for_all
    finally:
        dist.destroy_process_group(group)
