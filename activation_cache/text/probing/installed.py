"""Installed text in the units that probe sets are made of: sentences, examples, parameters, code.

One Python module is one document. The modules that are held out of training come first, since a
dictionary that was trained on docstrings has not seen them.
"""

import ast
import hashlib
import importlib.util
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat
from pathlib import Path

from activation_cache.text.docstrings import documentable, module_files, syntax_tree
from activation_cache.text.split import is_held_out

CHARS = range(30, 401)
"""Lengths of the texts: 400 characters fit into a context of 128 tokens."""

MARKUP = re.compile(
    r">>>|```|::|^\s*[-*|+=~#:]|\|\s|__|=\s|\w\(|[{}\\<>]|^\s*\w+:\s*$|Copyright|License",
    re.MULTILINE,
)
"""What prose does not have: of code, lists, tables, headings, reStructuredText and licences."""

SENTENCE_END = re.compile(r"(?<=[a-z0-9)`'\"][.?!])\s+(?=[A-Z`'\"(])")

HEADERS = ("torch", "c10")
"""Folders of the C++ headers that PyTorch brings. The operators' are generated, and left out."""


@dataclass(frozen=True)
class Parameter:
    """As documented in the style of Google or of NumPy."""

    name: str
    kind: str
    about: str


@dataclass(frozen=True)
class Installed:
    """The text of a module."""

    name: str
    docstrings: tuple[str, ...]
    comments: tuple[str, ...]
    """Whole sentences from comments in the source."""
    cpp: str = ""
    """A C++ header, of another document: `cpp_name`."""
    cpp_name: str = ""

    @property
    def package(self) -> str:
        return self.name.split("/")[0]

    @cached_property
    def prose(self) -> list[list[str]]:
        """Of each docstring that begins with plain prose, the sentences of its prose."""
        begun = (of.split("\n\n") for of in self.docstrings)
        return [_sentences_in(parts) for parts in begun if is_prose(parts[0])]

    @cached_property
    def sentences(self) -> list[str]:
        """Of the prose of every docstring, and it may begin with something else."""
        return [s for text in self.docstrings for s in _sentences_in(text.split("\n\n"))]

    @property
    def examples(self) -> Iterator[str]:
        """The code of examples, without prompts and without what it prints."""
        for text in self.docstrings:
            fenced = re.findall(r"```(?:python|py)\n(.*?)```", text, re.DOTALL)
            prompted = re.findall(r"(?:^ *(?:>>>|\.\.\.) .*\n?)+", text, re.MULTILINE)
            for code in (*fenced, *prompted):
                plain = re.sub(r"^ *(?:>>>|\.\.\.) ?", "", code, flags=re.MULTILINE)
                if kept := clipped_code(plain):
                    yield kept

    @property
    def cpp_code(self) -> Iterator[str]:
        """Pieces of a header between empty lines, without comments."""
        plain = re.sub(r"//[^\n]*|/\*.*?\*/", "", self.cpp, flags=re.DOTALL)
        for piece in re.split(r"\n\s*\n", plain):
            if ";" in piece and "#" not in piece and (kept := clipped_code(piece)):
                yield kept

    @property
    def parameters(self) -> Iterator[Parameter]:
        for text in self.docstrings:
            google = r"^ *(\w+) \(([^)\n]+)\): *\n?(.+(?:\n {8,}.+)*)"
            numpy = r"^(\w+) : (.+)\n((?: +.+\n?)+)"
            for name, kind, about in chain(
                re.findall(google, text, re.MULTILINE), re.findall(numpy, text, re.MULTILINE)
            ):
                yield Parameter(name, kind, " ".join(about.split()))


def installed_text(*, with_headers: bool) -> Iterator[Installed]:
    """The text of every module of the documented packages, in a fixed order."""
    files = sorted(module_files(), key=lambda module: not is_held_out(module[0]))
    headers = chain(_headers() if with_headers else (), repeat(("", None)))
    for (name, path), (cpp_name, cpp_path) in zip(files, headers, strict=False):
        tree = syntax_tree(path)
        if tree is None:
            continue
        docstrings = (ast.get_docstring(node) for node in documentable(tree))
        cpp = "" if cpp_path is None else cpp_path.read_text(encoding="utf-8", errors="replace")
        comments = _comments(path.read_text(encoding="utf-8"))
        yield Installed(name, tuple(d for d in docstrings if d), comments, cpp, cpp_name)


def _headers() -> Iterator[tuple[str, Path]]:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return
    root = Path(spec.origin).parent / "include"
    found = [path for folder in HEADERS for path in (root / folder).rglob("*.h")]
    named = ((str(path.relative_to(root)), path) for path in found)
    yield from sorted(named, key=lambda of: hashlib.blake2b(of[0].encode()).digest())


def _sentences_in(paragraphs: list[str]) -> list[str]:
    """The sentences of the paragraphs that are prose."""
    prose = (" ".join(paragraph.split()) for paragraph in paragraphs if is_prose(paragraph))
    return [sentence for paragraph in prose for sentence in SENTENCE_END.split(paragraph)]


def _comments(source: str) -> tuple[str, ...]:
    """The sentences of the comments that stand on their own lines."""
    blocks = re.findall(r"(?:^ *# .*\n)+", source, re.MULTILINE)
    return tuple(_sentences_in([re.sub(r"^ *# ?", "", of, flags=re.MULTILINE) for of in blocks]))


def is_prose(text: str) -> bool:
    """Whether it begins with a capital, ends as a sentence does, and has no markup of code."""
    words = text.strip()
    return words[:1].isupper() and words[-1] in ".?!" and MARKUP.search(words) is None


def clipped_code(code: str) -> str:
    """Its first lines, as many as fit; nothing where that is too short."""
    kept = ""
    for line in textwrap.dedent(code).strip("\n").splitlines(keepends=True):
        if len(kept) + len(line) >= CHARS.stop:
            break
        kept += line
    return kept.strip() if len(kept.strip()) in CHARS else ""
