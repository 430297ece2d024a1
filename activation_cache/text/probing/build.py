"""Probe sets from installed text: the same on every machine with the same packages."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from activation_cache.common.errors import InputError, refuse_below
from activation_cache.text.probing.installed import CHARS, Installed, installed_text
from activation_cache.text.probing.rules import RULES, Rule
from activation_cache.text.probing.sets import LEAST_DOCUMENTS, ProbeSet

N_PER_CLASS = 200
"""Texts of each class, where the installed text has so many."""
N_MODULES = 4000
"""Modules that are read at most, of about 9,000."""
PER_DOCUMENT = 3
"""Texts of one class from one document, at most: many documents make narrow intervals."""
BINS_PER_DOUBLING = 2
"""Of lengths, in which both classes have as many texts."""


def probe_sets(
    names: Sequence[str] = tuple(RULES), *, n_per_class: int = N_PER_CLASS
) -> list[ProbeSet]:
    """The named sets, from one walk through the installed documentation.

    Both classes have as many texts, and as many of each length, so that length tells nothing. Two
    texts with the same lower-case words are one, so that copied documentation is on one side.
    Raises `InputError` for an unknown name, or where the installed text has too few of a class.
    """
    for name in names:
        if name not in RULES:
            raise InputError(f"no probe set {name!r}: choose from {', '.join(RULES)}")
    refuse_below(LEAST_DOCUMENTS * PER_DOCUMENT, n_per_class=n_per_class)
    pools = {name: _Pool(RULES[name], n_per_class) for name in names}
    with_headers = "python_or_cpp" in pools
    for module in islice(installed_text(with_headers=with_headers), N_MODULES):
        missing = [pool for pool in pools.values() if pool.n_matched < n_per_class]
        if not missing:
            break
        for pool in missing:
            pool.add(module)
    return [pool.drawn(name) for name, pool in pools.items()]


Example = tuple[str, str]
"""A text and its document."""


@dataclass
class _Pool:
    """The texts found for a set, by class and length."""

    rule: Rule
    n_wanted: int
    found: defaultdict[int, tuple[list[Example], list[Example]]] = field(
        default_factory=lambda: defaultdict(lambda: ([], []))
    )
    seen: set[str] = field(default_factory=set)
    n_matched: int = 0

    def add(self, module: Installed) -> None:
        n_of_document: Counter[tuple[str, bool]] = Counter()
        for text, label in self.rule.label(module):
            document = self.rule.document(module, label)
            words = " ".join(re.findall(r"\b[a-z]+\b", text))
            is_full = n_of_document[document, label] == PER_DOCUMENT
            if len(text) not in CHARS or is_full or words in self.seen:
                continue
            self.seen.add(words)
            n_of_document[document, label] += 1
            self.found[_length_bin(text)][label].append((text, document))
        self.n_matched = sum(min(map(len, both)) for both in self.found.values())

    def drawn(self, name: str) -> ProbeSet:
        """As many of both classes from each bin, in turn the ones found first."""
        pairs = [
            pair for both in self.found.values() for pair in enumerate(zip(*both, strict=False))
        ]
        first = [pair for _, pair in sorted(pairs, key=lambda of: of[0])][: self.n_wanted]
        rows = [(*example, label) for pair in first for label, example in enumerate(pair)]
        texts, documents, labels = zip(*rows, strict=True) if rows else ((), (), ())
        return ProbeSet(name, texts, labels, documents, self.rule.classes)


def _length_bin(text: str) -> int:
    return int(BINS_PER_DOUBLING * math.log2(len(text)))
