"""Dictionaries of other projects come from strangers: damaged or hostile, each is one line."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults.foreign import D_IN, D_SAE, FOREIGN, Foreign
from foreign_files import (
    EVERY,
    KINDS,
    OF_NPZ,
    OF_PT,
    OF_SAFETENSORS,
    PICKLED,
    WITH_CONFIG,
    config_of,
    refusal,
    weights_of,
)
from workshop import UNREADABLE, MakesFolder, pickled

import sae

pytestmark = pytest.mark.usefixtures("as_installed", "no_more_memory")


@EVERY
def test_what_is_damaged_below_is_loaded_as_it_is(tmp_path: Path, layout: str) -> None:
    loaded = sae.load(FOREIGN[layout].write(tmp_path))
    assert (loaded.d_in, loaded.d_sae) == (D_IN, D_SAE)
    assert torch.isfinite(loaded(torch.ones(2, D_IN))).all()


# Damage ------------------------------------------------------------------------------------------


@KINDS
def test_weights_that_are_cut_off_are_refused_wherever(tmp_path: Path, layout: str) -> None:
    valid = FOREIGN[layout].with_tensors(FOREIGN[layout].tensors)
    n = len(valid)
    for size in (0, 7, n // 2, n - 1):
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
def test_weights_of_another_kind_are_refused(tmp_path: Path, layout: str) -> None:
    """Wrong shapes are for each layout to find; what is read of a file is checked in one place."""
    its, damages = FOREIGN[layout], [other_shapes]
    if layout in (OF_SAFETENSORS, OF_NPZ, OF_PT):
        damages += [other_types, other_values]
    for name, tensor in ((of, tensor) for of, tensor in its.tensors.items() if tensor.ndim):
        for other in (x for damage in damages for x in damage(its, tensor)):
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
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path) -> None:
    its = FOREIGN[OF_PT]
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
            weights_of(OF_PT, tmp_path, its.with_tensors(its.tensors | {name: other}))
        )


@pytest.mark.parametrize("dtype", ["U3", "O", "f16", "i8"])
def test_arrays_that_are_no_plain_numbers_are_refused(tmp_path: Path, dtype: str) -> None:
    arrays = {name: tensor.numpy() for name, tensor in FOREIGN[OF_NPZ].tensors.items()}
    buffer = io.BytesIO()
    changed: dict[str, Any] = arrays | {"b_dec": np.zeros(D_IN, dtype=dtype)}
    np.savez(buffer, **changed)
    assert str(tmp_path) in refusal(weights_of(OF_NPZ, tmp_path, buffer.getvalue()))


# Configs -----------------------------------------------------------------------------------------

VALID = json.dumps(FOREIGN[OF_SAFETENSORS].config)
TEXTS = {
    "empty": "",
    "binary": b"\x80\0\xff",
    "deep": "[" * 100_000,
    "a list": "[]",
    "2 MB": VALID + " " * 2_000_000,
    "a thing twice": f'{VALID[:-1]}, "k": 2}}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_config_that_is_none_is_refused(tmp_path: Path, text: bytes | str) -> None:
    assert str(tmp_path) in refusal(config_of(OF_SAFETENSORS, tmp_path, text))


STRANGE: Sequence[Any] = ("x\n\x1b[2J", {"x\n": []}, None, -1, True, 1e300, "9" * 9999)


@pytest.mark.parametrize("layout", WITH_CONFIG)
def test_what_is_not_understood_is_told_on_one_line(tmp_path: Path, layout: str) -> None:
    its = FOREIGN[layout]
    for name, value in product((*its.config, "x\n\x1b[2J"), STRANGE):
        folder = config_of(layout, tmp_path, json.dumps(its.config | {name: value}))
        try:
            loaded = sae.load(folder)
        except sae.InputError as error:
            assert str(error).isprintable(), name
            assert len(str(error)) < 1000, name
        else:
            assert (loaded.d_in, loaded.d_sae) == (D_IN, D_SAE)


# Pickles -----------------------------------------------------------------------------------------


@EVERY
def test_code_in_a_pickle_does_not_run_whatever_the_file_is_called(
    tmp_path: Path, layout: str
) -> None:
    folder, trace = tmp_path / "d", tmp_path / "trace"
    folder.mkdir()
    for data in (pickled(tmp_path), pickle.dumps(MakesFolder(trace), protocol=2)):
        assert str(tmp_path) in refusal(weights_of(layout, folder, data))
    assert not trace.exists()


@PICKLED
def test_code_in_a_second_pickle_does_not_run(tmp_path: Path, layout: str) -> None:
    """Readers of archives differ in whether upper case is another name."""
    valid = FOREIGN[layout].with_tensors(FOREIGN[layout].tensors)
    evil = pickle.dumps(MakesFolder(tmp_path / "trace"), protocol=2)
    for name in ("archive/DATA.PKL", "other/data.pkl"):
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
    "a device without an end": lambda path: path.symlink_to("/dev/zero"),
    "what cannot be read": lambda path: path.symlink_to(UNREADABLE),
    "a pipe": os.mkfifo,
}


@KINDS
@pytest.mark.parametrize("put", PLACES.values(), ids=PLACES)
def test_something_else_in_the_place_of_the_weights_is_refused(
    tmp_path: Path, layout: str, put: Callable[[Path], object]
) -> None:
    its = FOREIGN[layout]
    path = its.write(tmp_path) / its.weights_file
    path.unlink()
    put(path)
    assert str(tmp_path) in refusal(tmp_path)
    assert str(tmp_path) in refusal(path)


@pytest.mark.parametrize("layout", WITH_CONFIG)
def test_something_else_in_the_place_of_the_config_is_refused_or_does_without(
    tmp_path: Path, layout: str
) -> None:
    its = FOREIGN[layout]
    path = its.write(tmp_path) / str(its.config_file)
    for put in PLACES.values():
        path.unlink()
        put(path)
        try:
            sae.load(tmp_path)
        except sae.InputError as error:
            assert str(error).isprintable()


@pytest.mark.parametrize("path", ["/dev/zero", UNREADABLE])
def test_a_device_is_no_dictionary(path: str) -> None:
    with pytest.raises(sae.InputError) as raised:
        sae.load(path)
    assert len(str(raised.value)) < 1000


def test_strange_names_of_files_do_not_reach_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b[2J").touch()
    assert str(tmp_path) in refusal(tmp_path)
