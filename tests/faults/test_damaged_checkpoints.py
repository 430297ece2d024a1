"""A checkpoint that is damaged, of another run, or not finished is never gone on from."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from resuming import (
    Maker,
    assert_same,
    checkpoints_in,
    ctrl_c,
    in_step,
    quick,
    refused,
    sit,
    told,
)
from sweeps import MLP, listed

from activation_cache import LanguageModel
from sae.runs.run import run
from sae.runs.settings import RunSettings
from sae.training.checkpoint import DamagedCheckpoint, read_state


@pytest.fixture(scope="module")
def halfway(gpt2: LanguageModel, dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that died in its seventh step, with checkpoints at 320 and 384, and an undisturbed."""
    make = Maker(tmp_path_factory.mktemp("halfway"), gpt2, dataset)
    with quick(gpt2):
        assert sit(make(checkpoint_tokens=64), in_step(7), resume=False)
        run(make("undisturbed", checkpoint_tokens=64))
    return make.folder


@pytest.fixture
def died(halfway: Path, make: Maker) -> RunSettings:
    shutil.copytree(halfway, make.folder, dirs_exist_ok=True)
    return make(checkpoint_tokens=64)


FILES = ("state.json", "state.safetensors", "sae/cfg.json", "sae/sae_weights.safetensors")


def flipped(path: Path, share: float) -> None:
    data = bytearray(path.read_bytes())
    data[min(int(share * len(data)), len(data) - 1)] ^= 1
    path.write_bytes(data)


HARM: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("harm", HARM)
def test_damage_is_told_by_name(halfway: Path, tmp_path: Path, harm: str) -> None:
    checkpoint, name = copied(halfway, tmp_path), "state.safetensors"
    HARM[harm](checkpoint / name)
    with pytest.raises(DamagedCheckpoint, match=re.escape(f"{checkpoint} is damaged: {name} is ")):
        read_state(checkpoint)


@pytest.mark.parametrize("harm", HARM)
def test_damage_to_the_checksums_is_noticed(halfway: Path, tmp_path: Path, harm: str) -> None:
    checkpoint = copied(halfway, tmp_path)
    HARM[harm](checkpoint / "checksums.json")
    with pytest.raises(DamagedCheckpoint, match=re.escape(str(checkpoint))):
        read_state(checkpoint)


def test_any_bit_counts(halfway: Path, tmp_path: Path) -> None:
    """Places all over the files."""
    checkpoint = copied(halfway, tmp_path)
    for name in (*FILES, "checksums.json"):
        whole = (checkpoint / name).read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 15)):
            data = bytearray(whole)
            data[place] ^= 1 << place % 8
            (checkpoint / name).write_bytes(data)
            with pytest.raises(DamagedCheckpoint, match=f"{checkpoint} is damaged"):
                read_state(checkpoint)
        (checkpoint / name).write_bytes(whole)
    assert read_state(checkpoint)["training"]["trainers"][0]["n_tokens"] == 384


def copied(halfway: Path, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoints_in(halfway / "run")[-1], folder / f"{384:012}"))


@pytest.mark.parametrize("name", ["state.json", "checksums.json"])
def test_the_checkpoint_before_a_damaged_one_is_gone_on_from(died: RunSettings, name: str) -> None:
    newest = checkpoints_in(died.out)[-1]
    flipped(newest / name, 0.4)
    console = told()
    run(died, console, resume=True)
    (line,) = (line for line in console.lines() if "warning" in line)
    assert f"{newest} is damaged: " in line, console.lines()
    assert "resuming after 320 tokens" in console.lines()
    assert_same(died.out, died.out.with_name("undisturbed"))
    assert [int(path.name) for path in checkpoints_in(died.out)] == [448, 512]


def test_a_file_too_many_is_damage_as_well(died: RunSettings) -> None:
    newest = checkpoints_in(died.out)[-1]
    (newest / "sae" / "notes.txt").write_text("mine")
    with pytest.raises(DamagedCheckpoint, match=r"sae/notes\.txt"):
        read_state(newest)


def test_where_none_is_whole_the_run_begins_again(died: RunSettings) -> None:
    for path in checkpoints_in(died.out):
        flipped(path / "state.json", 0.3)
    run(died, resume=True)
    assert_same(died.out, died.out.with_name("undisturbed"))


def test_damaged_ones_take_no_place_of_those_that_are_kept(make: Maker) -> None:
    """They would be the newest by their names, however far an earlier one was gone on from."""
    run(make("undisturbed", checkpoint_tokens=64))
    settings = make(checkpoint_tokens=64, keep_checkpoints=9)
    sit(settings, in_step(8), resume=False)
    for path in checkpoints_in(settings.out)[-3:]:
        flipped(path / "state.json", 0.3)
    settings = settings.but(keep_checkpoints=2, checkpoint_tokens=None)
    with pytest.raises(KeyboardInterrupt, match=f"saved in .*checkpoints/{320:012}"):
        sit_on(settings, 1)
    with pytest.raises(KeyboardInterrupt, match=f"saved in .*checkpoints/{384:012}"):
        sit_on(settings, 1)
    assert read_state(settings.out / "checkpoints" / f"{384:012}")
    console = told()
    run(settings, console, resume=True)
    assert "resuming after 384 tokens" in console.lines()
    assert not any("damaged" in line for line in console.lines())
    assert_same(settings.out, make("undisturbed").out)


def sit_on(settings: RunSettings, n: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        in_step(n, ctrl_c)(patch)
        run(settings, resume=True)


def test_one_of_another_run_is_refused_in_one_line_and_nothing_is_touched(
    died: RunSettings, make: Maker
) -> None:
    for change in ({"d_sae": 48}, {"hook_name": (MLP,)}, {"lr": 0.5}):
        other = make("strange/run", checkpoint_tokens=64, **change)
        sit(other, in_step(8), resume=False)
        strange = died.out / "checkpoints" / f"{448:012}"
        shutil.copytree(checkpoints_in(other.out)[-1], strange)
        before = listed(died.out)
        refused(lambda: run(died, resume=True))
        assert listed(died.out) == before
        for folder in (other.out, strange):
            shutil.rmtree(folder)


def test_what_was_not_finished_means_nothing_and_is_removed(died: RunSettings) -> None:
    for n in (320, 999):
        shutil.copytree(checkpoints_in(died.out)[0], died.out / "checkpoints" / f"{n:012}.77-1.tmp")
    run(died, resume=True)
    assert_same(died.out, died.out.with_name("undisturbed"))
