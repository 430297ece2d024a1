"""Feed the readers of files with what is almost right, and report what is not refused properly.

A reader may accept what it is given or raise `InputError`. Everything else is a bug: the input is
saved, with the traceback beside it, and `reproduce` feeds it to the same reader again.
"""

import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random

from activation_cache.common.errors import InputError
from faults.targets import Target, targets

TURN = 50
"""Inputs of one target after the other, so that all get the same share of the time."""

SLOW_S = 20.0
"""A small file that keeps a reader busy for longer is a bug as well."""


@dataclass(frozen=True, kw_only=True)
class FuzzRow:
    """What came of the inputs that one reader was fed with."""

    target: str
    tries: int = 0
    refused: int = 0
    accepted: int = 0
    crashes: int = 0

    def __add__(self, other: "FuzzRow") -> "FuzzRow":
        return FuzzRow(
            target=self.target,
            tries=self.tries + other.tries,
            refused=self.refused + other.refused,
            accepted=self.accepted + other.accepted,
            crashes=self.crashes + other.crashes,
        )


def fuzz(minutes: float, seed: int, crashes: Path) -> list[FuzzRow]:
    """Fuzz every reader with as many inputs; what they cannot bear goes to `crashes`."""
    rng, ends = Random(seed), time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        readers = targets(Path(folder)).values()
        rows = [FuzzRow(target=target.name) for target in readers]
        while time.monotonic() < ends:
            turn = [fuzz_one(target, TURN, rng, crashes) for target in readers]
            rows = [before + now for before, now in zip(rows, turn, strict=True)]
    return rows


def fuzz_one(target: Target, n_tries: int, rng: Random, crashes: Path) -> FuzzRow:
    """Feed one reader with so many inputs."""
    row = FuzzRow(target=target.name)
    for _ in range(n_tries):
        outcome = _tried(target, target.propose(rng), crashes)
        row += FuzzRow(target=target.name, tries=1, **{outcome: 1})
    return row


def reproduce(name: str, path: Path) -> None:
    """Feed a reader with an input that was saved."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        targets(Path(folder))[name].read(path.read_bytes())


def _tried(target: Target, data: bytes, crashes: Path) -> str:
    """Which number of a row goes up."""
    began, outcome = time.monotonic(), "accepted"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            target.read(data)
    except KeyboardInterrupt:
        raise
    except InputError:
        outcome = "refused"
    except BaseException:  # panics of libraries in Rust are no `Exception`
        _save(target, data, traceback.format_exc(), crashes)
        return "crashes"
    seconds = time.monotonic() - began
    if seconds > SLOW_S:
        _save(target, data, f"took {seconds:.0f} s", crashes)
        return "crashes"
    return outcome


def _save(target: Target, data: bytes, what: str, crashes: Path) -> None:
    crashes.mkdir(parents=True, exist_ok=True)
    number = len(list(crashes.glob(f"{target.name}-*.input")))
    (crashes / f"{target.name}-{number}.input").write_bytes(data)
    (crashes / f"{target.name}-{number}.txt").write_text(what)
