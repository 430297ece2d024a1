"""Dictionaries of other projects come from strangers: damaged or hostile, each is one line."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults.foreign import D_IN, D_SAE, FOREIGN, Foreign
from workshop import UNREADABLE, MakesFolder, header_of, pickled, safetensors_of

import sae

pytestmark = pytest.mark.usefixtures("as_installed", "no_more_memory")

EVERY = pytest.mark.parametrize("layout", FOREIGN)
WITH_CONFIG = [name for name, its in FOREIGN.items() if its.config_file]
WITH_NPZ = [name for name, its in FOREIGN.items() if its.weights_file.endswith(".npz")]
WITH_PT = [name for name, its in FOREIGN.items() if its.weights_file.endswith(".pt")]
WITH_SAFETENSORS = [name for name, its in FOREIGN.items() if name not in (*WITH_NPZ, *WITH_PT)]


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


@EVERY
def test_what_is_damaged_below_is_loaded_as_it_is(tmp_path: Path, layout: str) -> None:
    loaded = sae.load(FOREIGN[layout].write(tmp_path))
    assert (loaded.d_in, loaded.d_sae) == (D_IN, D_SAE)
    assert torch.isfinite(loaded(torch.ones(2, D_IN))).all()


# Damage ------------------------------------------------------------------------------------------


@EVERY
def test_weights_that_are_cut_off_are_refused_wherever(tmp_path: Path, layout: str) -> None:
    valid = FOREIGN[layout].with_tensors(FOREIGN[layout].tensors)
    n = len(valid)
    for size in (0, 1, 7, 8, 100, n // 4, n // 2, 3 * n // 4, n - 64, n - 1):
        assert str(tmp_path) in refusal(weights_of(layout, tmp_path, valid[:size]))


def other_types(its: Foreign, tensor: torch.Tensor) -> list[torch.Tensor]:
    dtypes = [torch.int32, torch.bool, torch.complex64, torch.uint8]
    if not its.weights_file.endswith(".npz"):
        dtypes += [torch.float8_e4m3fn, torch.float8_e5m2]
    return [tensor.to(dtype) for dtype in dtypes]


def other_values(_its: Foreign, tensor: torch.Tensor) -> list[torch.Tensor]:
    damaged = []
    for value in (torch.nan, torch.inf, -torch.inf):
        damaged.append(tensor.clone())
        damaged[-1].view(-1)[-1] = value
    return [*damaged, torch.full_like(tensor, 1e300, dtype=torch.float64)]


def other_shapes(its: Foreign, tensor: torch.Tensor) -> list[torch.Tensor]:
    changed = [tensor[:0], tensor[None], tensor.sum()]
    if not (its.weights_file.startswith("params.") and tensor.shape == (D_IN, D_SAE)):
        changed += [tensor[:-1], torch.cat([tensor, tensor])]  # else it is that of a transcoder
    return [*changed, *([tensor.T, tensor.flatten()] if tensor.ndim == 2 else [])]


@EVERY
@pytest.mark.parametrize("damage", [other_types, other_values, other_shapes])
def test_weights_of_another_kind_are_refused(
    tmp_path: Path,
    layout: str,
    damage: Callable[[Foreign, torch.Tensor], list[torch.Tensor]],
) -> None:
    its = FOREIGN[layout]
    for name, tensor in its.tensors.items():
        for other in damage(its, tensor) if tensor.ndim else []:
            data = its.with_tensors(its.tensors | {name: other})
            assert str(tmp_path) in refusal(weights_of(layout, tmp_path, data))


@EVERY
def test_a_missing_tensor_and_one_too_many_are_refused(tmp_path: Path, layout: str) -> None:
    its = FOREIGN[layout]
    for name in its.tensors:
        rest = {of: tensor for of, tensor in its.tensors.items() if of != name}
        assert str(tmp_path) in refusal(weights_of(layout, tmp_path, its.with_tensors(rest)))
    more = its.tensors | {"magic\n\x1b[2J\u202e": torch.zeros(1)}
    assert str(tmp_path) in refusal(weights_of(layout, tmp_path, its.with_tensors(more)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # that these kinds of tensors are old or new
@pytest.mark.parametrize("layout", WITH_PT)
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path, layout: str) -> None:
    its = FOREIGN[layout]
    name = max(its.tensors, key=lambda of: its.tensors[of].numel())
    tensor = its.tensors[name]
    for other in (
        torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        tensor.to_sparse(),
        tensor.to_sparse_csr(),
        torch.empty_like(tensor, device="meta"),
        torch.nested.nested_tensor([tensor[0], tensor[1, :2]]),
        torch.ones(1).expand(tensor.shape),
    ):
        assert str(tmp_path) in refusal(
            weights_of(layout, tmp_path, its.with_tensors(its.tensors | {name: other}))
        )


@pytest.mark.parametrize("layout", WITH_NPZ)
@pytest.mark.parametrize("dtype", ["U3", "S3", "O", "M8[s]", "f16", "V8", ">f4", "i8"])
def test_arrays_that_are_no_plain_numbers_are_refused(
    tmp_path: Path, layout: str, dtype: str
) -> None:
    arrays = {name: tensor.numpy() for name, tensor in FOREIGN[layout].tensors.items()}
    buffer = io.BytesIO()
    changed: dict[str, Any] = arrays | {"b_dec": np.zeros(D_IN, dtype=dtype)}
    np.savez(buffer, **changed)
    assert str(tmp_path) in refusal(weights_of(layout, tmp_path, buffer.getvalue()))


# Configs -----------------------------------------------------------------------------------------

TEXTS = {
    "empty": "",
    "binary": b"\x80\0\xff",
    "deep": "[" * 100_000,
    "a deep object": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a list": "[]",
    "a number": "5",
    "2 MB": " " * 2_000_000,
    "5000 digits": f'{{"d_in": {"1" * 5000}}}',
}


@pytest.mark.parametrize("layout", WITH_CONFIG)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_config_that_is_none_is_refused(tmp_path: Path, layout: str, text: bytes | str) -> None:
    assert str(tmp_path) in refusal(config_of(layout, tmp_path, text))


@pytest.mark.parametrize("layout", WITH_CONFIG)
def test_a_config_that_says_a_thing_twice_is_refused(tmp_path: Path, layout: str) -> None:
    for name, value in FOREIGN[layout].config.items():
        twice = json.dumps(FOREIGN[layout].config)[:-1] + f", {json.dumps(name)}: 1}}"
        assert "twice" in refusal(config_of(layout, tmp_path, twice)), (name, value)


@pytest.mark.parametrize("layout", WITH_CONFIG)
@pytest.mark.parametrize("value", ["x\n\x1b[2J", {"x\n": []}, None, -1, True, 1e300, "9" * 9999])
def test_what_is_not_understood_is_told_on_one_line(
    tmp_path: Path, layout: str, value: Any
) -> None:
    its = FOREIGN[layout]
    for name in (*its.config, "x\n\x1b[2J"):
        folder = config_of(layout, tmp_path, json.dumps(its.config | {name: value}))
        try:
            loaded = sae.load(folder)
        except sae.InputError as error:
            assert str(error).isprintable(), name
            assert len(str(error)) < 1000, name
        else:
            assert (loaded.d_in, loaded.d_sae) == (D_IN, D_SAE)


@pytest.mark.usefixtures("little_memory")
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


# Sizes that are not there ------------------------------------------------------------------------


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
    for shape in ("(1000000000000,)", f"({10**30}, 0)", "(-1,)", "(3.0,)", "(True,)", "'x'")
}
NPZ_HUGE["a deep shape"] = zipped("W_enc.npy", npy("(" * 4000 + ")" * 4000))
NPZ_HUGE["code for a shape"] = zipped("W_enc.npy", npy("__import__('os').getpid()"))
PT_HUGE = {"more than is stored": of_torch(longer), "a row 2**20 times": stretched()}

HUGE = [
    *((layout, SAFETENSORS_HUGE) for layout in WITH_SAFETENSORS),
    *((layout, NPZ_HUGE) for layout in WITH_NPZ),
    *((layout, PT_HUGE) for layout in WITH_PT),
]


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(("layout", "name"), [(of, name) for of, its in HUGE for name in its])
def test_weights_that_declare_more_than_they_hold_cost_nothing(
    tmp_path: Path, layout: str, name: str
) -> None:
    assert str(tmp_path) in refusal(weights_of(layout, tmp_path, dict(HUGE)[layout][name]))


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("layout", [*WITH_NPZ, *WITH_PT])
def test_an_archive_that_swells_costs_nothing(tmp_path: Path, layout: str) -> None:
    n = 200 * 2**20
    name, begin = ("W_enc.npy", npy(f"({n // 4},)"))
    if layout in WITH_PT:
        name, begin = "archive/data/0", b""
    data = bomb(tmp_path / "bomb", name, begin, n)
    assert len(data) < n / 500
    assert "far more than it has" in refusal(weights_of(layout, tmp_path, data))


@pytest.mark.usefixtures("little_memory")
@EVERY
def test_a_file_of_a_terabyte_of_holes_costs_nothing(tmp_path: Path, layout: str) -> None:
    its = FOREIGN[layout]
    path = its.write(tmp_path) / its.weights_file
    os.truncate(path, 2**40)
    assert "1,100 GB" in refusal(tmp_path)


# Pickles -----------------------------------------------------------------------------------------


@EVERY
def test_code_in_a_pickle_does_not_run_whatever_the_file_is_called(
    tmp_path: Path, layout: str
) -> None:
    folder, trace = tmp_path / "d", tmp_path / "trace"
    folder.mkdir()
    for data in (pickled(tmp_path), pickle.dumps(MakesFolder(trace), protocol=2)):
        assert str(tmp_path) in refusal(weights_of(layout, folder, data))
        if FOREIGN[layout].config_file:
            assert str(tmp_path) in refusal(config_of(layout, folder, data))
    assert not trace.exists()


@pytest.mark.parametrize("layout", WITH_PT)
def test_code_in_a_second_pickle_does_not_run(tmp_path: Path, layout: str) -> None:
    """Readers of archives differ in whether upper case is another name."""
    valid = FOREIGN[layout].with_tensors(FOREIGN[layout].tensors)
    evil = pickle.dumps(MakesFolder(tmp_path / "trace"), protocol=2)
    for name in ("archive/DATA.PKL", "other/data.pkl", "Archive/data.pkl"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(valid)) as archive, zipfile.ZipFile(buffer, "w") as to:
            to.writestr(name, evil)
            for each in archive.namelist():
                to.writestr(each, archive.read(each))
        path = weights_of(layout, tmp_path, buffer.getvalue())
        try:
            sae.load(path)
        except sae.InputError as error:
            assert "\n" not in str(error)
        assert not (tmp_path / "trace").exists()


# Places ------------------------------------------------------------------------------------------


PLACES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a device without an end": lambda path: path.symlink_to("/dev/zero"),
    "what cannot be read": lambda path: path.symlink_to(UNREADABLE),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a pipe": os.mkfifo,
}


@EVERY
@pytest.mark.parametrize("put", PLACES.values(), ids=PLACES)
def test_something_else_in_the_place_of_the_weights_is_refused(
    tmp_path: Path, layout: str, put: Callable[[Path], object]
) -> None:
    its = FOREIGN[layout]
    path = its.write(tmp_path) / its.weights_file
    path.unlink()
    put(path)
    assert str(tmp_path) in refusal(tmp_path)
    if path.name != path.parent.name and not path.is_dir():
        assert str(tmp_path) in refusal(path)


@pytest.mark.parametrize("layout", WITH_CONFIG)
@pytest.mark.parametrize("put", PLACES.values(), ids=PLACES)
def test_something_else_in_the_place_of_the_config_is_refused_or_does_without(
    tmp_path: Path, layout: str, put: Callable[[Path], object]
) -> None:
    its = FOREIGN[layout]
    path = its.write(tmp_path) / str(its.config_file)
    path.unlink()
    put(path)
    try:
        sae.load(tmp_path)
    except sae.InputError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", UNREADABLE])
def test_a_device_is_no_dictionary(path: str) -> None:
    with pytest.raises(sae.InputError) as raised:
        sae.load(path)
    assert len(str(raised.value)) < 1000


def test_strange_names_of_files_do_not_reach_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b[2J").touch()
    assert str(tmp_path) in refusal(tmp_path)
