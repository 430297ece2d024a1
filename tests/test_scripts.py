"""What a user types, sees, and gets when something is wrong. The scripts run in this process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import called
from refusals import refusal_of

import sae
from activation_cache.model.loading import TINY_FOLDER
from activation_cache.stream.source import of_other_text
from activation_cache.text.config import TextConfig
from sae.commands import evaluate as evaluate_script
from sae.commands import train as train_script
from sae.runs.settings import RunSettings
from sae.runs.settings.presets import PRESETS, Preset, PresetName

SMALL = [
    *("--n-tokens", "2048", "--batch-tokens", "256", "--buffer-tokens", "1024"),
    *("--eval-tokens", "256", "--d-sae", "64", "--log-every", "4", "--wandb", "off"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, as its training left it."""
    run = tmp_path_factory.mktemp("trained") / "run"
    done = called(train_script.main, *SMALL, "--k", 4, "--seed", 3, "--out", run)
    assert done.code == 0, done.err
    return run


def _numbers(table: str) -> dict[str, str]:
    """Metric and value of each row of a printed table."""
    rows = re.findall(r"│ (\w+) +│ +([^│]+?) │", table)
    return dict(rows)


# The main job ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        "--architecture relu --tied --l1-coeff 0.02 --hook-name blocks.1.mlp.hook_post",
        "--architecture topk --k 4 --dtype bfloat16",
    ],
)
def test_a_dictionary_is_trained_by_flags_and_evaluates_to_the_same_digits_from_its_files(
    tmp_path: Path, flags: str
) -> None:
    run = tmp_path / "run"
    trained = called(train_script.main, *SMALL, *flags.split(), "--out", run)
    assert trained.code == 0, trained.err
    assert str(run / "report.html") in trained.out
    for name in ("config.json", "metrics.jsonl", "eval.json", "report.html", "sae/cfg.json"):
        assert (run / name).is_file(), name
    again = called(evaluate_script.main, run, "--out", tmp_path / "again.json")
    assert again.code == 0, again.err
    assert _numbers(again.out) == _numbers(trained.out) != {}
    assert (tmp_path / "again.json").read_text() == (run / "eval.json").read_text()


def test_several_sites_are_trained_in_one_pass_with_a_run_folder_each(tmp_path: Path) -> None:
    run = tmp_path / "run"
    sites = ["blocks.1.hook_resid_pre", "blocks.2.mlp.hook_post"]
    flags = [part for site in sites for part in ("--hook-name", site)]
    assert called(train_script.main, *SMALL, "--k", 4, *flags, "--out", run).code == 0
    for site, width in zip(sites, (192, 768), strict=True):
        dictionary = sae.load(run / site)
        assert (dictionary.hook_name, dictionary.d_in) == (site, width)
        assert json.loads((run / site / "config.json").read_text())["settings"]["hook_name"] == site


def test_metrics_are_logged_against_tokens_and_nothing_is_logged_twice(tmp_path: Path) -> None:
    run = tmp_path / "run"
    called(train_script.main, *SMALL, "--architecture", "jumprelu", "--out", run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["n_tokens"] for row in rows] == [1024, 2048]
    needed = {"step", "n_tokens", "loss", "mse", "l0_penalty", "l0", "fvu", "dead", "lr"}
    assert all(needed | {"grad_norm", "spikes", "skipped", "epochs"} == set(row) for row in rows)
    speeds = [json.loads(line) for line in (run / "throughput.jsonl").read_text().splitlines()]
    assert [set(row) for row in speeds] == [{"n_tokens", "tokens_per_s"}] * 2


def test_the_run_folder_says_how_it_was_made_and_its_config_makes_it_again(
    trained: Path, tmp_path: Path
) -> None:
    config = json.loads((trained / "config.json").read_text())
    assert config["settings"]["k"] == 4 and config["settings"]["seed"] == 3
    assert config["settings"]["model"] == "tiny"  # which no flag named
    assert config["versions"]["torch"] == torch.__version__
    again = ("--config", trained / "config.json")
    done = called(train_script.main, *again, "--out", tmp_path / "second")
    assert done.code == 0, done.err
    assert torch.equal(sae.load(trained).W_dec, sae.load(tmp_path / "second").W_dec)
    other = called(train_script.main, *again, "--seed", "4", "--out", tmp_path / "third")
    assert other.code == 0, other.err
    assert not torch.equal(sae.load(trained).W_dec, sae.load(tmp_path / "third").W_dec)


def test_local_text_is_trained_and_evaluated_on(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Paragraph {i} is about the number {i * i}." for i in range(4000)))
    run = tmp_path / "run"
    done = called(train_script.main, *SMALL, "--k", 4, "--dataset", text, "--out", run)
    assert done.code == 0, done.err
    assert sae.load(run).provenance.to_metadata()["dataset_path"] == str(text)


def test_runs_whose_folder_nobody_names_are_numbered_and_the_last_one_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for n_tokens in ("1e3", "0.5k"):
        flags = (*SMALL, "--k", 4, "--n-tokens", n_tokens)
        assert called(train_script.main, *flags).code == 0
    numbered = [tmp_path / "runs" / name for name in ("run-1", "run-2")]
    assert sorted((tmp_path / "runs").iterdir()) == numbered
    assert [sae.load(folder).provenance.n_tokens for folder in numbered] == [1000, 500]
    assert "run in runs/run-2 is complete" in called(train_script.main, "--resume").out


def test_a_run_that_diverged_says_so_with_what_to_try_on_the_console_and_in_its_report(
    tmp_path: Path,
) -> None:
    done = called(train_script.main, *SMALL, "--k", 4, "--lr", 10, "--out", tmp_path / "run")
    report = (tmp_path / "run" / "report.html").read_text()
    again = called(evaluate_script.main, tmp_path / "run")
    assert "warning: FVU " in done.out and "warning: FVU " in again.out
    for shown in (done.out, again.out, report):
        assert "try a lower learning rate" in shown


def test_help_names_every_flag_of_the_contract() -> None:
    shown = called(train_script.main, "--help")
    assert shown.code == 0
    contract = (
        "model hook-name architecture d-sae k l1-coeff l0-coeff tied n-tokens batch-tokens "
        "context-size lr seed dtype device out wandb"
    )
    for flag in contract.split():
        assert f"--{flag}" in shown.out, flag


def test_a_preset_sets_what_flags_do_not(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = called(train_script.main, "--preset", "tiny", *SMALL, "--k", 4, "--out", run)
    assert done.code == 0, done.err
    settings = json.loads((run / "config.json").read_text())["settings"]
    its = Preset.named("tiny").settings
    assert settings["hook_name"] == its["hook_name"] and settings["k"] == 4
    assert settings["architecture"] == its["architecture"] and settings["d_sae"] == 64


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_settings_and_says_what_to_expect_and_from_where(
    name: PresetName,
) -> None:
    preset = Preset.named(name)
    settings = RunSettings.of(**preset.settings)
    assert {name: settings.to_dict()[name] for name in preset.settings} == preset.settings
    assert preset.expected.keys() == {"L0", "FVU", "delta CE", "memory", "time", "source"}


def test_the_default_text_with_another_model_than_the_embedded_one_gives_a_warning() -> None:
    assert of_other_text("tiny", TextConfig()) is None
    assert of_other_text("gpt2", TextConfig(dataset="text.jsonl")) is None
    warning = of_other_text("gpt2", TextConfig())
    assert warning is not None and "gpt2" in warning and "--dataset" in warning


@pytest.mark.slow
def test_an_ascii_terminal_and_a_home_that_cannot_be_written_are_no_obstacle(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "tëxte"
    folder.mkdir()
    text = folder / "été.jsonl"
    text.write_text("".join(json.dumps({"text": f"text {i} " * 30}) + "\n" for i in range(60)))
    poor = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "HOME": "/proc/no"}
    poor |= {"PYTHONCOERCECLOCALE": "0", "HF_HOME": "/proc/no", "XDG_CACHE_HOME": "/proc/no"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "featureloom", "train", *SMALL, "--k", "4"),
            *("--dataset", str(text), "--out", str(folder / "run")),
        ],
        capture_output=True,
        check=False,
        env=os.environ | poor,
    )
    assert done.returncode == 0, done.stderr
    assert b"xte/run/report.html" in done.stdout  # what the terminal cannot show is escaped
    assert (folder / "run" / "report.html").is_file()


@pytest.mark.slow
def test_ctrl_c_keeps_the_dictionary_and_exits_with_130(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ["--wandb", "off", "--buffer-tokens", "4096", "--log-every", "1", "--out", str(run)]
    process = subprocess.Popen(
        [sys.executable, "-m", "featureloom", "train", "--n-tokens", "100M", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    for _ in range(600):
        if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size > 500:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    dictionary = sae.load(run)
    assert torch.allclose(dictionary.W_dec.norm(dim=1), torch.ones(1536), atol=1e-4)


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model nowhere/to-be-found", "cannot load the model 'nowhere/to-be-found'"),
        ("--hook-name blocks.9.hook_resid_pre", "blocks.9.hook_resid_pre.*layers 0 to 3"),
        ("--magic 1", "--magic"),
        ("--k 0", r"k must be in 1..d_sae \(1536\), got 0"),
        ("--config missing.json", "cannot read the config file missing.json"),
    ],
)
def test_bad_flags_are_refused_in_one_line_and_leave_nothing_behind(
    tmp_path: Path, flags: str, message: str
) -> None:
    out = tmp_path / "run"
    done = called(train_script.main, *flags.split(), "--out", out, "--wandb", "off")
    assert re.search(message, refusal_of(done, out))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_sae": 8, "k": 9}, r"k must be in 1..d_sae \(8\), got 9"),
        ({"architecture": "relu", "l1_coeff": -1.0}, "l1_coeff must be at least 0, got -1"),
        ({"architecture": "jumprelu", "l0_coeff": -1.0}, "l0_coeff must be at least 0, got -1"),
        ({"l1_coeff": 1.0}, "unknown settings for the architecture batch_topk: l1_coeff"),
        ({"n_tokens": 0}, "n_tokens must be at least 1, got 0"),
        ({"d_sae": 0}, "d_sae must be at least 1, got 0"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must be positive, got -1"),
        ({"context_size": 1}, "context_size must be at least 2, got 1"),
    ],
)
def test_settings_that_make_no_run_are_refused_by_name(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(sae.InputError, match=message):
        RunSettings.of(**changes)


def test_bad_text_is_refused_in_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"body": "a"}\n')
    flags = ("--dataset", tmp_path / "other.jsonl", "--out", tmp_path / "run")
    done = called(train_script.main, *SMALL, *flags)
    assert "no text column 'text': it has body" in refusal_of(done, tmp_path / "run")


def test_an_existing_run_folder_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    done = called(train_script.main, *SMALL, "--out", tmp_path / "run")
    assert done.code == 2 and "exists" in done.err
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_activations_that_are_not_finite_are_refused_with_site_and_text(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(TINY_FOLDER, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["transformer.h.0.mlp.c_proj.bias"][0] = float("nan")
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "run"
    done = called(train_script.main, *SMALL, "--model", tmp_path / "model", "--out", out)
    message = "blocks.2.hook_resid_pre of .*model holds NaN or Inf"
    assert re.search(message, refusal_of(done, out))


def test_a_dictionary_of_another_width_than_its_site_is_refused(
    trained: Path, tmp_path: Path
) -> None:
    done = called(evaluate_script.main, trained, "--hook-name", "blocks.1.mlp.hook_post")
    message = "width 192, but blocks.1.mlp.hook_post of tiny has width 768"
    assert message in refusal_of(done, tmp_path / "no")


def test_evaluating_what_is_not_there_is_refused(tmp_path: Path) -> None:
    done = called(evaluate_script.main, tmp_path / "no")
    assert "no dictionary at" in refusal_of(done, tmp_path / "no")


def test_a_training_starts_from_the_weights_of_another_dictionary(
    trained: Path, tmp_path: Path
) -> None:
    elsewhere = ("--k", 4, "--hook-name", "blocks.1.hook_resid_pre", "--lr", "1e-9")
    again = (*SMALL, "--start-from", trained, *elsewhere, "--n-tokens", "256")
    assert called(train_script.main, *again, "--out", tmp_path / "second").code == 0
    first, second = sae.load(trained), sae.load(tmp_path / "second")
    torch.testing.assert_close(second.W_dec, first.W_dec, rtol=1e-4, atol=1e-6)
    assert second.hook_name != first.hook_name


def test_a_dictionary_of_another_kind_is_no_start(trained: Path, tmp_path: Path) -> None:
    other = (*SMALL, "--start-from", trained, "--k", 4, "--tied", "--out", tmp_path / "second")
    done = called(train_script.main, *other)
    assert done.code == 2
    assert (
        "(batch_topk, 192 to 64) than what is to be trained (batch_topk, tied, 192 to 64)"
        in done.err
    )
    assert not (tmp_path / "second").exists()
