"""What malloc does with freed tensors."""

import ctypes
import resource
import sys

import pytest
import torch

from activation_cache.common.memory import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory

N_BYTES = 64_000_000  # blocks of up to 32 MiB glibc learns to keep by itself


def page_faults() -> int:
    torch.ones(N_BYTES // 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(N_BYTES // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_tensors_are_used_again_without_page_faults() -> None:
    pages = 5 * N_BYTES // 4096
    mallopt = ctypes.CDLL(None).mallopt
    for threshold in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):  # as before any script has run here
        assert mallopt(threshold, 128 * 1024)
    assert page_faults() > 0.9 * pages
    assert keep_freed_memory()
    assert page_faults() < 0.01 * pages
