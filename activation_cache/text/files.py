"""Rows and paragraphs of local files: which files a name means, and what is in them."""

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from activation_cache.common.errors import InputError
from activation_cache.common.schema import no_key_twice

Row = dict[str, Any]

FORMATS = (".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
COMPRESSED = (*OPENERS, ".zst")
SAVED_TO_DISK = ("dataset_info.json", "dataset_dict.json")
"""One of them is in the folder that `Dataset.save_to_disk` wrote."""

KNOWN = ".txt, .jsonl or .parquet"
"""In messages."""

PATTERN = set("*?[")

CHUNK_CHARS = 2**16
BATCH_ROWS = 64


def is_local(source: str) -> bool:
    """Whether a name means files on this machine, there or not."""
    path = Path(source)
    has_format = format_of(path) is not None
    return path.exists() or has_format or "://" in source or bool(PATTERN & set(source))


def format_of(path: Path) -> str | None:
    """The suffix that says what is in a file, without that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else None


def is_saved_dataset(path: Path) -> bool:
    return any((path / name).is_file() for name in SAVED_TO_DISK)


def files_of(source: str) -> list[Path]:
    """The files that a name means, sorted; `InputError` where there are none, or of no known kind.

    A name that exists is a name; else it may be a pattern. Hidden files are left out.
    """
    path = Path(source)
    if path.is_file():
        found, kind = [path], "file"
    elif path.is_dir():
        inside = path.rglob("*")
        found, kind = [p for p in inside if p.is_file() and _is_text(p, path)], "folder"
    else:
        fixed = Path(*takewhile(lambda part: not PATTERN & set(part), path.parts))
        matching = fixed.glob(str(path.relative_to(fixed))) if fixed != path else ()
        found, kind = [p for p in matching if p.is_file() and _is_text(p, fixed)], "pattern"
    if not found and not path.is_dir():
        raise InputError(f"no text file at {source}: give an existing {KNOWN} file, or a folder")
    if not found:
        raise InputError(f"the folder {source} holds no text: give one with {KNOWN} files")
    if kind == "file" and format_of(path) is None:
        raise InputError(
            f"cannot read text from {path}: must end in one of {', '.join(FORMATS)}, which may be "
            f"followed by one of {', '.join(COMPRESSED)}"
        )
    for file in found:
        if file.stat().st_size == 0 and kind == "file":
            raise InputError(f"the text file {file} is empty: give one with text in it")
    return sorted(found)


def _is_text(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts if path.is_relative_to(folder) else path.parts[-1:]
    return format_of(path) is not None and not any(part.startswith(".") for part in parts)


def rows_of(path: Path, column: str) -> Iterator[Row]:
    """The rows of a file other than plain text, with at least this column where they have it."""
    match format_of(path):
        case ".parquet" | ".arrow" as kind:
            yield from _table_rows(path, column, kind)
        case ".csv" | ".tsv" as kind:
            csv.field_size_limit(sys.maxsize)
            with text_of(path) as file:
                yield from csv.DictReader(file, delimiter="," if kind == ".csv" else "\t")
        case _:
            yield from _json_rows(path)


def text_of(path: Path) -> io.TextIOWrapper:
    """A file for reading as UTF-8, decompressed, without a byte order mark."""
    if path.suffix.lower() == ".zst":
        import pyarrow as pa

        opened: Any = pa.input_stream(str(path), compression="zstd")
    else:
        opened = OPENERS.get(path.suffix.lower(), open)(path, "rb")
    return io.TextIOWrapper(opened, encoding="utf-8-sig")


def _json_rows(path: Path) -> Iterator[Row]:
    """Of JSON lines, or of one array of objects."""
    with text_of(path) as file:
        start = file.read(CHUNK_CHARS).lstrip()
    with text_of(path) as file:
        rows = _json_array(file) if start.startswith("[") else _json_lines(file)
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict):
                raise ValueError(f"row {number} is no JSON object")
            yield row


def _json_array(file: io.TextIOWrapper) -> Iterable[Any]:
    return json.load(file, object_pairs_hook=no_key_twice)


def _json_lines(file: io.TextIOWrapper) -> Iterator[Any]:
    for number, line in enumerate(file, start=1):
        try:
            if line.strip():
                yield json.loads(line, object_pairs_hook=no_key_twice)
        except (ValueError, RecursionError) as error:
            deep = isinstance(error, RecursionError)
            what = f"line {number} is nested too deeply" if deep else f"line {number}: {error}"
            raise ValueError(what) from None


def _table_rows(path: Path, column: str, kind: str) -> Iterator[Row]:
    if kind == ".arrow":
        import datasets

        yield from datasets.Dataset.from_file(str(path))  # type: ignore[misc]
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        # One thread, which ends with the reading: others can crash a program that ends.
        columns = [column] if column in names else names
        for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
            yield from batch.to_pylist()


def saved_rows(path: Path, split: str | None) -> Iterable[Any]:
    """The rows of a folder that `save_to_disk` wrote."""
    import datasets

    saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.Dataset):
        return saved
    name = split or ("train" if "train" in saved else next(iter(saved)))
    if name not in saved:
        raise InputError(
            f"the dataset in {path} has no split {name!r}: give --dataset-split, one of "
            f"{', '.join(map(str, saved))}"
        )
    return saved[name]


def paragraphs(file: io.TextIOWrapper) -> Iterator[str]:
    """What stands between empty lines."""
    rest = ""
    while chunk := file.read(CHUNK_CHARS):
        *whole, rest = (rest + chunk).split("\n\n")
        yield from whole
    yield rest
