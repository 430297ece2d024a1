"""Pickles that would do something, or ask for more than there is, put into files of torch.save."""

import builtins
import io
import os
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"ctorch\nFloatStorage\n"
ORDERED = b"ccollections\nOrderedDict\n"


def put(path: Path, pickled: bytes) -> None:
    """A file of torch.save, with these instructions and a storage of four numbers."""
    saved = io.BytesIO()
    torch.save(torch.ones(4), saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            is_pickle = info.filename.endswith("/data.pkl")
            new.writestr(info.filename, pickled if is_pickle else old.read(info))


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """What calls a function, or makes an object of a class."""
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def tensor(numel: int, offset: int, size: int, stride: int) -> bytes:
    """One of `size` numbers, of a storage that is said to have `numel`."""
    storage = b"((" + text("storage") + STORAGE + text("0") + text("cpu") + _int(numel) + b"tQ"
    return (
        TENSOR
        + storage
        + b"".join((_int(offset), _int(size), b"\x85", _int(stride), b"\x85\x89", ORDERED, b")RtR"))
    )


def _int(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


class _Does:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what


def malicious(trace: Path) -> Mapping[str, bytes]:
    """Pickles that make a folder if they are followed, or would if one fence were missing."""
    command, where = f"mkdir {trace}", text(str(trace))
    code = f"__import__('os').mkdir({str(trace)!r})"
    shell = b"cautoencoders.learned_dict\nTiedSAE\n"
    return {
        "os.system": pickle.dumps(_Does(os.system, command), protocol=2),
        "os.mkdir": pickle.dumps(_Does(os.mkdir, str(trace)), protocol=2),
        "eval": pickle.dumps(_Does(builtins.eval, code), protocol=2),
        "exec": pickle.dumps(_Does(builtins.exec, code), protocol=2),
        "by STACK_GLOBAL": b"\x80\x04" + text("os") + text("mkdir") + b"\x93(" + where + b"tR.",
        "by STACK_GLOBAL in protocol 2": (
            b"\x80\x02" + text("os") + text("mkdir") + b"\x93(" + where + b"tR."
        ),
        "by INST": b"\x80\x02(" + f"S'{trace}'\n".encode() + b"ios\nmkdir\n.",
        "by OBJ": b"\x80\x02(cos\nmkdir\n" + where + b"o.",
        "without a protocol": call("os", "mkdir", where) + b".",
        "as a member": b"\x80\x02]" + call("os", "mkdir", where) + b"}\x86a.",
        "as a key": b"\x80\x02}" + text("x") + call("os", "mkdir", where) + b"s.",
        "after the end": b"\x80\x02N." + call("os", "mkdir", where) + b".",
        "as __setstate__": (
            b"\x80\x02" + shell + b")\x81}" + text("__setstate__") + b"cos\nmkdir\nsb"
            + where + b"b."
        ),
        "as __reduce__ of a storage": (
            b"\x80\x02(" + text("storage") + b"cos\nmkdir\n" + where + text("cpu") + b"K\x01tQ."
        ),
        "by getattr": (
            b"\x80\x02"
            + call("builtins", "getattr", b"cos\n__dict__\n", text("get"))
            + b"(" + text("mkdir") + b"tR."
        ),
        "in a class of another module": b"\x80\x02coffline.learned_dict\nTiedSAE\n)\x81}b.",
        "in a class below a known one": (
            b"\x80\x02cautoencoders.learned_dict\nTiedSAE.encode\n(" + where + b"tR."
        ),
        "in a module with a known prefix": b"\x80\x02cautoencoders.learned_dict.os\nmkdir\n)R.",
        "by a nested torch.load": b"\x80\x02" + call("torch", "load", where) + b".",
        "by torch's hooks": b"\x80\x02" + call("torch._utils", "_rebuild_wrapper_subclass") + b".",
        "by an extension": b"\x80\x02\x82\x01)R.",
    }  # fmt: skip


HUGE: Mapping[str, tuple[bytes, str]] = {
    "a tensor of stride 0": (
        b"\x80\x02}" + text("W_enc") + tensor(4, 0, 2**40, 0) + b"s.",
        r"does not hold all numbers of a tensor of \(1099511627776,\); restore",
    ),
    "a storage beyond its file": (
        b"\x80\x02}" + text("W_enc") + tensor(2**33, 0, 4, 1) + b"s.",
        "does not match expected size",
    ),
    "a tensor of an endless size": (
        b"\x80\x02}" + text("W_enc") + tensor(4, 0, 2**900, 1) + b"s.",
        "cannot be read",
    ),
    "a tensor made by its class": (
        b"\x80\x02" + call("torch", "FloatTensor", _int(2**40)) + b".",
        "holds objects of torch.FloatTensor",
    ),
    "a text that is not there": (
        b"\x80\x02X" + struct.pack("<I", 2**31) + b"x.",
        "only 2 remain",
    ),
    "a list that holds itself": (b"\x80\x02]q\x00h\x00a.", "none of the layouts"),
    "lists that double": (
        b"\x80\x02]q\x00" + b"(h\x00h\x00lq\x00" * 200 + b".",
        "its pickle has LIST, as weights have not",
    ),
    "tuples in tuples": (b"\x80\x02)" + b"\x85" * 10**4 + b".", "none of the layouts"),
    "nothing": (b"", "exhausted before seeing STOP"),
    "an empty stack": (b"\x80\x02a.", "cannot be read"),
    "more instructions than are read": (
        b"\x80\x02]" + b"Na" * 2**22 + b".",
        "its pickle has more than 4,194,304 bytes",
    ),
}
"""Pickles that are damaged, or ask for far more than their file has, with the refusals."""


@contextmanager
def bounded_memory(n_bytes: int = 2**31) -> Iterator[None]:
    """What takes more than this fails, and does not end everything on the machine."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
