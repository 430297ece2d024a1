"""Sweeps: each member is what it would be alone, and an interrupted sweep ends as any other."""

import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import sweep as sweep_script
import torch
from caches import write_texts
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sweeps import MLP, RESID, called, differences, grid_file, listed, logged
from test_wandb import _history, _records
from torch import Tensor

from activation_cache import ActivationCache, CacheConfig, LanguageModel
from sae.architectures import (
    AnySAEConfig,
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    TopKConfig,
)
from sae.base import SAE
from sae.errors import InputError
from sae.runs import SweepSettings, evaluate_dictionary, origin, run, sweep
from sae.runs.errors import BAD_INPUT
from sae.runs.pareto import write_plot
from sae.runs.settings import settings_from_file
from sae.serialization import load
from sae.training import TrainConfig, train
from sae.training.trainer import Trainer

Grid = Sequence[Mapping[str, Any]]

TWO: Grid = [{"architecture": ["topk", "relu"]}]
"""k is 32, which is all of the features."""
NAMES = ["topk", "relu"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_texts(tmp_path_factory.mktemp("sweeps") / "texts.jsonl")


@contextmanager
def loaded(gpt2: LanguageModel) -> Iterator[None]:
    """The model is loaded once for all tests, git is left alone, and nothing is drawn."""

    def load(name: str, **_options: object) -> LanguageModel:
        assert name == gpt2.name
        return gpt2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sae.runs.origin.load_model", load)
        patch.setattr("activation_cache.store.load_model", load)
        patch.setattr("sae.runs.settings.git_commit", lambda: None)
        # By its name, the module is hidden behind the function.
        module = importlib.import_module("sae.runs.sweep")
        patch.setattr(module, "write_plot", lambda _rows, _out: None)
        yield


@pytest.fixture(autouse=True)
def quick(gpt2: LanguageModel) -> Iterator[None]:
    with loaded(gpt2):
        yield


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae.runs.members.write_report", lambda _folder: None)


@pytest.fixture
def make(tmp_path: Path, gpt2: LanguageModel, dataset: str) -> Callable[..., SweepSettings]:
    """Settings of a sweep with this grid; what is not named is small."""

    def settings(grid: Grid, *, out: str = "sweep", **shared: Any) -> SweepSettings:
        own = ("resume", "members_per_pass")
        flags = {name: shared.pop(name) for name in own if name in shared}
        shared = {"model": gpt2.name, "dataset": dataset, **shared}
        path = grid_file(tmp_path / f"{out}.json", grid, **shared)
        return SweepSettings(grid=path, out=tmp_path / out, **flags)

    return settings


@pytest.fixture(scope="module")
def cache(
    gpt2: LanguageModel, dataset: str, tmp_path_factory: pytest.TempPathFactory
) -> ActivationCache:
    """700 rows of two sites in contexts of 16 tokens: no whole number of batches of 64."""
    cfg = CacheConfig(
        hook_names=(RESID, MLP), dataset=dataset, context_size=16, forward_tokens=128,
        n_tokens=700, held_out_tokens=60, shard_tokens=256,
    )  # fmt: skip
    return ActivationCache.create(tmp_path_factory.mktemp("cache") / "cache", gpt2, cfg)


def member(settings: SweepSettings, name: str) -> Path:
    return settings.out / "members" / name


def assert_each_is_as_if_alone(settings: SweepSettings) -> None:
    rows = sweep(settings)
    assert {row.name for row in rows} == {
        path.name for path in (settings.out / "members").iterdir()
    }
    for row in rows:
        folder = member(settings, row.name)
        alone = settings.out / "alone" / row.name
        run(replace(settings_from_file(folder / "config.json"), out=alone))
        assert not differences(folder, alone), row.name


# Each member is what it would be alone -----------------------------------------------------------

VARIED: Grid = [
    {"architecture": "topk", "k": 4, "seed": 1},
    {"architecture": "topk", "k": 2, "tied": True, "hook_name": MLP, "n_tokens": 150},
    {"architecture": "batch_topk", "k": 4, "products": "bfloat16", "n_tokens": 300},
    {"architecture": "matryoshka", "k": 3, "tied": True, "d_sae": 48, "products": "screened"},
    {"architecture": "relu", "l1_coeff": 1, "lr": "1e-2", "hook_name": MLP},
    {"architecture": "gated", "tied": True, "d_sae": 40, "n_tokens": 1},
    {"architecture": "jumprelu", "l0_coeff": 0.1, "seed": 1, "n_tokens": 640},
]


@pytest.mark.usefixtures("no_report")
def test_members_of_every_kind_are_to_the_last_bit_what_they_are_alone(
    make: Callable[..., SweepSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make(VARIED, n_tokens=320)
    assert_each_is_as_if_alone(settings)
    monkeypatch.setattr("sae.runs.evaluation.load_model", origin.load_model)
    for folder in sorted((settings.out / "members").iterdir())[:2]:
        report = evaluate_dictionary(load(folder)).to_json()
        assert report == (folder / "eval.json").read_text().rstrip("\n")


@pytest.mark.usefixtures("no_report")
def test_members_that_read_a_cache_in_whole_batches_are_what_they_are_alone(
    make: Callable[..., SweepSettings], cache: ActivationCache
) -> None:
    grid = [
        {"architecture": "relu", "n_tokens": [128, 640]},
        {"architecture": "batch_topk", "hook_name": MLP, "n_tokens": 320, "seed": 1},
    ]
    assert_each_is_as_if_alone(make(grid, cache=cache.folder))


@pytest.mark.usefixtures("no_report")
def test_members_that_read_a_cache_up_to_any_row_are_what_they_are_alone(
    make: Callable[..., SweepSettings], cache: ActivationCache
) -> None:
    """The last batch of a cache is cut off at n_tokens: 36 rows for the first, not 64."""
    grid = [{"architecture": "topk", "k": 4, "n_tokens": [100, 700, 1000]}]
    settings = make(grid, cache=cache.folder, epochs=2)
    assert_each_is_as_if_alone(settings)
    name = "topk-k4-n_tokens100"
    assert logged(member(settings, name))[-1]["n_tokens"] == 100


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("is_cached", [False, True])
def test_every_architecture_seed_width_site_and_product_is_what_it_is_alone(
    make: Callable[..., SweepSettings], cache: ActivationCache, is_cached: bool
) -> None:
    """Widths of 32 and 200: of the wider ones, jumprelu and relu may become sparse on the way."""
    each: Mapping[str, Any] = {
        "tied": [False, True],
        "seed": [0, 1],
        "d_sae": [32, 200],
        "hook_name": [RESID, MLP],
    }
    grid = [
        {"architecture": ["topk", "batch_topk", "matryoshka"], "k": 2, **each},
        {"architecture": ["relu", "gated"], "l1_coeff": 8, "lr": 0.01, **each},
        {"architecture": "jumprelu", "l0_coeff": 2, "lr": 0.01, "n_tokens": 1280, **each},
        {
            "architecture": ["topk", "batch_topk", "matryoshka"],
            "products": ["bfloat16", "screened"],
            "n_tokens": [64, 192],
        },
        {"architecture": ["relu", "jumprelu", "gated"], "products": "bfloat16"},
    ]
    cached = {"cache": cache.folder, "epochs": 2} if is_cached else {}
    assert_each_is_as_if_alone(make(grid, n_tokens=1024, **cached))


@pytest.mark.usefixtures("no_report")
def test_neither_the_order_of_members_nor_the_number_of_passes_matters(
    make: Callable[..., SweepSettings],
) -> None:
    grid: Grid = [
        {"architecture": "topk", "k": [2, 4]},
        {"architecture": "jumprelu", "n_tokens": 192, "hook_name": MLP},
    ]
    whole = make(grid)
    turned = make(
        [{**block, "k": [4, 2]} if "k" in block else block for block in grid][::-1], out="turned"
    )
    passes = make(grid, out="passes", members_per_pass=2)
    names = [[row.name for row in sweep(settings)] for settings in (whole, turned, passes)]
    assert names[0] == names[1] == names[2] and len(names[0]) == 3
    for name, other in product(names[0], (turned, passes)):
        assert not differences(member(whole, name), member(other, name)), name
    results = [(settings.out / "results.json").read_bytes() for settings in (whole, turned, passes)]
    assert results[0] == results[1] == results[2]


# The library: dictionaries trained on any batches ------------------------------------------------

CONFIGS: Sequence[AnySAEConfig] = [
    config
    for tied in (False, True)
    for config in (
        TopKConfig(d_sae=12, k=2, tied=tied),
        BatchTopKConfig(d_sae=12, k=2, tied=tied),
        MatryoshkaConfig(d_sae=12, k=2, tied=tied),
        ReLUConfig(d_sae=12, tied=tied),
        GatedConfig(d_sae=12, tied=tied),
        JumpReLUConfig(d_sae=12, tied=tied),
    )
]


def batches_of(lengths: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, 6, generator=generator).exp() for length in lengths]


def trained(sae: SAE, batches: Sequence[Tensor], cfg: TrainConfig) -> list[dict[str, Any]]:
    return [said(record) for record in train(sae, batches, cfg)]


def said(record: Any) -> dict[str, Any]:
    """Everything of a record but which dictionary it is of."""
    values = {**vars(record), **{f"part {name}": x for name, x in record.parts.items()}}
    del values["dictionary"], values["parts"]
    return {name: x.item() if isinstance(x, Tensor) else x for name, x in values.items()}


@given(
    configs=st.lists(st.sampled_from(CONFIGS), min_size=2, max_size=3),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    init_tokens=st.tuples(*3 * [st.integers(1, 60)]),
    n_tokens=st.tuples(*3 * [st.integers(1, 120)]),
)
@example(  # the second looks at three batches before the first, which stops at once
    configs=[CONFIGS[1], CONFIGS[3]],
    lengths=[7, 7, 7, 7],
    init_tokens=(8, 15, 1),
    n_tokens=(7, 28, 1),
)
@hypothesis_settings(max_examples=12, deadline=None)
def test_dictionaries_with_other_heads_and_ends_get_what_each_gets_alone(
    configs: Sequence[AnySAEConfig],
    lengths: Sequence[int],
    init_tokens: Sequence[int],
    n_tokens: Sequence[int],
) -> None:
    batches = batches_of(lengths)
    cfgs = [
        TrainConfig(init_tokens=init, n_tokens=n, seed=i, lr=0.01 * (i + 1))
        for i, (init, n, _) in enumerate(zip(init_tokens, n_tokens, configs, strict=False))
    ]
    together = [config.build(6, seed=i) for i, config in enumerate(configs)]
    records: list[list[dict[str, Any]]] = [[] for _ in configs]
    for record in train(together, iter(batches), cfgs):
        records[record.dictionary].append(said(record))
    for i, config in enumerate(configs):
        alone = config.build(6, seed=i)
        assert repr(trained(alone, batches, cfgs[i])) == repr(records[i])  # NaN equals NaN
        for name, weights in alone.state_dict().items():
            assert torch.equal(
                weights.nan_to_num(7.0), together[i].state_dict()[name].nan_to_num(7.0)
            )


def test_a_batch_is_left_as_it_is_by_those_that_train_on_it() -> None:
    batches = batches_of([16, 16])
    before = [batch.clone() for batch in batches]
    saes = [config.build(6) for config in CONFIGS]
    for _ in train(saes, batches, TrainConfig(n_tokens=32)):
        pass
    assert all(torch.equal(a, b) for a, b in zip(batches, before, strict=True))


def test_each_dictionary_stops_at_its_own_budget_and_the_stream_is_read_no_further() -> None:
    stream = iter(batches_of([16] * 10))
    saes = [TopKConfig(d_sae=12, k=2).build(6) for _ in range(2)]
    cfgs = [TrainConfig(n_tokens=32), TrainConfig(n_tokens=64)]
    seen = [(record.dictionary, record.n_tokens) for record in train(saes, stream, cfgs)]
    assert seen == [(0, 16), (1, 16), (0, 32), (1, 32), (1, 48), (1, 64)]
    assert len(list(stream)) == 6


def test_as_many_configs_as_dictionaries_are_wanted() -> None:
    saes = [TopKConfig(d_sae=12, k=2).build(6) for _ in range(2)]
    with pytest.raises(ValueError):
        next(train(saes, batches_of([16]), [TrainConfig()]))


@pytest.mark.parametrize("second", ["nan", "wide"])
def test_a_head_that_is_refused_for_one_leaves_the_others_as_they_were(second: str) -> None:
    """Whoever saves what there is after a refusal must be told of the refusal alone."""
    fine = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    bad = torch.full((16, 6), torch.nan) if second == "nan" else torch.ones(16, 7)
    saes = [TopKConfig(d_sae=12, k=2).build(6) for _ in range(2)]
    for sae, name in zip(saes, "ab", strict=True):
        sae.metadata["hook_name"] = name
    with pytest.raises(InputError):
        next(train(saes, [{"a": fine, "b": bad}], TrainConfig()))
    assert [sae.input_scale for sae in saes] == [1.0, 1.0]


# What is left behind, and shown ------------------------------------------------------------------


def test_a_sweep_shows_and_writes_what_it_found(
    make: Callable[..., SweepSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a table of 80 columns, these names take two lines."""
    monkeypatch.setattr(importlib.import_module("sae.runs.sweep"), "write_plot", write_plot)
    monkeypatch.setenv("COLUMNS", "80")
    settings = make([{"architecture": "topk", "k": [2, 8], "hook_name": MLP, "n_tokens": 128}])
    done = called(sweep_script.main, settings.grid, "--out", settings.out)
    assert done.code == 0, done.err
    names = {f"topk-k{k}-{MLP}-n_tokens128" for k in (2, 8)}
    results = json.loads((settings.out / "results.json").read_text())
    assert {row["name"] for row in results} == names
    for row in results:
        metrics = json.loads((member(settings, row["name"]) / "eval.json").read_text())["metrics"]
        assert row["metrics"] == metrics
        assert (row["hook_name"], row["architecture"]) == (MLP, "topk")
    cells = [line.split("│")[1].strip() for line in done.out.splitlines() if line[:1] == "│"]
    assert "".join(cells) == "".join(row["name"] for row in results)
    assert str(settings.out / "pareto.png") in done.out
    assert (settings.out / "pareto.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "<svg" in (settings.out / "pareto.svg").read_text()


def test_the_grid_may_come_behind_the_flags(make: Callable[..., SweepSettings]) -> None:
    settings = make([{"n_tokens": 64}])
    flags = ("--out", settings.out, "--device", "cpu", "--resume")
    done = called(sweep_script.main, *flags, settings.grid)
    assert done.code == 0, done.err
    assert (settings.out / "results.json").is_file()
    assert (member(settings, "n_tokens64") / "report.html").is_file()


def test_the_out_of_a_grid_file_leads_nowhere(
    make: Callable[..., SweepSettings], tmp_path: Path
) -> None:
    settings = make([{"n_tokens": 64}])
    content = json.loads(settings.grid.read_text())
    elsewhere = tmp_path / "elsewhere"
    settings.grid.write_text(json.dumps({**content, "out": str(elsewhere)}))
    with contextlib.suppress(*BAD_INPUT):
        sweep(settings)
    assert not elsewhere.exists()


@pytest.mark.parametrize("architecture", ["topk", "relu"])
def test_a_member_that_diverges_is_reported_beside_the_others(
    make: Callable[..., SweepSettings], architecture: str
) -> None:
    """Of a dictionary whose weights are NaN, eval.json holds neither FVU nor delta CE."""
    settings = make([{"architecture": architecture, "lr": [1e30, 1e-3]}])
    fine, diverged = sweep(settings)
    assert (fine.name, diverged.name) == (f"{architecture}-lr0.001", f"{architecture}-lr1e+30")
    assert fine.fronts and not diverged.fronts
    results = json.loads((settings.out / "results.json").read_text(), parse_constant=pytest.fail)
    assert [row["name"] for row in results] == [fine.name, diverged.name]


def test_a_folder_is_shown_by_its_name_whatever_is_in_it(
    make: Callable[..., SweepSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets are markup to the library that prints."""
    monkeypatch.setattr("sae.runs.members.write_report", lambda _folder: None)
    out = tmp_path / "a [b] [" / "c]"
    done = called(sweep_script.main, make([{"n_tokens": 64}]).grid, "--out", out)
    assert done.code == 0 and str(out / "results.json") in done.out


# Going on with a sweep ---------------------------------------------------------------------------


def interrupt(monkeypatch: pytest.MonkeyPatch, n_steps: int) -> pytest.MonkeyPatch:
    """Ctrl-C in the middle of the n-th training step, whichever dictionary it is of."""
    step = Trainer.step
    taken = 0

    def stepping(trainer: Trainer, x: Tensor) -> Any:
        nonlocal taken
        taken += 1
        if taken == n_steps:
            raise KeyboardInterrupt
        return step(trainer, x)

    monkeypatch.setattr(Trainer, "step", stepping)
    return monkeypatch


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by a step of any dictionary."""
    step = Trainer.step
    taken: list[int] = []

    def stepping(trainer: Trainer, x: Tensor) -> Any:
        taken.append(trainer.sae.d_sae)
        return step(trainer, x)

    monkeypatch.setattr(Trainer, "step", stepping)
    return taken


@pytest.fixture(scope="module")
def finished(
    gpt2: LanguageModel, dataset: str, tmp_path_factory: pytest.TempPathFactory
) -> SweepSettings:
    folder = tmp_path_factory.mktemp("finished")
    shared = {"model": gpt2.name, "dataset": dataset, "n_tokens": 192}
    settings = SweepSettings(
        grid=grid_file(folder / "grid.json", TWO, **shared), out=folder / "out"
    )
    with loaded(gpt2):
        sweep(settings)
    return settings


@pytest.fixture
def undisturbed(finished: SweepSettings, tmp_path: Path) -> SweepSettings:
    """A sweep that nothing disturbed, which a test may disturb."""
    out = tmp_path / "undisturbed"
    shutil.copytree(finished.out, out)
    return replace(finished, out=out)


def assert_equal_sweeps(settings: SweepSettings, other: SweepSettings) -> None:
    for name in NAMES:
        assert not differences(member(settings, name), member(other, name)), name
        assert (member(settings, name) / "report.html").is_file()
    assert (settings.out / "results.json").read_bytes() == (other.out / "results.json").read_bytes()


def test_an_interrupted_sweep_goes_on_to_the_same_results(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make(TWO, n_tokens=192)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        interrupt(patch, n_steps=4)
        sweep(settings)
    for name in NAMES:  # the dictionaries are saved as they were then
        assert (member(settings, name) / "sae" / "cfg.json").is_file()
        assert not (member(settings, name) / "eval.json").exists()
    sweep(replace(settings, resume=True))
    assert_equal_sweeps(settings, undisturbed)


def test_members_of_a_pass_that_was_finished_are_not_touched_again(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make(TWO, n_tokens=192, members_per_pass=1)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        interrupt(patch, n_steps=5)  # three steps of the first, one of the second
        sweep(settings)
    before = times(member(settings, "topk"))
    with monkeypatch.context() as patch:
        taken = count_steps(patch)
        sweep(replace(settings, resume=True))
    assert len(taken) == 3
    assert times(member(settings, "topk")) == before
    assert_equal_sweeps(settings, undisturbed)


def test_a_finished_sweep_that_goes_on_trains_nothing_and_tells_the_same(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = times(undisturbed.out / "members")
    results = (undisturbed.out / "results.json").read_bytes()
    taken = count_steps(monkeypatch)
    sweep(replace(undisturbed, resume=True))
    assert not taken and times(undisturbed.out / "members") == before
    assert (undisturbed.out / "results.json").read_bytes() == results


@pytest.mark.parametrize("place", ["evaluate_on_held_out_text", "write_report"])
def test_a_sweep_interrupted_after_its_training_goes_on_to_the_same_files(
    make: Callable[..., SweepSettings],
    undisturbed: SweepSettings,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    settings = make(TWO, n_tokens=192)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(f"sae.runs.members.{place}", interrupted)
        sweep(settings)
    sweep(replace(settings, resume=True))
    assert_equal_sweeps(settings, undisturbed)


def test_going_on_with_a_sweep_that_was_not_begun_begins_it(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings
) -> None:
    settings = make(TWO, n_tokens=192, resume=True)
    sweep(settings)
    assert_equal_sweeps(settings, undisturbed)


def test_a_grid_that_has_grown_trains_what_is_new(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = times(undisturbed.out / "members" / "topk")
    grown = make(
        [{"architecture": "gated", "d_sae": 16}, *TWO], out="undisturbed", n_tokens=192, resume=True
    )
    taken = count_steps(monkeypatch)
    rows = sweep(grown)
    assert taken == [16, 16, 16]
    assert {row.name for row in rows} == {*NAMES, "gated-d_sae16"}
    assert times(undisturbed.out / "members" / "topk") == before


def test_what_may_differ_between_two_sittings_is_where_and_how_it_is_shown(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = make(TWO, out="undisturbed", n_tokens=192, log_every=1, device="cpu", resume=True)
    taken = count_steps(monkeypatch)
    sweep(again)
    assert not taken


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_tokens": 193}, "n_tokens 192, and the grid says 193"),
        ({"lr": 0.01}, "lr None, and the grid says 0.01"),
        ({"data_seed": 1}, "data_seed 0, and the grid says 1"),
        ({"eval_tokens": 64}, "eval_tokens 128, and the grid says 64"),
        ({"hook_name": MLP}, f"hook_name '{RESID}', and the grid says '{MLP}'"),
        ({"products": "bfloat16"}, "products 'float32', and the grid says 'bfloat16'"),
    ],
)
def test_settings_that_have_changed_are_refused_and_nothing_is_touched(
    make: Callable[..., SweepSettings],
    undisturbed: SweepSettings,
    changes: dict[str, Any],
    message: str,
) -> None:
    """Members that are new come first in the list: they are not begun either."""
    changed = make(
        [{"architecture": "gated"}, *TWO],
        out="undisturbed",
        **{"n_tokens": 192, **changes, "resume": True},
    )
    before = times(undisturbed.out)
    with pytest.raises(BAD_INPUT, match=re.escape(message)) as raised:
        sweep(changed)
    assert "\n" not in str(raised.value)
    assert times(undisturbed.out) == before


def test_a_member_whose_evaluation_was_cut_short_is_trained_again(
    undisturbed: SweepSettings, finished: SweepSettings
) -> None:
    path = member(undisturbed, "relu") / "eval.json"
    path.write_bytes(path.read_bytes()[:200])
    sweep(replace(undisturbed, resume=True))
    assert_equal_sweeps(undisturbed, finished)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", None),
        ("config.json", b"[]"),
        ("config.json", b'{"settings": 4}'),
        ("eval.json", b'{"metrics": {}}'),
        ("eval.json", b"\xff"),
    ],
)
def test_a_damaged_member_is_trained_again_or_refused_by_name(
    make: Callable[..., SweepSettings],
    undisturbed: SweepSettings,
    finished: SweepSettings,
    name: str,
    content: bytes | None,
) -> None:
    path = member(undisturbed, "relu") / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    before = times(member(undisturbed, "topk"))
    try:
        sweep(replace(undisturbed, resume=True))
    except BAD_INPUT as error:
        assert "relu" in str(error) and "\n" not in str(error)
    else:
        assert_equal_sweeps(undisturbed, finished)
    assert times(member(undisturbed, "topk")) == before


def test_what_lies_beside_the_members_stays_there(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings
) -> None:
    notes = undisturbed.out / "members" / "notes.txt"
    notes.write_text("mine")
    older = undisturbed.out / "members" / "topk-k16"
    older.mkdir()
    sweep(replace(undisturbed, resume=True))
    assert notes.read_text() == "mine" and older.is_dir()


@pytest.mark.slow
def test_a_sweep_that_was_stopped_by_ctrl_c_goes_on_to_the_same_results(tmp_path: Path) -> None:
    shared = {"hook_name": "blocks.0.hook_resid_pre", "buffer_tokens": 4096, "log_every": 1}
    grid = [{"architecture": "topk", "k": 4, "n_tokens": [512, 20_480]}]
    path = grid_file(tmp_path / "grid.yaml", grid, context_size=32, **shared)
    short, long = "topk-k4-n_tokens512", "topk-k4-n_tokens20480"

    def command(out: Path, *flags: str) -> list[str]:
        script = [sys.executable, str(sweep_script.__file__), str(path)]
        return [*script, "--out", str(out), "--members-per-pass", "1", *flags]

    options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    process = subprocess.Popen(command(stopped), **options)
    log = stopped / "members" / long / "metrics.jsonl"
    for _ in range(1200):
        if process.poll() is not None or (log.exists() and log.stat().st_size > 500):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == b"interrupted\n"
    assert not (stopped / "members" / long / "eval.json").exists()
    assert (stopped / "members" / long / "sae" / "cfg.json").is_file()
    before = times(stopped / "members" / short)
    subprocess.run(command(stopped, "--resume"), check=True, **options)
    assert times(stopped / "members" / short) == before
    subprocess.run(command(whole), check=True, **options)
    for name in (short, long):
        assert not differences(stopped / "members" / name, whole / "members" / name)
    assert (stopped / "results.json").read_bytes() == (whole / "results.json").read_bytes()


# Refused once the model or the cache is known ----------------------------------------------------


def assert_refused(settings: SweepSettings, message: str, *flags: str) -> None:
    """In one line, and with everything as it was."""
    around = settings.out.parent
    before = listed(around)
    done = called(
        sweep_script.main,
        *(settings.grid, "--out", settings.out, *flags),
        *(["--resume"] if settings.resume else []),
    )
    assert done.code == 2, done
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert re.search(message, done.err), done.err
    assert listed(around) == before


ODD_NAMES = {
    "unknown": "blocks.1.hook_magic",
    "too deep": "blocks.9.hook_resid_pre",
    "up": "..",
    "here": ".",
    "nothing": "",
    "far up": "../../../etc",
    "absolute": "/tmp/escaped",
    "up behind a name": "blocks.1.hook_resid_pre/../../../escaped",
    "with spaces": "blocks.1.hook_resid_pre ",
    "with a new line": "blocks.1.\nhook_resid_pre",
    "with a zero byte": "blocks.1.\0",
    "very long": "x" * 300,
    "markup": "[/red]",
}


@pytest.mark.parametrize("hook_name", ["blocks.1.hook_magic", "..", "", "/tmp/escaped"])
def test_a_site_that_the_model_does_not_have_is_refused_and_leaves_nothing_behind(
    make: Callable[..., SweepSettings], hook_name: str
) -> None:
    assert_refused(
        make([{"hook_name": [RESID, hook_name]}]),
        "hook name|does not exist|no folder can be named after",
    )


@pytest.mark.parametrize("hook_name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_a_site_that_the_model_does_not_have_costs_no_member_that_is_trained(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings, hook_name: str
) -> None:
    grid = [*TWO, {"hook_name": hook_name}]
    grown = make(grid, out="undisturbed", n_tokens=192, resume=True)
    assert_refused(grown, "hook name|does not exist|no folder can be named after")


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ({"hook_name": [RESID, MLP]}, "2 sites: vary hook_name under `grid`"),
        ({"context_size": 64}, "context_size 64 is more than .* can see: give at most 32"),
        ({"dataset": "no/such/file.txt"}, "no text file at no/such/file.txt"),
        ({"device": "tpu"}, "device"),
        ({"model": "missing.gguf"}, "no GGUF file at missing.gguf"),
        ({"cache": "/nowhere"}, "/nowhere is not an activation cache"),
    ],
)
def test_what_only_the_model_or_the_text_shows_to_be_wrong_leaves_nothing_behind(
    make: Callable[..., SweepSettings],
    monkeypatch: pytest.MonkeyPatch,
    shared: dict[str, Any],
    message: str,
) -> None:
    if "model" in shared or "device" in shared:
        from activation_cache import load_model

        monkeypatch.setattr("sae.runs.origin.load_model", load_model)
    assert_refused(make(TWO, **shared), message)


@pytest.mark.parametrize(
    ("grid", "shared", "message"),
    [
        ([{"n_tokens": [64, 701]}], {}, "holds 700 rows of train.*give --epochs 2"),
        (
            [{"hook_name": [RESID, "blocks.0.hook_resid_pre"]}],
            {},
            "has no site blocks.0.hook_resid_pre",
        ),
        (TWO, {"hook_name": [RESID, MLP]}, "2 sites: vary hook_name under `grid`"),
        (TWO, {"model": "tiny"}, "model 'tiny' is not what the cache"),
        (TWO, {"context_size": 32}, "context_size 32 is not what the cache"),
        (TWO, {"dtype": "bfloat16"}, "dtype 'bfloat16' is not what the cache"),
        (TWO, {"dataset": "other.txt"}, "dataset 'other.txt' is not what the cache"),
    ],
)
def test_what_the_cache_does_not_hold_is_refused_and_leaves_nothing_behind(
    make: Callable[..., SweepSettings],
    cache: ActivationCache,
    grid: Grid,
    shared: dict[str, Any],
    message: str,
) -> None:
    assert_refused(make(grid, cache=cache.folder, **shared), message)


def test_what_is_wrong_with_a_later_pass_is_refused_before_the_first(
    make: Callable[..., SweepSettings], cache: ActivationCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = count_steps(monkeypatch)
    for grid in ([{"n_tokens": [64, 701]}], [{"hook_name": [RESID, "blocks.0.hook_mlp_out"]}]):
        assert_refused(
            make(grid, cache=cache.folder), "701|hook_mlp_out", "--members-per-pass", "1"
        )
    assert not taken


def test_without_a_site_a_cache_of_several_wants_one_to_be_named(
    make: Callable[..., SweepSettings], cache: ActivationCache
) -> None:
    settings = make(TWO, cache=cache.folder)
    content = json.loads(settings.grid.read_text())
    del content["hook_name"]
    settings.grid.write_text(json.dumps(content))
    assert_refused(settings, "2 sites: vary hook_name under `grid`")


@pytest.mark.parametrize("out", ["file", "file/sweep", "/proc/sweep", "x" * 300])
def test_a_folder_that_cannot_be_written_to_is_refused(
    make: Callable[..., SweepSettings], tmp_path: Path, out: str
) -> None:
    (tmp_path / "file").write_text("mine")
    settings = make(TWO, n_tokens=64)
    flags = ["--resume"] if out == "file" else []
    done = called(sweep_script.main, settings.grid, "--out", tmp_path / out, *flags)
    assert done.code == 2 and done.err.count("\n") == 1, done.err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_that_is_read_only_is_refused(
    make: Callable[..., SweepSettings], tmp_path: Path
) -> None:
    settings = make(TWO, n_tokens=64)
    (tmp_path / "closed").mkdir(mode=0o500)
    done = called(sweep_script.main, settings.grid, "--out", tmp_path / "closed" / "sweep")
    assert done.code == 2 and done.err.count("\n") == 1, done.err


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_that_torch_cannot_take_is_refused(
    make: Callable[..., SweepSettings], seed: int
) -> None:
    assert_refused(make([{"seed": [0, seed]}]), "seed")


# Weights & Biases --------------------------------------------------------------------------------


def assert_mirrored(folder: Path, group: str) -> None:
    """The one offline run in a folder has its rows and its numbers, its name and this group."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    *steps, last = _history(path)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [step["train/tokens"] for step in steps] == [row["n_tokens"] for row in rows]
    assert [step["Loss/mse"] for step in steps] == pytest.approx([row["mse"] for row in rows])
    metrics = json.loads((folder / "eval.json").read_text())["metrics"]
    assert last["eval/delta_ce"] == pytest.approx(metrics["delta_ce"])
    about = {
        (record.run.run_group, record.run.display_name)
        for record in map(Record.FromString, _records(path))
        if record.HasField("run")
    }
    assert about == {(group, f"{group}/{folder.name}")}


@pytest.mark.usefixtures("no_report")
def test_every_member_is_a_run_of_its_own_in_one_group(make: Callable[..., SweepSettings]) -> None:
    settings = make([{"architecture": "topk", "n_tokens": [128, 256]}])
    sweep(replace(settings, wandb="offline"))
    for n_tokens in (128, 256):
        assert_mirrored(member(settings, f"topk-n_tokens{n_tokens}"), "sweep")


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_every_member_of_every_pass_is_a_run_of_its_own_even_after_an_interruption(
    make: Callable[..., SweepSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make([{"architecture": "topk", "k": [1, 2, 3, 4]}], members_per_pass=2)
    settings = replace(settings, wandb="offline")
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        interrupt(patch, n_steps=20)
        sweep(settings)
    sweep(replace(settings, resume=True))
    for k in (1, 2, 3, 4):
        assert_mirrored(member(settings, f"topk-k{k}"), "sweep")
