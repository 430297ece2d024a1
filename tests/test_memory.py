"""What malloc does with freed tensors, in processes of their own."""

import subprocess
import sys

import pytest

# 64 MB each: blocks of up to 32 MiB glibc learns to keep by itself.
FAULTS = """
import resource, torch
from activation_cache.common.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
for _ in range(3):
    torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*, keep: bool) -> int:
    program = FAULTS.format(keep=keep)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return int(result.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_tensors_are_used_again_without_page_faults() -> None:
    pages = 20 * 64_000_000 // 4096
    assert page_faults(keep=False) > 0.9 * pages
    assert page_faults(keep=True) < 0.01 * pages
