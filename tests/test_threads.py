"""Threads in the background end before the interpreter does, however a program ends."""

import subprocess
import sys

import pytest

READING_THREAD = """
import sys, time
from activation_cache.text.retries import patient_rows

def rows():
    print("opened", flush=True)
    try:
        for i in range(10**6):
            time.sleep(.2)  # as reading takes
            yield {"text": str(i)}
    finally:
        print("closed", flush=True)

reading = patient_rows("somebody/text", rows)
next(reading)
"""

PREFETCHING_THREAD = """
import sys, time
from activation_cache.stream.prefetch import Prefetch

class Source:
    def __next__(self):
        print("opened", flush=True)
        time.sleep(.2)
        print("closed", flush=True)
        return {}

stream = Prefetch(Source())
next(stream)
"""


@pytest.mark.parametrize(
    ("thread", "end", "code"),
    [(READING_THREAD, "", 0), (READING_THREAD, "1 / 0", 1), (PREFETCHING_THREAD, "sys.exit(2)", 2)],
)
def test_a_program_ends_with_its_exit_code_after_the_thread_has_ended(
    thread: str, end: str, code: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", thread + end], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    said = done.stdout.split()
    assert said.count("opened") == said.count("closed") > 0
