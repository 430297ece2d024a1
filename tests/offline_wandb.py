"""Reads the file of an offline run of Weights & Biases, the one that `wandb sync` would send."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

BLOCK = 32 * 1024
HEADER = 7


def records_of(path: Path) -> Iterator[bytes]:
    """The records of W&B's log: LevelDB's format, blocks of 32 KiB after a header of 7 bytes."""
    data, offset, parts = path.read_bytes(), HEADER, b""
    while offset + HEADER <= len(data):
        if BLOCK - offset % BLOCK < HEADER:
            offset += BLOCK - offset % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, offset)
        parts += data[offset + HEADER : offset + HEADER + length]
        offset += HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def history_of(path: Path) -> list[dict[str, float]]:
    """The logged rows. W&B's own process may still be writing when the run has ended here."""
    from wandb.proto.wandb_internal_pb2 import Record

    for _ in range(100):
        records: list[Record] = []
        for data in records_of(path):
            records.append(Record())
            records[-1].ParseFromString(data)
        if any(record.HasField("exit") for record in records):
            break
        time.sleep(0.1)
    rows = [record.history.item for record in records if record.HasField("history")]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        for items in rows
    ]
