"""Features are the same bytes whatever the batches, interruptions and processes."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_features import SMALL, Table, collect_whole, cut, dictionary, files, small_text
from torch import Tensor

import sae
import sae.features
from activation_cache.common.types import TextBatchLike

N_BLOCKS = 14


@pytest.fixture(scope="module")
def text() -> tuple[Tensor, Tensor]:
    return small_text()


@pytest.fixture(scope="module")
def whole(
    text: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The files that one process makes of the text in one batch."""
    return files(collect_whole(text, tmp_path_factory.mktemp("whole") / "f").folder)


@pytest.fixture
def each_batch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae.features.gathered.SAVED_EVERY", 1)


# Batches and interruptions -----------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [0, 1, 4, 6])
def test_an_interrupted_collecting_is_resumed_to_the_same_bytes(
    text: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    monkeypatch.setattr("sae.features.gathered.SAVED_EVERY", 2)
    batches = cut(text, [2] * 7)

    def interrupted() -> Iterator[TextBatchLike]:
        yield from batches[:stop_at]
        raise KeyboardInterrupt

    saes = [dictionary(), dictionary(7, "blocks.1.hook_resid_pre")]
    with pytest.raises(KeyboardInterrupt):
        sae.features.collect(Table(), saes, interrupted(), tmp_path / "f", SMALL, progress=False)
    model = Table()
    resumed = sae.features.collect(model, saes, batches, tmp_path / "f", SMALL, progress=False)
    assert model.n_passes == 7 - stop_at // 2 * 2
    assert files(resumed[0].folder) == files(collect_whole(text, tmp_path / "whole").folder)
    other = sae.features.collect(
        Table(), saes[1], batches, tmp_path / "other", SMALL, progress=False
    )
    assert files(resumed[1].folder) == files(other.folder)


def test_another_text_is_not_taken_for_the_one_that_was_begun(
    text: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae.features.gathered.SAVED_EVERY", 1)

    def interrupted() -> Iterator[TextBatchLike]:
        yield from cut(text, [7, 7])[:1]
        raise KeyboardInterrupt

    args = (tmp_path / "f", SMALL)
    with pytest.raises(KeyboardInterrupt):
        sae.features.collect(Table(), dictionary(), interrupted(), *args, progress=False)
    with pytest.raises(sae.InputError, match="was begun with another dictionary"):
        sae.features.collect(Table(), dictionary(7), [], *args, progress=False)
    with pytest.raises(sae.InputError, match=r"the text has 0 blocks, .* was begun with one of 7"):
        sae.features.collect(Table(), dictionary(), [], *args, progress=False)
    other = (text[0].flip(0), text[1])
    with pytest.raises(sae.InputError, match=r"the text is another .* from block 0 on"):
        sae.features.collect(Table(), dictionary(), cut(other, [7, 7]), *args, progress=False)


def test_what_is_missing_of_several_is_collected_alone(
    text: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    saes = [dictionary(), dictionary(7, "blocks.1.hook_resid_pre")]
    batches, model = cut(text, [7, 7]), Table()
    made = sae.features.collect(model, saes, batches, tmp_path / "f", SMALL, progress=False)
    before = [files(its.folder) for its in made]
    (made[1].folder / "features.json").unlink()
    saes[0].requires_grad_(False).W_dec.zero_()  # it is not looked at again
    sae.features.collect(model, saes, batches, tmp_path / "f", SMALL, progress=False)
    assert [files(its.folder) for its in made] == before
    assert model.n_passes == 4


def test_features_that_are_there_are_not_overwritten(
    text: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    folder = collect_whole(text, tmp_path / "f").folder
    before = files(folder)
    with pytest.raises(sae.InputError, match=r"holds features: sae\.features\.open reads them"):
        collect_whole(text, folder)
    assert files(folder) == before


# Shares ------------------------------------------------------------------------------------------


class Job:
    """A process that does a share of a text, and may be killed before one of its batches."""

    def __init__(self, index: int, n_shares: int, sizes: Sequence[int], killed_at: int) -> None:
        self.share, self.sizes, self.killed_at = (index, n_shares), sizes, killed_at

    def __repr__(self) -> str:
        return f"Job({self.share}, {self.sizes}, {self.killed_at})"

    def run(self, text: tuple[Tensor, Tensor], folder: Path) -> int:
        """The forward passes that it has made until its end."""
        model = Table()
        try:
            batches = self._until_killed(cut(text, self.sizes))
            sae.features.gather(model, dictionary(), batches, folder, self.share, progress=False)
        except KeyboardInterrupt:
            part = folder / "collecting" / "{}-of-{}".format(*self.share)
            for name in ("tokens", "indices", "values"):  # it was writing
                with (part / name).open("ab") as file:
                    file.write(b"half a batch")
        return model.n_passes

    def _until_killed(self, batches: Sequence[TextBatchLike]) -> Iterator[TextBatchLike]:
        yield from batches[: self.killed_at]
        if self.killed_at <= len(batches):
            raise KeyboardInterrupt


@st.composite
def cuts(draw: st.DrawFn) -> list[int]:
    """Sizes of batches."""
    ends = [0, *sorted(draw(st.sets(st.integers(1, N_BLOCKS - 1)))), N_BLOCKS]
    return np.diff(ends).tolist()


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    n_shares = draw(st.integers(1, 5))
    index = draw(st.integers(0, n_shares - 1))
    return Job(index, n_shares, draw(cuts()), draw(st.integers(0, N_BLOCKS + 1)))


@pytest.mark.usefixtures("each_batch_is_kept")
@given(done=st.lists(jobs(), max_size=5), sizes=cuts())
@settings(max_examples=15, deadline=None)
def test_whatever_was_done_before_collect_makes_the_same_bytes(
    text: tuple[Tensor, Tensor],
    whole: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    done: list[Job],
    sizes: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("features")
    for job in done:
        job.run(text, folder)
    sae.features.collect(Table(), dictionary(), cut(text, sizes), folder, SMALL, progress=False)
    assert files(folder) == whole


@pytest.mark.usefixtures("each_batch_is_kept")
@given(data=st.data(), n_shares=st.integers(1, 5), sizes=cuts())
@settings(max_examples=15, deadline=None)
def test_shares_are_interrupted_resumed_and_merged_in_any_order_and_no_batch_is_run_twice(
    text: tuple[Tensor, Tensor],
    whole: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    n_shares: int,
    sizes: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("features")
    kills = data.draw(st.lists(st.integers(0, len(sizes)), min_size=n_shares, max_size=n_shares))
    once = [Job(i, n_shares, sizes, kill) for i, kill in enumerate(kills)]
    again = [Job(i, n_shares, sizes, N_BLOCKS + 1) for i in range(n_shares)]
    order = [*data.draw(st.permutations(once)), *data.draw(st.permutations(again))]
    passes = [job.run(text, folder) for job in order]
    assert sum(passes) == len(sizes)
    its_share = [passes[n] + passes[order.index(once[job.share[0]])] for n, job in enumerate(order)]
    for job, n_passes in list(zip(order, its_share, strict=True))[n_shares:]:
        assert n_passes == len(range(job.share[0], len(sizes), n_shares))
    model = Table()
    sae.features.collect(model, dictionary(), cut(text, sizes), folder, SMALL, progress=False)
    assert model.n_passes == 0
    assert files(folder) == whole


@pytest.mark.usefixtures("each_batch_is_kept")
def test_shares_of_different_texts_are_not_merged(
    text: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    other = (text[0].flip(0), text[1])
    mask = (text[0], text[1].logical_not())
    assert Job(0, 2, [7, 7], 9).run(text, tmp_path) == 1
    with pytest.raises(sae.InputError, match=r"the text is another .* from block 0 on"):
        Job(1, 2, [7, 7], 9).run(other, tmp_path)
    with pytest.raises(sae.InputError, match=r"the text is another .* from block 0 on"):
        Job(1, 2, [7, 7], 9).run(mask, tmp_path)
    mixed = [cut(text, [7, 7])[0], cut(other, [7, 7])[1]]
    sae.features.gather(Table(), dictionary(), mixed, tmp_path, (1, 2), progress=False)
    with pytest.raises(sae.InputError, match=r"the text is another .* from block 7 on"):
        sae.features.collect(
            Table(), dictionary(), cut(text, [7, 7]), tmp_path, SMALL, progress=False
        )


def test_shares_that_cannot_be_are_one_line(text: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    for share in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(
            sae.InputError, match=r"share must be \(index, of\) with 0 <= index < of"
        ):
            sae.features.gather(Table(), dictionary(), [], tmp_path, share)

    def twice() -> Iterator[TextBatchLike]:
        sae.features.gather(Table(), dictionary(), [], tmp_path, (0, 2), progress=False)
        yield from cut(text, [14])

    with pytest.raises(sae.InputError, match=f"process {os.getpid()} on .* is writing to"):
        sae.features.gather(Table(), dictionary(), twice(), tmp_path, (0, 2), progress=False)


def test_rank_0_refuses_parts_of_another_text_and_those_that_are_not_there(
    text: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which are written while it reads the text itself."""
    collecting = sys.modules["sae.features.collect"]  # that name in sae.features is the function
    monkeypatch.setattr(collecting, "rank_and_world", lambda: (0, 2))

    def meanwhile(other: tuple[Tensor, Tensor], n_batches: int) -> Iterator[TextBatchLike]:
        batches = cut(other, [7, 7])[:n_batches]
        sae.features.gather(Table(), dictionary(), batches, tmp_path, (1, 2), progress=False)
        yield from cut(text, [7, 7])

    args = (tmp_path, SMALL)
    with pytest.raises(sae.InputError, match="holds 7 of the 14 blocks of the text: all processes"):
        sae.features.collect(Table(), dictionary(), meanwhile(text, 1), *args, progress=False)
    other = (text[0].flip(0), text[1])
    other[0][:7] = text[0][:7]
    with pytest.raises(
        sae.InputError, match="are of different texts: remove it, and give the same"
    ):
        sae.features.collect(Table(), dictionary(), meanwhile(other, 2), *args, progress=False)
