"""What malloc does with freed blocks, in a process that has not asked it for anything yet."""

import subprocess
import sys

import pytest

from activation_cache.common import memory

# 64 MB each, as tensors may be: blocks of up to 32 MiB glibc learns to keep by itself.
FAULTS = """
import ctypes, resource, runpy, sys
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def page_faults():
    for i in range(3):
        if i == 1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(64_000_000)
        libc.memset(block, 1, 64_000_000)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = page_faults()
assert runpy.run_path(sys.argv[1])["keep_freed_memory"]()
print(before, page_faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_blocks_are_used_again_without_page_faults() -> None:
    program = [sys.executable, "-c", FAULTS, str(memory.__file__)]
    ended = subprocess.run(program, capture_output=True, text=True, check=True)
    before, after = map(int, ended.stdout.split())
    pages = 2 * 64_000_000 // 4096
    assert before > 0.9 * pages
    assert after < 0.01 * pages
