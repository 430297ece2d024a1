"""With which settings a run can be gone on with, from a program and from the script."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from in_process import called
from resuming import (
    Maker,
    assert_same,
    in_step,
    refused,
    sit,
    state_of,
    told,
)
from sweeps import MLP, RESID, SMALL, listed

from activation_cache import ActivationCache, CacheConfig, LanguageModel
from activation_cache.common.errors import InputError
from sae.commands import train as train_script
from sae.runs.run import run
from sae.runs.settings import RunSettings
from sae.runs.settings.groups import setting_groups
from sae.runs.settings.run_settings import MAY_CHANGE

CHANGES: dict[str, Any] = {
    "model": "other", "hook_name": (MLP,), "dataset": "other.txt", "text_column": "body",
    "architecture": "topk", "d_sae": 33, "k": 5, "tied": True, "n_tokens": 511,
    "batch_tokens": 32, "buffer_tokens": 512, "context_size": 15, "lr": 0.5, "eval_tokens": 64,
    "products": "bfloat16", "start_from": "other", "seed": 1, "data_seed": 1, "dtype": "float16",
}  # fmt: skip


def test_what_decides_the_result_may_not_change(
    died: RunSettings, monkeypatch: pytest.MonkeyPatch, gpt2: LanguageModel
) -> None:
    monkeypatch.setattr("sae.runs.inputs.load_model", lambda _name, **_options: gpt2)
    before = state_of(died.out)
    for name, value in CHANGES.items():
        changed = died.but(**{name: value})
        said = refused(lambda settings=changed: run(settings, resume=True))
        then, now = died.to_dict()[name], changed.to_dict()[name]
        assert f"begun with {name} {then!r}, and {now!r} is asked for" in said
        assert state_of(died.out) == before


def test_what_may_change_are_settings_and_none_of_those_that_decide_the_result() -> None:
    names = {setting.name for group in setting_groups().values() for setting in group}
    assert names >= {*MAY_CHANGE, *CHANGES} and not CHANGES.keys() & set(MAY_CHANGE)


def test_another_cache_or_number_of_epochs_is_refused(make: Maker, gpt2: LanguageModel) -> None:
    cfg = CacheConfig(
        hook_names=(RESID,), dataset=make().harvest.dataset, context_size=16, forward_tokens=128,
        n_tokens=400, held_out_tokens=60,
    )  # fmt: skip
    folder = make.folder / "cache"
    ActivationCache.create(folder, gpt2, cfg)
    shutil.copytree(folder, make.folder / "copy")
    given = {"model": None, "dataset": "docstrings", "context_size": 128, "n_tokens": None}
    settings = make(cache=str(folder), checkpoint_tokens=64, **given)
    assert sit(settings, in_step(4), resume=False)
    for name, value in (("cache", f"{folder.parent}/copy"), ("epochs", 2)):
        changed = settings.but(**{name: value}, n_tokens=400)
        assert f"{name} {getattr(settings, name)!r}" in refused(
            lambda s=changed: run(s, resume=True)
        )
    run(settings, resume=True)


def test_a_complete_run_is_evaluated_again_and_no_file_changes(make: Maker) -> None:
    settings, console = make(hook_name=(RESID, MLP)), told()
    first = run(settings)
    before = state_of(settings.out)
    again = run(settings, console, resume=True)
    assert [a.report.metrics() for a in again] == [f.report.metrics() for f in first]
    assert any("is complete" in line for line in console.lines())
    assert state_of(settings.out) == before


def test_a_longer_run_that_cannot_be_gone_on_with_leaves_the_complete_one(make: Maker) -> None:
    settings = make()
    run(settings)
    shutil.rmtree(settings.out / "checkpoints")
    before = listed(settings.out)
    for _ in range(2):
        said = refused(lambda: run(settings.but(n_tokens=513), resume=True))
        assert "no checkpoint" in said
        assert listed(settings.out) == before


CONFIGS = [None, b'{"settings": ']


@pytest.mark.parametrize("content", CONFIGS, ids=lambda content: str(content)[:40])
def test_without_its_config_a_run_goes_on_as_asked_or_is_refused_in_one_line(
    died: RunSettings, finished: Path, content: bytes | None
) -> None:
    damage(died.out / "config.json", content)
    try:
        run(died, resume=True)
    except InputError as error:
        assert "\n" not in str(error) and str(died.out) in str(error)
    else:
        assert_same(died.out, finished)


@pytest.mark.parametrize("content", CONFIGS, ids=lambda content: str(content)[:40])
def test_without_its_config_other_settings_are_refused_still(
    died: RunSettings, content: bytes | None
) -> None:
    damage(died.out / "config.json", content)
    before = listed(died.out)
    refused(lambda: run(died.but(lr=0.5), resume=True))
    assert listed(died.out) == before


def damage(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)


# The script --------------------------------------------------------------------------------------


def flags(settings: RunSettings, **changes: Any) -> list[str]:
    named = {name: settings.to_dict()[name] for name in (*SMALL, "model", "dataset", "init_tokens")}
    given = named | changes
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]


def test_resume_alone_takes_the_settings_of_the_run(make: Maker, finished: Path) -> None:
    out = make("run").out
    given = flags(make(), checkpoint_tokens=64, out=out)
    with pytest.raises(BaseException, match=r"^$"), pytest.MonkeyPatch.context() as patch:
        in_step(5)(patch)
        called(train_script.main, *given)
    for arguments in (["--resume", "--out", out], [f"--out={out}", "--resume"]):
        done = called(train_script.main, *arguments)
        assert done.code == 0, done.err
        assert_same(out, finished)
    done = called(train_script.main, "--resume", "--out", out, "--lr", "0.5")
    assert done.code == 2 and "lr None, and 0.5 is asked for" in done.err
    assert done.err.count("\n") == 1


def test_resume_of_what_does_not_exist_begins_it(make: Maker, finished: Path) -> None:
    done = called(train_script.main, "--resume", *flags(make(), out=make().out))
    assert done.code == 0, done.err
    assert_same(make().out, finished)


def test_a_damaged_config_is_told_by_the_script_in_one_line(died: RunSettings) -> None:
    damage(died.out / "config.json", b'{"settings": ')
    before = listed(died.out)
    done = called(train_script.main, "--resume", "--out", died.out)
    assert done.code == 2 and done.err.count("\n") == 1
    assert listed(died.out) == before
