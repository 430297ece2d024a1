"""The rules by which installed text gets its labels. Each is a few lines, and says what it does.

A rule yields texts of a module with their class, True for the second of its two names. Labels are
of rules, not of readers: `question` takes what ends with a question mark for a question.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from activation_cache.text.probing.installed import Installed, Parameter

Labelled = Iterator[tuple[str, bool]]

NUMBERS = re.compile(r"\b(?:int|float)\b")
STRINGS = re.compile(r"\bstr(?:ing)?\b")
NUMERAL = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)")
QUOTED = re.compile(r"\"[^\"]+\"|(?<!\w)'[^']+'(?!\w)")
PASSIVE = re.compile(r"\b(?:is|are|was|were|be|been|being)(?: not| \w+ly)? \w+ed\b")
MODAL = re.compile(r"\b(?:must|should|may|might|can|cannot)\b", re.IGNORECASE)
NEGATION = re.compile(r"\b(?:not|no|never|none|cannot)\b|n't\b", re.IGNORECASE)
DETERMINERS = frozenset(
    ("The", "A", "An", "This", "These", "Those", "Each", "Every", "All", "Any", "Some")
)


@dataclass(frozen=True)
class Rule:
    classes: tuple[str, str]
    label: Callable[[Installed], Labelled]
    document: Callable[[Installed, bool], str] = lambda of, _: of.name
    """Which document a text with this label is of."""


def code_or_prose(of: Installed) -> Labelled:
    """Code of an example, its prompts taken away, against a sentence of a docstring."""
    yield from ((text, True) for text in of.examples)
    yield from ((text, False) for text in of.sentences)


def python_or_cpp(of: Installed) -> Labelled:
    """Python of an example in a docstring against C++ of a header, without comments."""
    yield from ((text, False) for text in of.examples)
    yield from ((text, True) for text in of.cpp_code)


def origin(of: Installed) -> Labelled:
    """A sentence of a docstring of the standard library against one of PyTorch."""
    if of.package in ("python", "torch"):
        yield from ((text, of.package == "torch") for text in of.sentences)


def parameter_type(of: Installed) -> Labelled:
    """Name and description of a parameter, without its type, which is a string or a number."""
    for parameter in of.parameters:
        is_string, is_number = (bool(kind.search(parameter.kind)) for kind in (STRINGS, NUMBERS))
        if is_string != is_number:
            yield _described(parameter), is_string


def deprecation(of: Installed) -> Labelled:
    """A sentence with a word that begins with deprecat, against others."""
    yield from ((text, "deprecat" in text.lower()) for text in _all_sentences(of))


def question(of: Installed) -> Labelled:
    """A sentence that ended with a question mark against one that ended with a full stop; the mark
    is taken away, so that the words must tell."""
    for text in _all_sentences(of):
        if text[-1] in "?.":
            yield text[:-1].rstrip(), text[-1] == "?"


def numeral(of: Installed) -> Labelled:
    """A sentence with a number in digits against one without a digit."""
    for text in of.sentences:
        has = NUMERAL.search(text) is not None
        if has or not re.search(r"\d", text):
            yield text, has


def quotation(of: Installed) -> Labelled:
    """A sentence with words in quotation marks against one without any such mark."""
    for text in _all_sentences(of):
        has = QUOTED.search(text) is not None
        if has or not re.search(r"[\"']", text):
            yield text, has


def first_sentence(of: Installed) -> Labelled:
    """The first sentence of a docstring against a later one."""
    for sentences in of.prose:
        yield from ((text, position == 0) for position, text in enumerate(sentences))


def verb_or_noun(of: Installed) -> Labelled:
    """A first sentence that begins with a verb (a word in -s before a determiner, as in "Returns
    the") against one that begins with a noun phrase (a determiner)."""
    for first, *_ in of.prose:
        words = first.split()
        is_verb = words[0].endswith("s") and words[1:2] and words[1].title() in DETERMINERS
        if is_verb or words[0] in DETERMINERS:
            yield first, bool(is_verb) and words[0] not in DETERMINERS


def passive(of: Installed) -> Labelled:
    """A sentence with a form of be before a word in -ed, an adverb between them or not, against one
    without."""
    yield from ((text, bool(PASSIVE.search(text))) for text in of.sentences)


def modal(of: Installed) -> Labelled:
    """A sentence with must, should, may, might or can against one without."""
    yield from ((text, bool(MODAL.search(text))) for text in of.sentences)


def negation(of: Installed) -> Labelled:
    """A sentence with not, no, never, none, cannot or n't against one without."""
    yield from ((text, bool(NEGATION.search(text))) for text in of.sentences)


def comment_or_docstring(of: Installed) -> Labelled:
    """A sentence of a comment in the source against one of a docstring."""
    yield from ((text, True) for text in of.comments)
    yield from ((text, False) for text in of.sentences)


RULES: Mapping[str, Rule] = {
    "code_or_prose": Rule(("prose", "code"), code_or_prose),
    "python_or_cpp": Rule(
        ("Python", "C++"), python_or_cpp, lambda of, label: of.cpp_name if label else of.name
    ),
    "origin": Rule(("standard library", "PyTorch"), origin),
    "parameter_type": Rule(("number", "string"), parameter_type),
    "deprecation": Rule(("no notice", "notice"), deprecation),
    "question": Rule(("statement", "question"), question),
    "numeral": Rule(("no numeral", "numeral"), numeral),
    "quotation": Rule(("no quotation", "quotation"), quotation),
    "first_sentence": Rule(("later sentence", "first sentence"), first_sentence),
    "verb_or_noun": Rule(("noun phrase", "verb"), verb_or_noun),
    "passive": Rule(("active", "passive"), passive),
    "modal": Rule(("no modal verb", "modal verb"), modal),
    "negation": Rule(("no negation", "negation"), negation),
    "comment_or_docstring": Rule(("docstring", "comment"), comment_or_docstring),
}
"""By name. The docstring of `label` is the rule in words."""


def _all_sentences(of: Installed) -> Iterator[str]:
    yield from of.sentences
    yield from of.comments


def _described(parameter: Parameter) -> str:
    return f"{parameter.name}: {parameter.about}"
