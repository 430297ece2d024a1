"""Probe sets that several modules use."""

import pytest

from activation_cache.text.probing.build import probe_sets
from activation_cache.text.probing.rules import RULES
from activation_cache.text.probing.sets import ProbeSet

RARE = {"deprecation", "question"}
"""Sets that take thousands of modules: the slow test builds them."""


@pytest.fixture(scope="session")
def built() -> dict[str, ProbeSet]:
    names = [name for name in RULES if name not in RARE]
    return {of.name: of for of in probe_sets(names, n_per_class=30)}
