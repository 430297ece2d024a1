"""Dictionaries of other projects for a test to damage, one for each kind of file that there is."""

from pathlib import Path

import pytest
from faults.foreign import FOREIGN

import sae

EVERY = pytest.mark.parametrize("layout", FOREIGN)
WITH_CONFIG = [name for name, its in FOREIGN.items() if its.config_file]
OF_SAFETENSORS, OF_NPZ, OF_PT, OF_OBJECTS = "sparsify", "gemma_scope", "openai", "hoagy"
"""All layouts read their files alike: one for each kind of file that there is."""
KINDS = pytest.mark.parametrize("layout", [OF_SAFETENSORS, OF_NPZ, OF_PT])
PICKLED = pytest.mark.parametrize("layout", [OF_PT, OF_OBJECTS])


def weights_of(layout: str, folder: Path, data: bytes) -> Path:
    """A dictionary with something else for weights."""
    path = FOREIGN[layout].write(folder) / FOREIGN[layout].weights_file
    path.write_bytes(data)
    return folder


def config_of(layout: str, folder: Path, data: bytes | str) -> Path:
    path = FOREIGN[layout].write(folder) / str(FOREIGN[layout].config_file)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def refusal(path: Path) -> str:
    """The one line with which a dictionary is refused; nothing is left behind."""
    before = sorted(path.rglob("*"))
    with pytest.raises(sae.InputError) as raised:
        sae.load(path)
    assert sorted(path.rglob("*")) == before
    message = str(raised.value)
    assert message.isprintable() and len(message) < 1000
    return message
