"""The processes of one job under torch.distributed; alone, a process is rank 0 of 1."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch.distributed as dist

from activation_cache.common.errors import InputError

T = TypeVar("T")


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
