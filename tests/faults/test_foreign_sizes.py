"""Dictionaries of other projects that declare more than they hold cost no memory."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults.foreign import D_IN, D_SAE, FOREIGN
from foreign_files import OF_NPZ, OF_PT, OF_SAFETENSORS, WITH_CONFIG, config_of, refusal, weights_of
from workshop import header_of, safetensors_of

import sae

pytestmark = pytest.mark.usefixtures("as_installed", "no_more_memory", "little_memory")


def bomb(path: Path, name: str, begin: bytes, n_bytes: int) -> bytes:
    """An archive of a file of zeros, with something before them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as to:
        to.write(begin)
        for _ in range(n_bytes // 2**20):
            to.write(bytes(2**20))
    data = path.read_bytes()
    path.unlink()
    return data


def npy(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def of_torch(edit: Callable[[bytes], bytes]) -> bytes:
    """What torch writes of 300 numbers, with another pickle."""
    valid, changed = io.BytesIO(), io.BytesIO()
    torch.save({"encoder.weight": torch.arange(300.0)}, valid)
    with zipfile.ZipFile(valid) as archive, zipfile.ZipFile(changed, "w") as to:
        for name in archive.namelist():
            data = archive.read(name)
            to.writestr(name, edit(data) if name.endswith("data.pkl") else data)
    return changed.getvalue()


def longer(data: bytes) -> bytes:
    """300, as a pickle says it, is 300 million."""
    assert b"M\x2c\x01" in data
    return data.replace(b"M\x2c\x01", b"J" + (300_000_000).to_bytes(4, "little"))


def stretched() -> bytes:
    buffer = io.BytesIO()
    torch.save({"encoder.weight": torch.ones(1).expand(2**20, 2**20)}, buffer)
    return buffer.getvalue()


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


SAFETENSORS_HUGE = {
    "a header of 10**15 bytes": safetensors_of(b"{}", b"", 10**15),
    "2**40 rows": safetensors_of(header_of(W_E=("F32", [2**40, 4], [0, 2**44]))),
    "2**40 empty rows": safetensors_of(header_of(W_E=("F32", [2**40, 0], [0, 0]))),
}
NPZ_HUGE = {
    f"an array of {shape}": zipped("W_enc.npy", npy(shape) + bytes(64))
    for shape in ("(1000000000000,)", "(-1,)", "(3.0,)")
}
NPZ_HUGE["a deep shape"] = zipped("W_enc.npy", npy("(" * 4000 + ")" * 4000))
NPZ_HUGE["code for a shape"] = zipped("W_enc.npy", npy("__import__('os').getpid()"))
PT_HUGE = {"more than is stored": of_torch(longer), "a row 2**20 times": stretched()}

HUGE = {OF_SAFETENSORS: SAFETENSORS_HUGE, OF_NPZ: NPZ_HUGE, OF_PT: PT_HUGE}


@pytest.mark.parametrize(
    ("layout", "name"), [(layout, name) for layout, its in HUGE.items() for name in its]
)
def test_weights_that_declare_more_than_they_hold_cost_nothing(
    tmp_path: Path, layout: str, name: str
) -> None:
    assert str(tmp_path) in refusal(weights_of(layout, tmp_path, HUGE[layout][name]))


@pytest.mark.parametrize(
    ("layout", "name", "begin"),
    [(OF_NPZ, "W_enc.npy", npy(f"({25 * 2**20},)")), (OF_PT, "archive/data/0", b"")],
)
def test_an_archive_that_swells_costs_nothing(
    tmp_path: Path, layout: str, name: str, begin: bytes
) -> None:
    n = 100 * 2**20
    data = bomb(tmp_path / "bomb", name, begin, n)
    assert len(data) < n / 500
    assert "far more than it has" in refusal(weights_of(layout, tmp_path, data))


def test_a_file_of_a_terabyte_of_holes_costs_nothing(tmp_path: Path) -> None:
    its = FOREIGN[OF_SAFETENSORS]
    path = its.write(tmp_path) / its.weights_file
    os.truncate(path, 2**40)
    assert "1,100 GB" in refusal(tmp_path)


@pytest.mark.parametrize("layout", WITH_CONFIG)
def test_a_size_of_10_to_the_15_costs_nothing(tmp_path: Path, layout: str) -> None:
    config = FOREIGN[layout].config
    for name in [name for name, value in config.items() if type(value) is int]:
        folder = config_of(layout, tmp_path, json.dumps(config | {name: 10**15}))
        try:
            loaded = sae.load(folder)
        except sae.InputError as error:
            assert str(error).isprintable()
        else:  # it means nothing for a dictionary like this one
            assert (loaded.d_in, loaded.d_sae) == (D_IN, D_SAE)
