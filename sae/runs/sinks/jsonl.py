"""The file of record."""

import json
import math
import os
from contextlib import suppress
from pathlib import Path

from sae.runs.sinks.sink import Row


class JsonLinesSink:
    """A file of rows, such as metrics.jsonl, the log of record. Every row is written through.

    What is NaN or infinite is written as null: JSON has neither.

    What the file holds after `keep_bytes` is cut off: rows of a training that was interrupted and
    resumes from before them.
    """

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(min(keep_bytes, path.stat().st_size))
        self._file.seek(0, os.SEEK_END)

    def log(self, row: Row) -> None:
        strict = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._file.write(json.dumps(strict, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def position(self) -> int:
        """Bytes so far, which are on the disk once this returns."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        with suppress(OSError):  # of a disk that is full, which writing a row has found
            self._file.close()
