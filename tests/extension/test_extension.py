"""A new architecture and a new metric are one file and one line, also from outside the package."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process found in which the package of this folder is installed."""
    folder = tmp_path_factory.mktemp("outside")
    path = os.pathsep.join([str(HERE / "installed"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE / "outside.py"), str(folder), str(folder / "found.json")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


def test_an_architecture_from_outside_trains_from_the_command_line_with_its_own_flags(
    outside: dict[str, Any],
) -> None:
    code, out, err = outside["trained"]
    assert (code, err) == (0, "")
    assert "soft_relu dictionary on" in out
    assert outside["config"]["softness"] == 0.25 and "k" not in outside["config"]
    assert "--softness X" in outside["help"][1] and "(soft_relu: 0.5)" in outside["help"][1]


def test_its_settings_are_refused_for_others(outside: dict[str, Any]) -> None:
    code, _, err = outside["refused"]
    assert code == 2 and "unknown settings for the architecture batch_topk: softness" in err


def test_it_loads_and_is_evaluated_again_from_its_files(outside: dict[str, Any]) -> None:
    assert outside["loaded"] == ["SoftReLUSAE", 0.25] and outside["features"]
    code, out, _ = outside["evaluated"]
    assert code == 0 and "soft_relu dictionary on" in out


def test_it_says_that_other_projects_have_no_word_for_it(outside: dict[str, Any]) -> None:
    code, _, err = outside["converted"]
    assert code == 2 and "soft_relu" in err


def test_it_is_in_the_report_and_in_the_table_of_the_documentation(outside: dict[str, Any]) -> None:
    assert "<h1>SoftReLU dictionary" in outside["report"]
    row = "| `soft_relu` | a penalty on squared features | `--auxk-coeff`, `--softness`, `--square"
    assert row in outside["docs"]["training.md"]
    assert "`--softness`" in outside["docs"]["settings.md"]


def test_it_passes_the_tests_of_every_architecture(outside: dict[str, Any]) -> None:
    code, told = outside["contract"]
    assert code == 0, told
    assert " passed" in told and "failed" not in told


def test_a_metric_from_outside_stands_wherever_numbers_stand(outside: dict[str, Any]) -> None:
    value = outside["evaluation"]["metrics"]["worst"]
    assert value > 0
    assert outside["evaluation"]["conventions"]["worst"].startswith("mean over batches")
    assert "│ worst " in outside["trained"][1]  # the console
    assert "worst" in outside["mirrored"]  # W&B
    for text in (outside["report"], outside["card"], outside["docs"]["metrics.md"]):
        assert "mean over batches of the largest" in text
