"""Which data types a device has instructions for."""

import torch


def emulation_warning(flag: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """What to tell whoever asks, with a flag, for a data type whose products are slow there.

    So are those in 16 bits on x86 CPUs without AVX-512 (docs/log.md). None where all is well.
    """
    is_old_x86 = torch.backends.cpu.get_cpu_capability() == "AVX2"
    if device.type != "cpu" or dtype.itemsize != 2 or not is_old_x86:
        return None
    name = str(dtype).removeprefix("torch.")
    return (
        f"warning: this CPU has no instructions for {name}, so it takes many times as long as "
        f"float32: leave {flag} at float32"
    )
