"""Pickles of sparse_coding, or said to be, that are refused: not understood, malicious, damaged."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pickles import HUGE, bounded_memory, malicious, put
from sparse_coding_files import (
    D_IN,
    DICTIONARIES,
    PCAEncoder,
    name_as_in_the_original,
    random,
    save,
)

import sae
from sae.interop import PretrainedSAE, restricted_pickle
from sae.interop.layouts.sparse_coding import CLASSES


@pytest.fixture(autouse=True)
def original(monkeypatch: pytest.MonkeyPatch) -> None:
    name_as_in_the_original(monkeypatch)


def test_other_classes_are_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, PCAEncoder(pca=random(4, 4)))
    with pytest.raises(sae.InputError, match=r"holds objects of autoencoders.pca.PCAEncoder"):
        sae.load(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"thresholds": torch.ones(4)}, "holds thresholds, which this layout does not have"),
        ({"norm_encoder": 1}, "norm_encoder in .* must be true or false, got 1"),
        ({"center_scale": torch.zeros(D_IN)}, "center_scale in .* holds 0"),
        ({"encoder": None}, "lacks the tensor encoder"),
        ({"encoder_bias": torch.ones(3)}, "do not fit together"),
        ({"center_scale": torch.ones(3)}, "center_scale"),
    ],
)
def test_what_cannot_be_had_is_refused(
    tmp_path: Path, attributes: dict[str, Any], message: str
) -> None:
    dictionary = DICTIONARIES["tied"]()
    dictionary.__dict__ |= attributes
    save(tmp_path, dictionary)
    with pytest.raises(sae.InputError, match=message):
        sae.load(tmp_path)


@pytest.mark.parametrize("content", [[], [(1, 2, 3)], [({}, {})], torch.ones(2)])
def test_other_lists_are_none_of_ours(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "learned_dicts.pt")
    with pytest.raises(sae.InputError, match="none of the layouts"):
        sae.load(tmp_path)


# Strangers ---------------------------------------------------------------------------------------


def test_the_malicious_pickles_would_do_something(tmp_path: Path) -> None:
    for name in ("os.system", "os.mkdir", "eval", "as a member", "by INST"):
        put(tmp_path / "x.pt", malicious(tmp_path / "trace")[name])
        torch.load(tmp_path / "x.pt", weights_only=False)
        assert (tmp_path / "trace").is_dir(), name
        (tmp_path / "trace").rmdir()


IN_LEARNED_DICTS = [("learned_dicts.pt", name) for name in malicious(Path("trace"))]


@pytest.mark.parametrize(("file", "name"), [*IN_LEARNED_DICTS, ("means.pt", "os.system")])
def test_a_malicious_pickle_is_never_run(tmp_path: Path, name: str, file: str) -> None:
    save(tmp_path, DICTIONARIES["tied"]())
    put(tmp_path / file, malicious(tmp_path / "trace")[name])
    with pytest.raises(sae.InputError) as refused:
        sae.load(tmp_path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("os.system", "holds objects of posix.system"),
        ("by STACK_GLOBAL", "is of protocol 4"),
        ("by STACK_GLOBAL in protocol 2", "has STACK_GLOBAL"),
        ("by an extension", "has EXT1"),
        ("in a class below a known one", "holds objects of autoencoders.learned_dict.TiedSAE.enc"),
    ],
)
def test_the_first_fence_would_do_without_the_second(
    tmp_path: Path, name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restricted_pickle, "load", lambda *_: pytest.fail("it was followed"))
    put(tmp_path / "learned_dicts.pt", malicious(tmp_path / "trace")[name])
    with pytest.raises(sae.InputError, match=says):
        sae.load(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "name", ["os.system", "by STACK_GLOBAL in protocol 2", "as __setstate__", "by getattr"]
)
def test_the_second_fence_would_do_without_the_first(tmp_path: Path, name: str) -> None:
    put(tmp_path / "x.pt", malicious(tmp_path / "trace")[name])
    with (tmp_path / "x.pt").open("rb") as file, suppress(Exception):
        restricted_pickle.load(file, CLASSES)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(("pickled", "says"), HUGE.values(), ids=HUGE)
def test_a_pickle_that_asks_for_too_much_is_refused(
    tmp_path: Path, pickled: bytes, says: str
) -> None:
    save(tmp_path, DICTIONARIES["tied"]())
    put(tmp_path / "learned_dicts.pt", pickled)
    with bounded_memory(), pytest.raises(sae.InputError, match=says) as refused:
        sae.load(tmp_path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_damaged_file_is_refused_or_a_dictionary(tmp_path: Path, at: float, byte: int) -> None:
    path = save(tmp_path, DICTIONARIES["tied and centred"]())
    data = bytearray(path.read_bytes())
    data[int(at * 2000)] = byte  # the pickle comes first
    path.write_bytes(data)
    try:
        assert isinstance(sae.load(path), PretrainedSAE)
    except sae.InputError as error:
        assert "\n" not in str(error)
