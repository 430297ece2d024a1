"""Where text comes from: installed documentation, local files, or a dataset on the hub.

Every source is split by document into `train` and `held_out`. The split is a hash of the document's
name or text, so it is the same in every process and does not move when documents are added.
"""

import ast
import gc
import glob
import hashlib
import importlib.util
import json
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from activation_cache.common.errors import InputError, described
from activation_cache.common.memory import give_back_freed_memory
from activation_cache.common.network import hub_is_reachable
from activation_cache.text.retries import causes, patient_rows

Split = Literal["train", "held_out"]

DOCSTRINGS = "docstrings"
"""The source that every installation has: see `docstring_documents`."""

HELD_OUT_EVERY = 20
"""One document in this many is held out of training."""

DOCUMENTED_PACKAGES = (
    "torch",
    "transformers",
    "sympy",
    "pandas",
    "networkx",
    "numpy",
    "datasets",
    "huggingface_hub",
    "transformer_lens",
    "wandb",
)
"""Packages that every installation of this project brings along, the standard library aside."""

LOCAL_FORMATS = {".txt": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}

Documentable = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
"""The nodes of a syntax tree that can have a docstring."""

LARGE_FILE = 2**18
"""Bytes of a source file whose syntax tree takes tens of megabytes."""

MISSING = object()

SUSPICIOUSLY_MANY_BRACKETS = 500

PLAIN_TEXT_DOCUMENT_CHARS = 2_000
"""Plain text has no document marks: paragraphs are gathered into documents of about this length."""


def documents(source: str, split: Split, text_column: str = "text") -> Iterator[str]:
    """Yield the documents of one split of a source, always in the same order.

    `source` is `"docstrings"`, a local .txt, .json, .jsonl or .parquet file, or a dataset on the
    Hugging Face hub, which is streamed: `patient_rows` says what happens where that fails or
    stalls. Raises `InputError` where it cannot be read.
    """
    if source == DOCSTRINGS:
        return docstring_documents(split)
    texts = _texts(source, text_column)
    if source.endswith(".txt"):
        texts = _gather_paragraphs(texts)
    return (text for text in texts if is_held_out(text) == (split == "held_out"))


def is_held_out(key: str) -> bool:
    """Whether the document with this name or text belongs to the held-out split."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) % HELD_OUT_EVERY == 0


# Installed documentation -------------------------------------------------------------------------


def docstring_documents(split: Split) -> Iterator[str]:
    """Yield the documentation strings of the installed packages, one document per module.

    About 24 MB of English in a fixed shuffled order, read from source files without importing them.
    A paragraph is kept only where it is first seen, and the held-out modules are read first, so
    that no paragraph of the held-out split occurs in the training split.
    """
    held_out, paragraphs = _held_out_docstrings()
    if split == "held_out":
        yield from held_out
        return
    seen = set(paragraphs)
    for name, path in _module_files():
        if not is_held_out(name) and (text := _unseen_documentation(path, seen)):
            yield text


@cache
def _held_out_docstrings() -> tuple[list[str], frozenset[int]]:
    """The held-out documents, about 1 MB, and the hashes of their paragraphs."""
    seen: set[int] = set()
    texts = [
        _unseen_documentation(path, seen) for name, path in _module_files() if is_held_out(name)
    ]
    return [text for text in texts if text], frozenset(seen)


@cache
def _module_files() -> list[tuple[str, Path]]:
    """Every module of the documented packages as (name, file), shuffled by the hash of its name."""
    roots = {"python": Path(sysconfig.get_path("stdlib"))}
    for package in DOCUMENTED_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            roots[package] = Path(spec.origin).parent
    modules: list[tuple[str, Path]] = []
    for package, root in roots.items():
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).parts
            if not {"site-packages", "test", "tests"} & set(parts):
                modules.append(("/".join((package, *parts)), path))
    return sorted(modules, key=lambda module: hashlib.blake2b(module[0].encode()).digest())


def _unseen_documentation(path: Path, seen: set[int]) -> str:
    """The docstrings of a module in source order, less the paragraphs whose hashes are in `seen`:
    theirs are added."""
    try:
        with warnings.catch_warnings(), _collector_paused():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # templates and deliberately broken files
        return ""
    kept: list[str] = []
    for node in _documentable(tree):
        for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
            words = " ".join(paragraph.split())
            if words and hash(words) not in seen:
                seen.add(hash(words))
                kept.append(paragraph.strip("\n"))
    if path.stat().st_size > LARGE_FILE:
        del tree
        give_back_freed_memory()
    return "\n\n".join(kept)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Parsing makes so many objects that looking for garbage among them would double its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _documentable(node: ast.AST) -> Iterator[Documentable]:
    """A module's nodes that can have a docstring, in source order.

    Only statements are visited: expressions are most of a tree and hold no docstrings.
    """
    if isinstance(node, Documentable):
        yield node
    for block in ("body", "handlers", "cases", "orelse", "finalbody"):
        for statement in getattr(node, block, ()):
            yield from _documentable(statement)


# Files and datasets ------------------------------------------------------------------------------


def _local_rows(path: Path) -> Iterable[dict[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong, the error says
    if not path.is_file():
        raise InputError(f"no text file at {path}: give an existing .txt, .jsonl or .parquet file")
    if path.suffix not in LOCAL_FORMATS:
        raise InputError(
            f"cannot read text from {path}: must end in one of {', '.join(LOCAL_FORMATS)}"
        )
    if path.stat().st_size == 0:
        raise InputError(f"the text file {path} is empty: give one with text in it")
    if LOCAL_FORMATS[path.suffix] == "json":
        _refuse_deep(path, path.stat().st_mtime_ns)
    options: dict[str, Any] = {"sample_by": "paragraph"} if path.suffix == ".txt" else {}
    return datasets.load_dataset(
        LOCAL_FORMATS[path.suffix],
        data_files=glob.escape(str(path)),  # a name, not a pattern
        split="train",
        streaming=True,
        **options,
    )


@cache
def _refuse_deep(path: Path, _version: int) -> None:
    """Raise `InputError` for JSON so deep that reading it would end the process: pyarrow recurses.

    Only a line of many brackets, which may be text, is looked into.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.count(b"{") + line.count(b"[") < SUSPICIOUSLY_MANY_BRACKETS:
                continue
            try:
                json.loads(line)
            except RecursionError as error:
                raise InputError(
                    f"cannot read text from {path}: line {number} is nested too deeply"
                ) from error
            except ValueError:
                continue  # whoever reads it will say so


def _hub_rows(source: str) -> Iterable[dict[str, Any]]:
    import datasets

    if not hub_is_reachable():
        raise InputError(
            f"cannot read the dataset {source!r}: the hub cannot be reached; go online, or give "
            f"'docstrings' or a local .txt, .jsonl or .parquet file"
        )
    return datasets.load_dataset(source, split="train", streaming=True)


def _texts(source: str, text_column: str) -> Iterator[str]:
    path = Path(source)
    is_local = path.suffix in LOCAL_FORMATS or path.exists()
    try:
        rows = _local_rows(path) if is_local else patient_rows(source, partial(_hub_rows, source))
        for row in rows:
            text = row.get(text_column, MISSING)
            if text is None:
                continue
            if not isinstance(text, str):
                columns = ", ".join(row)
                raise InputError(f"{source} has no text column {text_column!r}: it has {columns}")
            if text.strip():
                yield text
    except InputError:
        raise
    except Exception as error:  # the readers of `datasets` raise many kinds
        raise InputError(
            f"cannot read text from {source} ({described(causes(error)[-1])}): give a hub dataset, "
            f"UTF-8 text, JSON lines or parquet"
        ) from error


def _gather_paragraphs(paragraphs: Iterable[str]) -> Iterator[str]:
    gathered: list[str] = []
    length = 0
    for paragraph in paragraphs:
        gathered.append(paragraph)
        length += len(paragraph)
        if length >= PLAIN_TEXT_DOCUMENT_CHARS:
            yield "\n\n".join(gathered)
            gathered, length = [], 0
    if gathered:
        yield "\n\n".join(gathered)
