"""What a sweep leaves behind, and what it shows."""

import contextlib
import importlib
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from in_process import called
from sweeps import MLP, member

from activation_cache.common.errors import InputError
from sae.commands import sweep as sweep_script
from sae.pages.pareto import write_plot
from sae.runs.sweep import SweepSettings, sweep


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
    with contextlib.suppress(InputError):
        sweep(settings)
    assert not elsewhere.exists()


def test_a_member_that_diverges_is_reported_beside_the_others(
    make: Callable[..., SweepSettings],
) -> None:
    """Of a dictionary whose weights are NaN, eval.json holds neither FVU nor delta CE."""
    settings = make([{"lr": [1e30, 1e-3]}])
    fine, diverged = sweep(settings)
    assert (fine.name, diverged.name) == ("lr0.001", "lr1e+30")
    assert fine.fronts and not diverged.fronts
    results = json.loads((settings.out / "results.json").read_text(), parse_constant=pytest.fail)
    assert [row["name"] for row in results] == [fine.name, diverged.name]


def test_a_folder_is_shown_by_its_name_whatever_is_in_it(
    make: Callable[..., SweepSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets are markup to the library that prints."""
    monkeypatch.setattr(import_module("sae.runs.run"), "write_report", lambda _folder: None)
    out = tmp_path / "a [b] [" / "c]"
    done = called(sweep_script.main, make([{"n_tokens": 64}]).grid, "--out", out)
    assert done.code == 0 and str(out / "results.json") in done.out
