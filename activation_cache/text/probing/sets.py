"""A set of labelled texts for probing."""

import csv
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from activation_cache.common.errors import InputError, described
from activation_cache.common.schema import listed, shown
from activation_cache.text.files import text_of

LEAST_DOCUMENTS = 10
"""Documents that each class must have: fewer do not make five folds with inner folds."""

COLUMNS = ("text", "label")
"""Of a user's file. A third one, document, may say which texts belong together."""


@dataclass(frozen=True)
class ProbeSet:
    """Texts, the class of each, and the document that each is from.

    Raises `InputError` for one class only, too few documents, and a text that is in two documents:
    a split by document could have it on both sides.
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[int, ...]
    """0 or 1."""
    documents: tuple[str, ...]
    classes: tuple[str, str]
    """What the labels 0 and 1 mean."""

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.labels) == len(self.documents):
            raise InputError(
                f"{self.name} has {len(self.texts)} texts, {len(self.labels)} labels and "
                f"{len(self.documents)} documents: give one of each for every text"
            )
        self._refuse_few_documents()
        self._refuse_repeated_texts()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def digest(self) -> str:
        """Of all that is in it: other versions of the installed packages make other sets."""
        rows = zip(self.texts, self.labels, self.documents, strict=True)
        return hashlib.blake2b(repr([*rows]).encode(), digest_size=8).hexdigest()

    def _refuse_few_documents(self) -> None:
        for label, meaning in enumerate(self.classes):
            rows = zip(self.labels, self.documents, strict=True)
            n = len({document for of, document in rows if of == label})
            if n == 0:
                raise InputError(
                    f"one class only: no text of {self.name} is {shown(meaning)}: give texts of "
                    f"both classes"
                )
            if n < LEAST_DOCUMENTS:
                raise InputError(
                    f"too few documents: {self.name} has texts that are {shown(meaning)} of {n}, "
                    f"and {LEAST_DOCUMENTS} are needed: give texts of more documents"
                )

    def _refuse_repeated_texts(self) -> None:
        found: dict[str, str] = {}
        for text, document in zip(self.texts, self.documents, strict=True):
            other = found.setdefault(text, document)
            if other != document:
                raise InputError(
                    f"the probe set leaks: {self.name} has the text {shown(text)} in the documents "
                    f"{shown(other)} and {shown(document)}: remove one, or give both one document"
                )


def from_csv(path: str | Path) -> ProbeSet:
    """The set of a CSV file with the columns text and label, which has two values.

    The column document says which texts belong together; without it each row is a document. The
    label that comes first in sorted order is class 0. Raises `InputError` for a file that cannot
    be read, and what `ProbeSet` raises.
    """
    path = Path(path)
    try:
        rows = list(_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else described(error)
        raise InputError(
            f"cannot read {path}: {why}; give a CSV file in UTF-8 with the columns text and label"
        ) from error
    if not rows:
        raise InputError(f"{path} has no rows: give texts with labels")
    found = sorted({label for _, label, _ in rows})
    if len(found) != 2:
        raise InputError(
            f"{path} has {len(found)} label{'s' * (len(found) != 1)} ({listed(found)}): give texts "
            f"of two classes"
        )
    texts, labels, documents = zip(*rows, strict=True)
    numbers = tuple(found.index(label) for label in labels)
    return ProbeSet(path.stem, texts, numbers, documents, (found[0], found[1]))


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Text, label and document of each row."""
    csv.field_size_limit(sys.maxsize)
    with text_of(path) as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames or ()
        for column in COLUMNS:
            if column not in names:
                raise InputError(
                    f"{path} has no column {column!r}: it has {listed(names)}; name the columns in "
                    f"the first line"
                )
        wanted = (*COLUMNS, *(name for name in ("document",) if name in names))
        for number, row in enumerate(reader, start=1):
            for column in wanted:
                if not (row[column] or "").strip():
                    raise InputError(
                        f"row {number} of {path} has no {column}: fill it, or leave out the row"
                    )
            yield row["text"], row["label"].strip(), (row.get("document") or f"row {number}")
