"""`sae.fit` trains to the end; what would go unnoticed is warned of."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import sae
from activation_cache import HarvestConfig, LanguageModel, harvest
from sae.architectures import ReLUConfig, TopKConfig
from sae.batches import batches_of
from sae.evaluation import advice

D_IN = 8


def batches(n: int, seed: int = 0) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        yield torch.randn(32, D_IN, generator=generator)


def fresh(seed: int = 0) -> sae.SAE:
    return TopKConfig(d_sae=16, k=2).build(D_IN, seed=seed)


def test_fit_gives_the_weights_that_iterating_train_gives_and_a_row_every_so_many_steps() -> None:
    cfg = sae.TrainConfig(n_tokens=320)
    ours, theirs = fresh(), fresh()
    log = sae.fit(ours, batches(10), cfg, log_every=4, progress=False)
    records = list(sae.train(theirs, batches(10), cfg))
    assert torch.equal(ours.W_dec, theirs.W_dec)
    assert [row["n_tokens"] for row in log] == [128, 256, 320]  # steps 4, 8 and the last, 10
    assert log[-1] == {"dictionary": 0, **records[-1].row()}
    assert log[0]["fvu"] == records[3].fvu.item()


def test_fit_trains_several_on_one_stream_with_their_place_in_the_list() -> None:
    saes = [fresh(0), fresh(1)]
    cfgs = [sae.TrainConfig(n_tokens=n) for n in (64, 96)]
    log = sae.fit(saes, batches(3), cfgs, progress=False)
    assert [(row["dictionary"], row["n_tokens"]) for row in log] == [(0, 64), (1, 96)]


def test_fit_shows_a_bar_on_stderr_unless_it_is_told_not_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for progress in (True, False):
        sae.fit(fresh(), batches(2), sae.TrainConfig(n_tokens=64), progress=progress)
        out, err = capsys.readouterr()
        assert out == ""
        assert ("64 of 64 tokens" in err) is progress


def test_a_stream_that_ends_before_n_tokens_is_warned_of_with_both_numbers() -> None:
    message = r"the stream ended after 64 of n_tokens=4,000: .* or TrainConfig\(n_tokens=64\)"
    with pytest.warns(UserWarning, match=message):
        log = sae.fit(fresh(), batches(2), sae.TrainConfig(n_tokens=4000), progress=False)
    assert log[-1]["n_tokens"] == 64


def test_a_training_that_is_stopped_from_outside_is_not(recwarn: pytest.WarningsRecorder) -> None:
    training = sae.train(fresh(), batches(10), sae.TrainConfig(n_tokens=320))
    assert [next(training).step for _ in range(4)] == [0, 1, 2, 3]
    training.close()
    assert len(recwarn) == 0


def test_saving_a_dictionary_that_was_not_trained_is_warned_of(tmp_path: Path) -> None:
    dictionary = fresh()
    sae.train(dictionary, batches(2), sae.TrainConfig(n_tokens=64))  # a generator: nothing happens
    with pytest.warns(UserWarning, match=r"random: it was not trained\. sae\.fit trains"):
        sae.save(dictionary, tmp_path / "random")
    sae.fit(dictionary, batches(2), sae.TrainConfig(n_tokens=64), progress=False)
    sae.save(dictionary, tmp_path / "trained")
    sae.save(sae.load(tmp_path / "random"), tmp_path / "again")


def test_a_text_that_starts_again_is_warned_of_once(tiny: LanguageModel, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"The number {i} has the square {i * i}." for i in range(100)))
    cfg = HarvestConfig(dataset=str(text), context_size=16, batch_tokens=64, buffer_tokens=64)
    stream = harvest(tiny, cfg)
    with pytest.warns(UserWarning, match=r"text\.txt has ended after [\d,]+ activation") as told:
        while stream.n_epochs < 3:
            next(stream)
    assert len(told) == 1


def test_repr_has_sizes_and_settings() -> None:
    shown = repr(ReLUConfig(d_sae=16, l1_coeff=3.0, tied=True).build(D_IN))
    assert shown == (
        "ReLUSAE(d_in=8, d_sae=16, tied=True, auxk_coeff=0.5, target_l0=None, l1_coeff=3.0)"
    )
    assert repr(fresh().encode_sparse(torch.zeros(3, D_IN))) == "Codes(n_tokens=3, k=2, d_sae=16)"


# What an evaluation finds -------------------------------------------------------------------------


def test_numbers_of_a_good_dictionary_need_no_advice() -> None:
    assert advice({"fvu": 0.05, "dead": 8, "d_sae": 16, "dead_fraction": 0.5, "n_tokens": 9}) == []
    assert advice({}) == []


def test_an_fvu_above_1_and_many_dead_features_are_said_in_words_with_what_to_try() -> None:
    numbers = {"fvu": 1039.0, "dead": 9, "d_sae": 16, "dead_fraction": 9 / 16, "n_tokens": 4000}
    diverged, dead = advice(numbers)
    assert diverged.startswith("FVU 1,039 is worse than 1") and "lower learning rate" in diverged
    assert dead.startswith("9 of 16 features (56%) are dead") and "4,000 held-out" in dead


# Activations as people have them -----------------------------------------------------------------

ROWS = torch.randn(256, D_IN, generator=torch.Generator().manual_seed(1))


def as_memory_map(folder: Path) -> np.ndarray:
    np.save(folder / "rows.npy", ROWS.numpy())
    return np.load(folder / "rows.npy", mmap_mode="r")


SOURCES: dict[str, Callable[[Path], Any]] = {
    "a NumPy array": lambda _: ROWS.numpy(),
    "a memory-mapped file": as_memory_map,
    "an array of positions": lambda _: ROWS.view(16, 16, D_IN).numpy(),
    "a tensor in half precision": lambda _: ROWS.half(),
    "a list of tensors": lambda _: list(ROWS.split(32)),
    "a list of arrays": lambda _: [x.numpy() for x in ROWS.split(32)],
    "batches of positions": lambda _: list(ROWS.view(8, 2, 16, D_IN)),
    "an iterator": lambda _: iter(ROWS.split(32)),
    "a loader of tuples": lambda _: DataLoader(TensorDataset(ROWS, torch.zeros(256)), 32),
    "a loader of rows": lambda _: DataLoader(ROWS, 32),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_activations_of_any_kind_are_trained_and_evaluated_on(kind: str, tmp_path: Path) -> None:
    dictionary, source = fresh(), SOURCES[kind](tmp_path)
    log = sae.fit(dictionary, source, sae.TrainConfig(n_tokens=256), progress=False)
    assert log[-1]["n_tokens"] == 256
    report = sae.evaluate_reconstruction(dictionary, SOURCES[kind](tmp_path))
    expected = sae.evaluate_reconstruction(dictionary, [ROWS])
    assert report.fvu == pytest.approx(expected.fvu, rel=1e-2 if "half" in kind else 1e-6)


def test_an_array_is_shuffled_and_each_row_is_seen_once_by_default() -> None:
    (first, second) = batches_of(torch.arange(2.0 * 512)[:, None].expand(-1, D_IN))
    assert sorted([*first[:, 0].tolist(), *second[:, 0].tolist()]) == list(range(1024))
    assert first[:, 0].tolist() != sorted(first[:, 0].tolist())
    assert sae.fit(fresh(), ROWS.numpy(), progress=False)[-1]["n_tokens"] == 256


def test_an_array_that_is_gone_through_several_times_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"600 .* are asked for and there are 256: .* 2.3 times"):
        log = sae.fit(fresh(), ROWS, sae.TrainConfig(n_tokens=600), progress=False)
    assert log[-1]["n_tokens"] == 600


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("rows.npy", r"activations must be a tensor or an array .*, got str \('rows.npy'\)"),
        ({"x": ROWS}, "an iterable of such batches, got dict"),
        ([1, 2], r"a batch of activations must be .*, got int \(1\)"),
        (["rows.npy"], r"got str \('rows.npy'\)"),
        (torch.zeros(8), r"got shape \(8,\)"),
        ([torch.zeros(4, 3)], r"activations of shape \(4, 3\) do not fit .* d_in 8"),
        (np.zeros((4, 3)), r"activations of shape \(4, 3\) do not fit .* d_in 8"),
    ],
)
def test_what_are_no_activations_is_one_line(source: Any, expected: str) -> None:
    with pytest.raises(sae.InputError, match=expected) as refused:
        sae.fit(fresh(), source, progress=False)
    assert "\n" not in str(refused.value)
