"""What a run makes of batches that nothing finite can be learned from, and what it says."""

from in_process import called
from resuming import Maker, assert_same, bad_steps, checkpoints_in, refused, sit
from sweeps import MLP, RESID, SMALL, logged

import sae
from sae.commands import train as train_script
from sae.runs.run import run


def test_a_run_that_stopped_goes_on_without_the_bad_batch_as_if_that_had_been_asked_at_once(
    make: Maker,
) -> None:
    settings = make(checkpoint_tokens=64, log_every=1)
    skipping = make("skipping", on_nan="skip", log_every=1)
    with bad_steps(4, 6):
        said = refused(lambda: run(settings))
        good = checkpoints_in(settings.out)[-1]
        assert "step 4 (320 tokens)" in said and f"the last good checkpoint is {good}" in said
        assert good.name == f"{256:012}"
        assert refused(lambda: run(settings, resume=True)) == said
        run(settings.but(on_nan="skip"), resume=True)
        run(skipping)
    assert_same(settings.out, skipping.out)
    rows = logged(settings.out)
    assert [row["skipped"] for row in rows] == [0, 0, 0, 0, 1, 1, 2, 2]
    assert all(row["spikes"] == 0 for row in rows)


def test_the_script_says_so_in_one_line_and_exits_with_2(make: Maker) -> None:
    flags = {
        **SMALL,
        "model": make().model,
        "dataset": make().harvest.source,
        "checkpoint_tokens": 128,
    }
    given = [x for name, v in flags.items() for x in (f"--{name.replace('_', '-')}", v)]
    out = make.folder / "script"
    with bad_steps(3):
        done = called(train_script.main, *given, "--out", out)
        assert done.code == 2 and done.err.count("\n") == 1 and not (out / "eval.json").exists()
        assert f"the last good checkpoint is {out}/checkpoints/{128:012}" in done.err
        done = called(train_script.main, "--resume", "--out", out, "--on-nan", "skip")
        assert done.code == 0, done.err
    assert logged(out)[-1]["skipped"] == 1 and sae.load(out).d_sae == SMALL["d_sae"]


def test_a_run_that_stops_before_its_first_checkpoint_says_that(make: Maker) -> None:
    with bad_steps(1):
        said = refused(lambda: run(make()))
    assert "there is no checkpoint yet" in said and not make().out.exists()


def test_of_several_sites_the_one_that_is_bad_stops_alone(make: Maker) -> None:
    settings = make(hook_name=(RESID, MLP), checkpoint_tokens=64)
    run(make("alone"))
    with bad_steps(4, site=MLP):
        assert not sit(settings, lambda _patch: None, resume=False)
    assert_same(settings.out / RESID, make("alone").out)
    assert logged(settings.out / MLP)[-1]["n_tokens"] < 512
    assert sae.load(settings.out / MLP).d_sae == SMALL["d_sae"]
