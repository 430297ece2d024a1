"""How the C library treats large blocks of memory."""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
LIMIT = 1 << 30


def keep_freed_memory() -> bool:
    """Let malloc keep freed blocks of up to 1 GiB for the next tensor; false where it cannot.

    glibc hands a large block back to the system when it is freed, and takes it again, page by page
    and zeroed, for the next tensor of that size. A forward pass on a CPU that makes and drops such
    tensors all the time spends a third of its time on that. It is a setting of the whole process,
    so programs call this and libraries do not.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LIMIT)) and bool(mallopt(M_TRIM_THRESHOLD, LIMIT))


def give_back_freed_memory() -> None:
    """Hand what is free back to the system, after something unusually large has been dropped.

    Else a program whose freed memory is kept grows by the largest file that it has ever read.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
