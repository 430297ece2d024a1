"""A run that was cut short, however often and wherever, ends as one that nothing disturbed."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from resuming import (
    STEPS,
    Disturbance,
    Maker,
    assert_same,
    ctrl_c,
    die,
    in_call_of,
    in_checkpoint,
    in_step,
    run_disturbed,
    sit,
)
from sweeps import MLP, RESID, differences, logged

from activation_cache import ActivationCache, CacheConfig, LanguageModel
from sae.runs.run import run
from sae.runs.settings import RunSettings
from sae.training.trainer import Trainer

KINDS: dict[str, dict[str, Any]] = {
    "batch_topk": {"k": 2},
    "gated": {"l1_coeff": 15.0, "lr": 0.2},
    "jumprelu": {"l0_coeff": 0.1, "lr": 0.05},
    "tied relu": {"l1_coeff": 15.0, "lr": 0.05, "tied": True},
}
"""The state of every other kind is tested in test_states.py."""


def kind(name: str) -> dict[str, Any]:
    return {"architecture": name.split()[-1], "d_sae": 128, **KINDS[name]}


@pytest.fixture(scope="module")
def cache(gpt2: LanguageModel, dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    cfg = CacheConfig(
        hook_names=(RESID, MLP), dataset=dataset, context_size=16, forward_tokens=128,
        n_tokens=700, held_out_tokens=60, shard_tokens=256,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("cache") / "cache"
    ActivationCache.create(folder, gpt2, cfg)
    return str(folder)


@pytest.fixture
def lively(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else needs long runs: features are counted, and forms chosen, in every second step."""
    monkeypatch.setattr(Trainer, "COUNT_STEPS", 2)
    monkeypatch.setattr(Trainer, "SPARSE_BELOW", 0.4)
    monkeypatch.setattr(Trainer, "DENSE_ABOVE", 0.5)
    monkeypatch.setattr("sae.training.health.SETTLED_STEPS", 1)
    monkeypatch.setattr("sae.training.health.SPIKE", 1.0)


def assert_undisturbed(
    settings: RunSettings, disturbances: Sequence[Disturbance], **of_others: Any
) -> None:
    """Of the same settings, a run that is disturbed gives what another one gives at once."""
    other = settings.out.with_name("undisturbed")
    if not other.exists():
        run(settings.but(out=other, **of_others))
    run_disturbed(settings, disturbances)
    for site in settings.hook_names if len(settings.hook_names) > 1 else [""]:
        assert_same(settings.out / site, other / site)


OFTEN: Sequence[Disturbance] = (
    in_step(3, ctrl_c),
    in_step(2),
    in_checkpoint(1),
    in_step(1, ctrl_c),
)


@pytest.mark.usefixtures("lively")
@pytest.mark.parametrize("name", ["batch_topk", "gated"])
def test_a_run_ends_the_same_from_the_live_stream(make: Maker, name: str) -> None:
    settings = make(checkpoint_tokens=128, log_every=1, **kind(name))
    assert_undisturbed(settings, OFTEN)


@pytest.mark.usefixtures("lively")
@pytest.mark.parametrize("name", ["jumprelu", "tied relu"])
def test_a_run_ends_the_same_from_a_cache_at_two_sites(make: Maker, cache: str, name: str) -> None:
    settings = make(
        cache=cache, model=None, dataset="docstrings", context_size=128, hook_name=(RESID, MLP),
        checkpoint_tokens=128, n_tokens=610, **kind(name),
    )  # fmt: skip
    assert_undisturbed(settings, [in_step(5, ctrl_c), in_step(7), in_checkpoint(1)])


@pytest.mark.usefixtures("lively")
@pytest.mark.parametrize("name", ["gated", "jumprelu"])
def test_what_is_fragile_happens_in_these_runs(make: Maker, name: str) -> None:
    """Features die and densities change, losses jump: else the tests above say little."""
    settings = make(log_every=1, **kind(name))
    run(settings)
    rows = logged(settings.out)
    assert max(row["dead"] for row in rows) > 0
    assert rows[-1]["spikes"] > 0


def test_screened_products_are_gone_on_with_to_the_last_bit(make: Maker) -> None:
    settings = make(products="screened", k=4, checkpoint_tokens=64)
    assert_undisturbed(settings, [in_step(3), in_step(4, ctrl_c)])


def test_it_does_not_matter_where_in_or_behind_the_head_of_the_stream_it_was(make: Maker) -> None:
    """Of 18 steps, the first 16 train on what initialised the dictionary."""
    settings = make(n_tokens=9216, batch_tokens=512, buffer_tokens=1024, checkpoint_tokens=512, k=4)
    steps = [in_step(2), in_step(15, ctrl_c)]
    assert_undisturbed(settings, steps)


SITTING = st.tuples(
    st.sampled_from([in_step, in_checkpoint]),
    st.integers(1, STEPS),
    st.sampled_from([die, ctrl_c]),
)


@given(
    sittings=st.lists(SITTING, min_size=1, max_size=5),
    policy=st.sampled_from([{}, {"checkpoint_tokens": 64}, {"checkpoint_tokens": 150}]),
    log_every=st.integers(1, 3),
    data=st.data(),
)
@hypothesis_settings(
    max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_it_does_not_matter_when_how_often_and_by_what_it_was_cut_short(
    make: Maker,
    sittings: list[tuple[Callable[..., Disturbance], int, Callable[[], None]]],
    policy: dict[str, Any],
    log_every: int,
    data: st.DataObject,
) -> None:
    name = data.draw(st.sampled_from(["batch_topk", "jumprelu"]))
    folder = make.folder / f"{name} {log_every}"
    settings = make(**kind(name), log_every=log_every, **policy).but(out=folder / "run")
    disturbances = [place(n, happens=happens) for place, n, happens in sittings]
    assert_undisturbed(settings, disturbances)


def test_before_the_first_checkpoint_and_after_the_training_it_can_be_cut_short_too(
    make: Maker,
) -> None:
    of_run = ("write_file", "Logs", "save", "write_report")
    places = (*(f"run:{name}" for name in of_run), "inputs:evaluate_on_held_out_text")
    settings = make(hook_name=(RESID, MLP))
    assert_undisturbed(
        settings,
        [
            in_call_of(f"sae.runs.{place}", 1, happens)
            for place, happens in product(places, (die, ctrl_c))
        ]
        + [in_call_of("sae.runs.run:write_report", 2)],
    )


def test_without_any_checkpoint_it_begins_again(make: Maker) -> None:
    assert_undisturbed(make(log_every=1), [in_step(7), in_step(3), in_step(STEPS)])


def test_more_tokens_are_trained_for_longer_and_can_be_cut_short_as_well(make: Maker) -> None:
    """Whichever way the longer training was gone about, it is the same one."""
    for name, disturbances in (("one", []), ("other", [in_step(1, ctrl_c), in_step(1)])):
        settings = make(name, checkpoint_tokens=64)
        run(settings)
        longer = settings.but(n_tokens=640)
        for disturb in disturbances:
            assert sit(longer, disturb)
        run(longer, resume=True)
        assert logged(settings.out)[-1]["n_tokens"] == 640
    assert_same(make("other").out, make("one").out)


def test_how_it_is_shown_and_saved_may_change_and_the_folder_may_be_moved(make: Maker) -> None:
    assert_undisturbed(make(checkpoint_tokens=64), [in_step(4)], checkpoint_tokens=None)
    first = make("first", checkpoint_tokens=64)
    sit(first, in_step(5), resume=False)
    moved = make("moved", checkpoint_minutes=0.001, keep_checkpoints=9, keep_best=True)
    first.out.rename(moved.out)
    changed = moved.but(stop_signal="USR1", device="auto", on_nan="skip", wandb=None)
    run(changed.but(wandb="off"), resume=True)
    assert_same(moved.out, make("undisturbed").out)


def test_another_log_changes_the_log_alone(make: Maker) -> None:
    run(make("undisturbed"))
    settings = make(checkpoint_tokens=64)
    sit(settings, in_step(5), resume=False)
    run(settings.but(log_every=1), resume=True)
    assert differences(settings.out, make("undisturbed").out) == ["metrics.jsonl"]
    assert [row["step"] for row in logged(settings.out)] == [1, 3, 4, 5, 6, 7]
