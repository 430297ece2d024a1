"""What a real server of W&B would get beside rows: inputs of runs, and workspaces."""

import subprocess
import sys
from pathlib import Path

import pytest
from offline_wandb import WandBServer
from wandb_training import ALL, Training, environment

pytestmark = pytest.mark.slow


def test_a_server_gets_the_cache_of_a_run_as_its_input(server: WandBServer, folder: Path) -> None:
    assert Training(server.url, folder, cache="s3://bucket/my cache").end() == ""
    (name,) = server.inputs
    assert name.startswith("my-cache-") and server.artifacts[name]["artifactTypeName"] == "dataset"
    assert "s3://bucket/my cache" in server.artifacts[name]["metadata"]
    assert {"sae-name", "eval-name"} < set(server.artifacts)


def test_an_input_that_a_server_refuses_keeps_no_other_artifact_back(
    server: WandBServer, folder: Path
) -> None:
    server.fault = "refuses inputs"
    line = Training(server.url, folder, cache="s3://bucket/cache").warning()
    assert "it did not take all features and artifacts (" in line
    assert line.endswith("; every row is logged, and the run folder has all results\n")
    assert server.tokens() == [ALL] and {"sae-name", "eval-name"} < set(server.artifacts)


def test_artifacts_that_a_server_rejects_are_a_warning(server: WandBServer, folder: Path) -> None:
    server.fault = "refuses artifacts"
    line = Training(server.url, folder).warning()
    assert "it did not take all features and artifacts (" in line and "not yours" in line
    assert server.tokens() == [ALL]


def save_workspace(url: str, cwd: Path, also: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, Path(__file__).parents[2] / "scripts" / "wandb_workspace.py"],
        cwd=cwd, env=environment(url, {"HOME": str(cwd)} | also), capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_a_workspace_is_saved_for_the_account_of_the_key(
    server: WandBServer, tmp_path: Path
) -> None:
    pytest.importorskip("wandb_workspaces", reason="needs the extra workspace")
    done = save_workspace(server.url, tmp_path, {"WANDB_PROJECT": "mine"})
    assert done.stdout.startswith(f"workspace  {server.url}/me/mine?nw="), done
    panels = server.workspaces["Dictionaries"]["section"]["panelBankConfig"]
    names = [section["name"] for section in panels["sections"]]
    assert names[0] == "Evaluation" and {"Loss", "Sparsity"} < {*names} and names[-1] == "Features"
    first = panels["sections"][0]["panels"][0]["config"]
    assert (first["xAxis"], first["yAxis"]) == ("summary:eval/l0", "summary:eval/delta_ce")
    curve = panels["sections"][1]["panels"][0]["config"]
    assert (curve["xAxis"], curve["metrics"]) == ("train/tokens", ["Loss/loss", "Loss/mse"])


def test_a_workspace_that_cannot_be_saved_is_one_line_and_asks_for_nothing(
    server: WandBServer, tmp_path: Path
) -> None:
    pytest.importorskip("wandb_workspaces", reason="needs the extra workspace")
    missing = save_workspace(server.url, tmp_path, {"WANDB_API_KEY": "", "WANDB_ENTITY": "me"})
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1, missing
    assert "no account of Weights & Biases is logged in: run wandb login" in missing.stderr
    server.fault = "wrong key"
    refused = save_workspace(server.url, tmp_path, {})
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused
    assert f"Failed to verify credentials with {server.url}" in refused.stderr
