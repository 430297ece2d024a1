"""Commands that torchrun may start in several processes."""

import os
from collections.abc import Callable
from functools import wraps

import torch
import torch.distributed as dist


def under_torchrun(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """The command, within a process group where torchrun has started several of it."""

    @wraps(main)
    def joined(arguments: list[str]) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            main(arguments)
            return
        if torch.cuda.is_available():  # a GPU for each process of a machine, as far as there are
            local_rank = int(os.environ.get("LOCAL_RANK", "0"))
            torch.cuda.set_device(local_rank % torch.cuda.device_count())
        dist.init_process_group("gloo")
        try:
            main(arguments)
        finally:
            dist.destroy_process_group()

    return joined
