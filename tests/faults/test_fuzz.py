"""Files that are almost right: whatever is not refused in words is a bug."""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.fuzz import FuzzRow, fuzz, fuzz_one, reproduce
from faults.targets import Target, targets
from hypothesis import given, settings
from hypothesis import strategies as st

from activation_cache.common.errors import InputError
from sae.runs.settings.grid import Grid, member_settings
from sae.runs.settings.run_settings import RunSettings, settings_from

pytestmark = pytest.mark.usefixtures("as_installed")

N_TRIES = 25
NAMES = list(RunSettings().to_dict())


@pytest.fixture(scope="module")
def readers() -> Iterator[dict[str, Target]]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        yield targets(Path(folder))


def names_of_targets() -> list[str]:
    """Nobody forges a file of their own that is signed, or the run folder of a report."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        names = list(targets(Path(folder)))
    return [name for name in names if not name.startswith(("signed-", "report-"))]


@pytest.mark.parametrize("name", names_of_targets())
def test_a_reader_refuses_what_it_does_not_accept(
    readers: dict[str, Target], tmp_path: Path, name: str
) -> None:
    row = fuzz_one(readers[name], N_TRIES, random.Random(0), tmp_path)
    told = "\n".join(path.read_text() for path in tmp_path.glob("*.txt"))
    assert row.crashes == 0, told
    assert row.refused + row.accepted == row.tries == N_TRIES
    assert row.refused > 0


def test_the_same_seed_makes_the_same_inputs(readers: dict[str, Target]) -> None:
    for reader in readers.values():
        first, second = (
            [reader.propose(rng) for _ in range(5)] for rng in (random.Random(3), random.Random(3))
        )
        assert first == second


def test_what_a_reader_cannot_bear_is_kept_and_can_be_fed_to_it_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(data: bytes) -> None:
        raise ZeroDivisionError(f"{len(data)} bytes")

    reader = Target("broken", lambda rng: rng.randbytes(5), broken)
    monkeypatch.setattr("faults.fuzz.targets", lambda folder: {"broken": reader})
    assert fuzz(0.0, 0, tmp_path / "none") == [FuzzRow(target="broken")]
    row = fuzz_one(reader, 2, random.Random(0), tmp_path)
    assert row == FuzzRow(target="broken", tries=2, crashes=2)
    assert (tmp_path / "broken-1.input").read_bytes() != (tmp_path / "broken-0.input").read_bytes()
    assert "ZeroDivisionError: 5 bytes" in (tmp_path / "broken-1.txt").read_text()
    with pytest.raises(ZeroDivisionError):
        reproduce("broken", tmp_path / "broken-1.input")


# Any values at all -------------------------------------------------------------------------------

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANYTHING = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3)
)


@settings(deadline=None, max_examples=50)
@given(content=st.dictionaries(st.sampled_from(NAMES) | PLAIN, ANYTHING, max_size=4))
def test_any_values_are_settings_or_refused(content: dict[Any, Any]) -> None:
    try:
        made = settings_from(content, where="here")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert settings_from(made.to_dict(), where="here") == made


@settings(deadline=None, max_examples=40)
@given(points=st.lists(st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=3), max_size=3))
def test_any_members_are_members_or_refused(points: list[dict[str, Any]]) -> None:
    try:
        members = member_settings(Grid({}, points), {}, where="here")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert len(members) == len(points)
