"""Number formats by name, and which of them a device has instructions for."""

from typing import Literal

import torch

DtypeName = Literal["float32", "bfloat16", "float16"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What models and stored activations can be in."""


def name_of(dtype: torch.dtype) -> str:
    """float32, say, as files have it."""
    return str(dtype).removeprefix("torch.")


def emulation_warning(flag: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """What to tell whoever asks, with a flag, for a data type whose products are slow there.

    So are those in 16 bits on x86 CPUs without AVX-512 (docs/log.md). None where all is well.
    """
    is_old_x86 = torch.backends.cpu.get_cpu_capability() == "AVX2"
    if device.type != "cpu" or dtype.itemsize != 2 or not is_old_x86:
        return None
    return (
        f"warning: this CPU has no instructions for {name_of(dtype)}, so it takes many times as "
        f"long as float32: leave {flag} at float32"
    )
