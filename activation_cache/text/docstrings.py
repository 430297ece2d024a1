"""The documentation strings of the installed packages: the text that every installation has."""

import ast
import gc
import hashlib
import importlib.util
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from activation_cache.common.memory import give_back_freed_memory
from activation_cache.text.config import Split
from activation_cache.text.split import is_held_out

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

Documentable = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
"""The nodes of a syntax tree that can have a docstring."""

LARGE_FILE = 2**18
"""Bytes of a source file whose syntax tree takes tens of megabytes."""


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
    for name, path in module_files():
        if not is_held_out(name) and (text := _unseen_documentation(path, seen)):
            yield text


@cache
def _held_out_docstrings() -> tuple[list[str], frozenset[int]]:
    """The held-out documents, about 1 MB, and the hashes of their paragraphs."""
    seen: set[int] = set()
    texts = [
        _unseen_documentation(path, seen) for name, path in module_files() if is_held_out(name)
    ]
    return [text for text in texts if text], frozenset(seen)


@cache
def module_files() -> list[tuple[str, Path]]:
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
    tree = syntax_tree(path)
    if tree is None:
        return ""
    kept: list[str] = []
    for node in documentable(tree):
        for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
            words = " ".join(paragraph.split())
            if words and hash(words) not in seen:
                seen.add(hash(words))
                kept.append(paragraph.strip("\n"))
    if path.stat().st_size > LARGE_FILE:
        del tree
        give_back_freed_memory()
    return "\n\n".join(kept)


def syntax_tree(path: Path) -> ast.Module | None:
    """Of a source file; None where it is none that can be read."""
    try:
        with warnings.catch_warnings(), _collector_paused():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # templates and deliberately broken files
        return None


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


def documentable(node: ast.AST) -> Iterator[Documentable]:
    """A module's nodes that can have a docstring, in source order.

    Only statements are visited: expressions are most of a tree and hold no docstrings.
    """
    if isinstance(node, Documentable):
        yield node
    for block in ("body", "handlers", "cases", "orelse", "finalbody"):
        for statement in getattr(node, block, ()):
            yield from documentable(statement)
