"""`sae.fit` trains to the end; what would go unnoticed is warned of."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sae
from activation_cache import HarvestConfig, LanguageModel, harvest
from sae.architectures import ReLUConfig, TopKConfig
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
