"""Files that are almost right: bytes flipped, cut and spliced, and values of JSON exchanged."""

import io
import json
import math
import zipfile
from random import Random
from typing import Any

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, -0.0, 2**31, 2**62, 2**63, -(2**63) - 1, 10**400),
    *(1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan),
    *(
        "",
        " ",
        "x",
        "nan",
        "1e999",
        "1e3",
        "\0",
        "\ud800",
        "\x1b[2J",
        "\n",
        "x" * 10_000,
        "\uff11\uff12",
    ),
    *("../../x", "/etc/passwd", "~", "{{ 7*7 }}", "</script><script>", "!!python/name:os.system"),
    *([], {}, [[]], [None], [1, "x"], {"": 0}, {"x": {"x": []}}, list(range(1000))),
)
"""Values that are of another kind or size than what they stand for, or mean something elsewhere."""

DEEP = "deep-place"
"""Stands for lists within lists, deeper than what can be written by recursion."""


def mutated_bytes(data: bytes, rng: Random) -> bytes:
    """The data after one to four accidents."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(ACCIDENTS)(data, rng)
    return data


def _flip(data: bytes, rng: Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.randint(0, len(data))]


def _insert(data: bytes, rng: Random) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.randbytes(rng.choice((1, 2, 8, 100))) + data[at:]


def _splice(data: bytes, rng: Random) -> bytes:
    """A piece in the place of another one."""
    start, end, at, to = (rng.randint(0, len(data)) for _ in range(4))
    return data[: min(at, to)] + data[min(start, end) : max(start, end)] + data[max(at, to) :]


def _blank(data: bytes, rng: Random) -> bytes:
    at, n = rng.randint(0, len(data)), rng.choice((1, 8, 512))
    return data[:at] + rng.choice((b"\0", b"\xff", b"9")) * n + data[at + n :]


ACCIDENTS = (_flip, _truncate, _insert, _splice, _blank)


def mutated_safetensors(data: bytes, rng: Random) -> bytes:
    """Bytes changed anywhere, or the header alone, whose length is right again then."""
    if rng.random() < 0.4:
        return mutated_bytes(data, rng)
    n_header = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + n_header], data[8 + n_header :]
    if rng.random() < 0.2:
        header = mutated_bytes(header, rng)
    else:
        header = to_bytes(mutated_json(json.loads(header), rng), rng)
    return len(header).to_bytes(8, "little") + header + tensors


def mutated_archive(data: bytes, rng: Random) -> bytes:
    """Bytes changed anywhere, or in one file of the archive, whose checksum is right again then."""
    if rng.random() < 0.3:
        return mutated_bytes(data, rng)
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(changed, "w") as to:
        names = archive.namelist()
        chosen = rng.choice([name for name in names if name.endswith((".npy", ".pkl"))])
        for name in names:
            content = archive.read(name)
            to.writestr(
                zipfile.ZipInfo(name), mutated_bytes(content, rng) if name == chosen else content
            )
    return changed.getvalue()


def mutated_json(value: Any, rng: Random) -> Any:
    """JSON of about the same form, with one to three places changed."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _changed_somewhere(value, rng)
    return value


def to_bytes(value: Any, rng: Random) -> bytes:
    """JSON as it is written, some of it deeper than any parser goes, some with a key twice."""
    text = json.dumps(value)
    levels = rng.choice((10, 500, 100_000))
    text = text.replace(f'"{DEEP}"', "[" * levels + "]" * levels)
    if rng.random() < 0.05:
        text = text.replace("{", '{"seed": 1, "d_sae": 4, "seed": 1, ', 1)
    return text.encode()


def _changed_somewhere(value: Any, rng: Random) -> Any:
    """Go down a random way, and change what is found there."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        return {**value, key: _changed_somewhere(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], _changed_somewhere(value[at], rng), *value[at + 1 :]]
    return _changed(value, rng)


def _changed(value: Any, rng: Random) -> Any:
    other = rng.choice((*NASTY, DEEP))
    if isinstance(value, dict) and rng.random() < 0.8:
        lacking = dict(value)
        lacking.pop(rng.choice(list(value) or [""]), None)
        key = str(rng.choice(("x", "", "../x", "\x1b", "seed", *value)))
        return rng.choice((lacking, {**value, key: other}))
    if isinstance(value, int | float) and rng.random() < 0.5:
        return rng.choice((-value, value + 1, value * 10**6, str(value), [value], value * 2))
    if isinstance(value, str) and rng.random() < 0.5:
        at = rng.randint(0, len(value))
        return rng.choice((value[:at], value[at:] + value, value[:at] + "/../" + value[at:]))
    return rng.choice((other, [value], {"x": value}, [value, value]))
