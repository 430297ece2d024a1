"""In Weights & Biases, a sweep is one group of runs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from offline_wandb import history_of, records_of
from sweeps import interrupt, member

from sae.runs.sweep import SweepSettings, sweep


def assert_mirrored(folder: Path, group: str) -> None:
    """The offline run in a folder has its rows and its numbers, its name and this group.

    It has a file for each sitting.
    """
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    paths = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({path.stem for path in paths}) == 1  # named by the run's id
    *steps, last = [step for path in paths for step in history_of(path)]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [step["train/tokens"] for step in steps] == [row["n_tokens"] for row in rows]
    assert [step["Loss/mse"] for step in steps] == pytest.approx([row["mse"] for row in rows])
    metrics = json.loads((folder / "eval.json").read_text())["metrics"]
    assert last["eval/delta_ce"] == pytest.approx(metrics["delta_ce"])
    about = {
        (record.run.run_group, record.run.display_name)
        for path in paths
        for record in map(Record.FromString, records_of(path))
        if record.HasField("run")
    }
    assert about == {(group, f"{group}/{folder.name}")}


@pytest.mark.usefixtures("no_report")
@pytest.mark.slow
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
