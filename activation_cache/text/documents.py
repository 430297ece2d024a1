"""The documents of a text, in a fixed order: of files, datasets on the hub, or several of them.

Every source is split by document into `train` and `held_out`.
"""

import json
from array import array
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from activation_cache.common.errors import InputError, described
from activation_cache.common.network import hub_is_reachable
from activation_cache.common.schema import listed, shown
from activation_cache.text.config import DOCSTRINGS, Split, TextConfig
from activation_cache.text.docstrings import docstring_documents
from activation_cache.text.files import (
    KNOWN,
    Row,
    files_of,
    format_of,
    is_local,
    is_saved_dataset,
    paragraphs,
    rows_of,
    saved_rows,
    text_of,
)
from activation_cache.text.retries import causes, patient_rows
from activation_cache.text.split import is_held_out

Messages = list[dict[str, Any]]
Document = str | tuple[int, ...] | Messages
"""A text, token ids of a pre-tokenised one, or the messages of a conversation."""

PLAIN_TEXT_DOCUMENT_CHARS = 2_000
"""Plain text has no document marks: paragraphs are gathered into documents of about this length."""

ROWS_WITHOUT_COLUMN = 1_000
"""Rows that may lack the column before it is not looked for any further."""


def documents(cfg: TextConfig, split: Split) -> Iterator[Document]:
    """Yield the documents of one split of a text, always in the same order.

    Of several datasets the next document is from the one that is furthest behind its share of the
    text; when one has ended, the others go on. Raises `InputError` where a text cannot be read.
    """
    each = [_of_source(source, cfg, split) for source in cfg.dataset]
    yield from each[0] if len(each) == 1 else _mixed(each, cfg.dataset_weight or (1.0,) * len(each))


def to_bytes(document: Document) -> bytes:
    """What tells one document from another."""
    if isinstance(document, str):
        return document.encode("utf-8", "surrogatepass")
    if isinstance(document, tuple):
        return array("q", document).tobytes()
    return json.dumps(document, sort_keys=True, default=str).encode()


def _mixed(sources: Iterable[Iterator[Document]], weights: Iterable[float]) -> Iterator[Document]:
    """Documents of several sources, each with its share of the length."""
    served = {source: (0.0, 1 / weight) for source, weight in zip(sources, weights, strict=True)}
    while served:
        behind = min(served, key=lambda source: served[source][0])
        document = next(behind, None)
        if document is None:
            del served[behind]
            continue
        length, per_length = served[behind]
        served[behind] = (length + len(to_bytes(document)) * per_length, per_length)
        yield document


def _of_source(source: str, cfg: TextConfig, split: Split) -> Iterator[Document]:
    if source == DOCSTRINGS:
        yield from docstring_documents(split)
        return
    for place, found in _parts(source, cfg):
        try:
            for document in found:
                if is_held_out(_key(document)) == (split == "held_out"):
                    yield document
        except InputError:
            raise
        except Exception as error:  # the readers raise many kinds
            cause = causes(error)[-1]
            why = str(cause) if type(cause) is ValueError else described(cause)
            raise InputError(
                f"cannot read text from {place}: {why}; give a hub dataset, UTF-8 text, JSON "
                f"lines or parquet"
            ) from error


def _key(document: Document) -> bytes:
    """What decides on the split; `UnicodeEncodeError` for a text that no tokenizer can read."""
    return document.encode() if isinstance(document, str) else to_bytes(document)


def _parts(source: str, cfg: TextConfig) -> Iterator[tuple[str, Iterator[Document]]]:
    """The places that a source consists of, for messages, and the documents of each."""
    if not is_local(source):
        rows = patient_rows(source, partial(_hub_rows, source, cfg))
        yield source, _of_rows(rows, source, cfg)
    elif is_saved_dataset(Path(source)):
        yield source, _of_rows(saved_rows(Path(source), cfg.dataset_split), source, cfg)
    else:
        for path in files_of(source):
            is_plain = format_of(path) == ".txt"
            rows = rows_of(path, cfg.column)
            yield (
                str(path),
                _of_plain_text(path, cfg) if is_plain else _of_rows(rows, str(path), cfg),
            )


# Rows --------------------------------------------------------------------------------------------


def _hub_rows(source: str, cfg: TextConfig) -> Iterable[Row]:
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong, the error says
    if not hub_is_reachable():
        raise InputError(
            f"cannot read the dataset {source!r}: the hub cannot be reached; go online, or give "
            f"'docstrings' or a local {KNOWN} file"
        )
    return datasets.load_dataset(
        source,
        cfg.dataset_config,
        split=cfg.dataset_split or "train",
        revision=cfg.dataset_revision,
        streaming=True,
    )


def _of_rows(rows: Iterable[Row], source: str, cfg: TextConfig) -> Iterator[Document]:
    """The column of each row; rows without it are passed over, unless none of many has it."""
    is_found, names = False, dict[str, None]()
    for number, row in enumerate(rows, start=1):
        value = row.get(cfg.column)
        if value is not None:
            is_found = True
            if document := _document(value, f"{source}", number, cfg):
                yield document
        elif not is_found:
            names |= dict.fromkeys(row)
            if number == ROWS_WITHOUT_COLUMN:
                break
    if names and not is_found and cfg.column not in names:
        raise InputError(f"{source} has no {_kind(cfg)} {cfg.column!r}: it has {listed(names)}")


def _document(value: Any, source: str, number: int, cfg: TextConfig) -> Document | None:
    """A value of the column as a document; None where it is blank."""
    if cfg.tokens_column is not None:
        if isinstance(value, list) and all(type(i) is int for i in value):
            return tuple(value) or None
    elif cfg.chat:
        if isinstance(value, list) and all(isinstance(m, dict) and "role" in m for m in value):
            return value or None
    elif isinstance(value, str):
        return value if value.strip() else None
    raise InputError(
        f"{source} has no {_kind(cfg)} {cfg.column!r}: in row {number} it holds {shown(value)}"
    )


def _kind(cfg: TextConfig) -> str:
    if cfg.tokens_column is not None:
        return "column of token ids"
    return "column of messages with a role" if cfg.chat else "text column"


# Plain text --------------------------------------------------------------------------------------


def _of_plain_text(path: Path, cfg: TextConfig) -> Iterator[Document]:
    if cfg.tokens_column is not None or cfg.chat:
        raise InputError(f"{path} is plain text, which has no columns: give JSON lines or parquet")
    with text_of(path) as file:
        match cfg.txt_documents:
            case "file":
                parts: Iterable[str] = [file.read()]
            case "line":
                parts = (line.rstrip("\n") for line in file)
            case "paragraph":
                parts = paragraphs(file)
            case "gathered":
                parts = _gathered(paragraphs(file))
        yield from (part for part in parts if part.strip())


def _gathered(paragraphs: Iterable[str]) -> Iterator[str]:
    """Paragraphs together, until they have the length; one that is longer, by its lines."""
    gathered: list[str] = []
    length = 0
    for paragraph in paragraphs:
        is_long = len(paragraph) > PLAIN_TEXT_DOCUMENT_CHARS
        *pieces, last = _gathered_lines(paragraph) if is_long else [paragraph]
        for piece in pieces:
            yield "\n\n".join([*gathered, piece])
            gathered, length = [], 0
        if not last.strip():
            continue
        gathered.append(last)
        length += len(last)
        if length >= PLAIN_TEXT_DOCUMENT_CHARS:
            yield "\n\n".join(gathered)
            gathered, length = [], 0
    if gathered:
        yield "\n\n".join(gathered)


def _gathered_lines(paragraph: str) -> list[str]:
    """A long paragraph in pieces of whole lines."""
    pieces, lines, length = list[str](), list[str](), 0
    for line in paragraph.split("\n"):
        lines.append(line)
        length += len(line)
        if length >= PLAIN_TEXT_DOCUMENT_CHARS:
            pieces.append("\n".join(lines))
            lines, length = [], 0
    return [*pieces, "\n".join(lines)]
