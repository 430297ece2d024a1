"""Activations in files are trained and evaluated on by flags, with no language model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import Done, called
from safetensors.torch import save_file

from activation_cache import InputError
from activation_cache.stream.arrays import ActivationFiles, ArrayStream
from sae.commands import evaluate as evaluate_script
from sae.commands import train as train_script
from sae.toy import Independent, SparseFeatures

N_ROWS, D_IN = 6_000, 12
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    """Sparse features, as embeddings of anything may be."""
    active = Independent(torch.full((24,), 0.1))
    features = SparseFeatures(active, D_IN, batch_tokens=N_ROWS, seed=0)
    noise = torch.randn(N_ROWS, D_IN, generator=torch.Generator().manual_seed(0))
    return next(iter(features)) + 1e-3 * noise  # so that no two rows are the same


@pytest.fixture(scope="module")
def file(rows: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, rows.numpy())
    return path


def train(source: Path, out: Path, *more: object) -> Done:
    flags = ["--architecture", "topk", "--d-sae", 32, "--k", 4, "--batch-tokens", 256, "--wandb"]
    flags += ["off", "--buffer-tokens", 1024, "--out", out]
    return called(train_script.main, "--activations", source, *flags, *more)


# The files ---------------------------------------------------------------------------------------


def test_every_row_is_trained_on_or_held_out(file: Path, rows: torch.Tensor) -> None:
    files = ActivationFiles.open(str(file), CPU)
    assert (files.width, files.n_rows, files.chunk_rows) == (D_IN, N_ROWS, 150)  # of 40 chunks
    held_out = torch.cat(files.held_out(N_ROWS))
    assert len(held_out) == 300  # chunks 19 and 39
    assert torch.equal(held_out[:150], rows[19 * 150 : 20 * 150])
    stream = ArrayStream(files, "x", batch_tokens=100, buffer_tokens=500, seed=0)
    assert files.n_train == 5_700
    seen = torch.cat([next(stream)["x"] for _ in range(120)])  # two passes, and what is buffered
    once = {tuple(row) for row in seen.tolist()}
    assert not once & {tuple(row) for row in held_out.tolist()}
    assert len(once) == 5_700
    assert stream.pass_rows == 5_700


def test_files_of_a_folder_are_one_after_the_other(tmp_path: Path, rows: torch.Tensor) -> None:
    np.save(tmp_path / "a.npy", rows[:100].numpy().astype(np.float16))
    save_file({"x": rows[100:250].view(3, 50, D_IN)}, tmp_path / "b.safetensors")
    (tmp_path / "notes.txt").write_text("not activations")
    files = ActivationFiles.open(str(tmp_path), CPU)
    read = torch.cat([files.rows(chunk) for chunk in range(-(-250 // files.chunk_rows))])
    assert torch.allclose(read, rows[:250], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.npy", np.zeros(5, np.float32), r"a.npy has shape \(5,\) .*: give floats"),
        ("a.npy", np.zeros((5, 2), np.int64), r"type int64: give floats"),
        ("a.npy", b"no array", "cannot read activations from .*a.npy"),
        ("a.npy", np.zeros((1, 2), np.float32), "fewer than two rows"),
        ("a.npy", np.array([{}], dtype=object), "cannot read activations from .*a.npy"),
        ("a.safetensors", b"no tensors", "cannot read activations from .*a.safetensors"),
        ("a.csv", b"1,2", "give a .npy or .safetensors file"),
    ],
)
def test_what_are_no_activations_is_refused(
    tmp_path: Path, name: str, content: np.ndarray | bytes, expected: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content, allow_pickle=True)
    with pytest.raises(InputError, match=expected):
        ActivationFiles.open(str(tmp_path / name), CPU)


def test_files_of_several_widths_are_refused(tmp_path: Path) -> None:
    for width in (3, 4):
        np.save(tmp_path / f"{width}.npy", np.zeros((9, width), np.float32))
    with pytest.raises(InputError, match=r"have widths \[3, 4\]: give one width"):
        ActivationFiles.open(str(tmp_path), CPU)


# The commands ------------------------------------------------------------------------------------


def test_a_dictionary_is_trained_reported_and_evaluated_without_a_model(
    file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = train(file, run)
    assert done.code == 0, done.err
    assert "loading the model" not in done.out
    result = json.loads((run / "eval.json").read_text())
    assert result["metrics"]["n_tokens"] == 300
    assert 0 < result["metrics"]["fvu"] < 0.5
    assert not [name for name in result["metrics"] if name.startswith("ce_")]
    assert result["text"]["activations"] == str(file)
    assert json.loads((run / "config.json").read_text())["settings"]["n_tokens"] == 5_700
    report = (run / "report.html").read_text()
    assert "FVU" in report and "times over" not in report  # each row was trained on once
    assert "on activations of" in done.out and "None" not in done.out
    assert "300 held-out activations" in done.out and "position 0" not in done.out
    again = tmp_path / "again.json"
    assert called(evaluate_script.main, run, "--out", again).code == 0
    assert json.loads(again.read_text()) == result


def test_such_a_run_resumes_to_the_same_bytes(file: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = ["--n-tokens", 8_192, "--checkpoint-tokens", 2_048, "--keep-checkpoints", 9]
    assert train(file, whole, *flags).code == 0
    shutil.copytree(whole, cut)
    for checkpoint in sorted((cut / "checkpoints").iterdir())[1:]:
        shutil.rmtree(checkpoint)
    (cut / "eval.json").unlink()
    done = called(train_script.main, "--resume", "--out", cut)
    assert done.code == 0 and "resuming after 2,048 tokens" in done.out
    for name in ("sae/sae_weights.safetensors", "metrics.jsonl", "eval.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_other_activations_under_the_same_name_are_noticed(tmp_path: Path, file: Path) -> None:
    copy = tmp_path / "rows.npy"
    rows = np.load(file)
    np.save(copy, rows)
    assert train(copy, tmp_path / "run", "--n-tokens", 1024).code == 0
    np.save(copy, rows[::-1])
    done = called(evaluate_script.main, tmp_path / "run")
    assert done.code == 2
    assert "rows.npy has changed: its held-out activations are others" in done.err
    assert called(evaluate_script.main, tmp_path / "run", "--other-text").code == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model", "tiny"], "activations of a file need neither --model nor --cache"),
        (["--hook-name", "a", "--hook-name", "b"], "of one site: name one --hook-name"),
    ],
)
def test_flags_that_need_a_model_are_refused(
    file: Path, tmp_path: Path, flags: list[str], expected: str
) -> None:
    done = train(file, tmp_path / "run", *flags)
    assert done.code == 2
    assert expected in done.err
    assert not (tmp_path / "run").exists()
