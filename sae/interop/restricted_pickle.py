"""Untrusted pickles: tensors, plain values and empty shells, and nothing in them is run.

There are two fences. A pickle is first read as a list of instructions, without following any: they
must be those that torch.save writes, and name only what rebuilds tensors, and the classes that a
layout asks for. Then torch's unpickler for weights follows them. Objects of these classes become
dictionaries of their attributes.
"""

import pickle
import pickletools
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import torch

from activation_cache.common.errors import InputError
from activation_cache.common.schema import listed

LARGEST_PICKLE = 2**22
"""Bytes of instructions that are read; a hundred dictionaries take about a hundred thousand."""

PLAIN_NAMES = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        *(f"torch.{kind}Storage" for kind in ("BFloat16", "Half", "Float", "Double", "Bool")),
        *(f"torch.{kind}Storage" for kind in ("Byte", "Char", "Short", "Int", "Long")),
        *(f"torch.{kind}" for kind in ("bfloat16", "float16", "float32", "float64", "device")),
    }
)
"""What tensors, and the mappings that hold them, are rebuilt with."""

INSTRUCTIONS = frozenset(
    {
        *("PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
        *("LONG1", "BINFLOAT", "BINUNICODE", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE"),
        *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS", "BINGET"),
        *("LONG_BINGET", "BINPUT", "LONG_BINPUT", "BINPERSID", "GLOBAL", "REDUCE", "NEWOBJ"),
        "BUILD",
    }
)
"""What pickles of protocol 2, which torch.save writes, are made of."""


class Shell(dict[str, Any]):
    """The attributes of an object whose class is not here. The name of its type is the class's."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise pickle.UnpicklingError("an object in it has no attributes by name")
        self.update(state)


def names_in(archive: zipfile.ZipFile) -> set[str]:
    """Every class and function that the pickle in an archive of torch.save names."""
    infos = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
    if len(infos) != 1:
        raise pickle.UnpicklingError(f"it has {len(infos)} pickles, and not one")
    if infos[0].file_size > LARGEST_PICKLE:
        raise pickle.UnpicklingError(f"its pickle has more than {LARGEST_PICKLE:,} bytes")
    names: set[str] = set()
    for instruction, argument, _ in pickletools.genops(archive.read(infos[0])):
        if instruction.name not in INSTRUCTIONS:
            raise pickle.UnpicklingError(f"its pickle has {instruction.name}, as weights have not")
        if instruction.name == "PROTO" and argument != 2:
            raise pickle.UnpicklingError(f"its pickle is of protocol {argument}, and not 2")
        if instruction.name == "GLOBAL":
            names.add(str(argument).replace(" ", "."))
    return names


def refuse_strange_names(
    path: Path, archive: zipfile.ZipFile, classes: Collection[str] = ()
) -> None:
    """`InputError` where a pickle names anything but what rebuilds tensors, and these classes."""
    strange = names_in(archive) - PLAIN_NAMES - set(classes)
    if strange:
        raise InputError(
            f"{path} holds objects of {listed(strange)}, and nothing in it was run: have it "
            f"converted to safetensors by who made it"
        )


def load(file: IO[bytes], classes: Collection[str] = ()) -> Any:
    """What a file holds whose names were found to be known; a `Shell` for each of these objects."""
    shells: list[Any] = [
        (type(name.rpartition(".")[2], (Shell,), {"__slots__": ()}), name) for name in classes
    ]
    with torch.serialization.safe_globals(shells):
        return torch.load(file, map_location="cpu", weights_only=True)
