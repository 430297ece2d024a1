"""The benchmark's rows at sizes that take no time. What they say of speed is not looked at."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench
import numpy as np
import pytest
from benchmarks import peers, quality
from benchmarks.contenders.common import synthetic_rows
from benchmarks.measure import BenchFlags
from benchmarks.page import place_of
from benchmarks.quality import Fit
from benchmarks.training import Shape, trainer_of
from peers import environments

from activation_cache.common.errors import InputError
from sae.architectures import ARCHITECTURES

ROOT = Path(__file__).parents[1]
SMALL = {"d_in": 16, "d_sae": 64, "k": 4, "batch_tokens": 32, "repeats": 1, "buffer_tokens": 64}
FIELDS = {
    *("name", "backend", "d_in", "d_sae", "k", "batch_tokens", "dtype", "threads", "tokens_per_s"),
    *("tokens_per_cpu_s", "floor_tokens_per_s", "share_of_floor", "peak_mb", "fvu"),
}


@pytest.mark.parametrize(
    "name", ["ceiling-matmul", "ceiling-copy", "shuffle", "bookkeeping", "step-topk", "step-gated"]
)
def test_a_row_has_the_fields_that_readers_rely_on(name: str) -> None:
    rows = [json.loads(json.dumps(vars(row))) for row in bench.rows(BenchFlags(only=name, **SMALL))]
    assert rows and all(row["name"] == name and row.keys() >= FIELDS for row in rows)
    assert all(row["tokens_per_s"] > 0 and row["share_of_floor"] > 0 for row in rows)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_is_measured_where_it_is_sparse_and_l0_is_what_was_asked_for(
    architecture: str,
) -> None:
    trainer, batches = trainer_of(Shape(architecture, 32, 1024, 8, 256, "float32"), BenchFlags().on)
    record = trainer.step(batches[0])
    assert trainer.is_sparse
    assert 4 <= record.l0.item() <= 12


def test_the_bytes_of_a_step_by_hand() -> None:
    # Two matrices of 4 x 2 floats. Optimiser: weights, gradients and a moment read (3), weights
    # and the moment written (2), gradients written (1): 6 passes of 64 bytes. Encoder: its 32 bytes
    # read. Pre-activations of 3 tokens: 3 x 4 floats written and read. Codes: 4 x 3 tokens x 1
    # feature x 2 floats.
    assert Shape("topk", 2, 4, 1, 3, "float32").bytes_moved == 6 * 64 + 32 + 2 * 48 + 96
    # In bfloat16: weights written and read again at half the size, pre-activations at half.
    assert Shape("topk", 2, 4, 1, 3, "bfloat16").bytes_moved == 6 * 64 + 32 + 32 + 48 + 96


def test_rows_of_one_seed_are_the_same_and_of_two_seeds_are_of_one_kind() -> None:
    assert synthetic_rows(8, 16, seed=0).equal(synthetic_rows(8, 16, seed=0))
    one, other = synthetic_rows(4096, 16, seed=0), synthetic_rows(4096, 16, seed=1)
    assert not one.equal(other)
    assert (one.mean(dim=0) - other.mean(dim=0)).norm() < 0.1 * one.mean(dim=0).norm()


STEP_ON_A_PAGE = ["--only", "step-topk", "--d-in", "16", "--d-sae", "64", "--batch-tokens", "32"]


def bench_to(page: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", *flags, "--repeats", "1", "--page", str(page)])
    bench.main(sys.argv[1:])


def test_the_page_gets_a_line_for_each_row_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("Before.\n<!-- benchmarks -->\nOld.\n<!-- /benchmarks -->\nAfter.\n")
    bench_to(page, monkeypatch, *STEP_ON_A_PAGE)
    text = page.read_text()
    assert text.count("| step-topk |") == 4  # k 32 and 64, in two kinds of products
    assert text.startswith("Before.") and text.endswith("After.\n") and "Old." not in text


def test_a_page_without_a_place_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "rows", lambda _: pytest.fail("it measures"))
    with pytest.raises(InputError, match="put <!-- benchmarks --> and <!-- /benchmarks --> into"):
        bench_to(tmp_path / "none.md", monkeypatch, *STEP_ON_A_PAGE)


@pytest.mark.parametrize(
    ("flags", "place"),
    [
        ({}, "benchmarks"),
        ({"only": "step-topk"}, "benchmarks"),
        ({"only": "train-topk"}, "peers-synthetic"),
        ({"only": "train-topk", "rows": "model"}, "peers"),
        ({"quality": True}, "quality"),
    ],
)
def test_whole_trainings_have_places_of_their_own(flags: dict[str, Any], place: str) -> None:
    assert place_of(BenchFlags(**flags)) == place


def test_a_training_on_a_models_activations_in_the_setting_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "HELD_OUT_ROWS", 256)
    shape = {"d_sae": 64, "k": 4, "batch_tokens": 64, "buffer_tokens": 256, "steps": 20}
    training = {"only": "train-topk", "rows": "model", "model": "tiny", "layer": 2}
    (row,) = bench.rows(BenchFlags(**training, **shape, setting=("default",)))
    assert (row.name, row.d_in, row.l0) == ("train-topk", 192, 4)  # the width of `tiny`
    assert row.fvu is not None and row.fvu < 1
    assert "default" in row.note and "lr" in row.note


def test_a_setting_that_no_contender_has_is_refused() -> None:
    flags = BenchFlags(only="train-relu", setting=("dense",))
    with pytest.raises(InputError, match="train-relu has no setting dense"):
        list(bench.rows(flags))


def test_an_unknown_row_is_refused_with_the_names_of_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        bench.main(["--only", "step-topkk"])
    assert exit_.value.code == 2
    assert "train-sweep" in capsys.readouterr().err


def failing_python(home: Path, **_: object) -> None:
    """An environment whose pip finds nothing; a real one takes seconds."""
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").write_text("#!/bin/sh\necho no such package >&2\nexit 1\n")
    (home / "bin" / "python").chmod(0o700)


def test_an_environment_that_cannot_be_built_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = tmp_path / "environments.toml"
    recipes.write_text(
        '[no-such-peer]\nrequirements = ["--no-index", "no-such-peer-at-all"]\n'
        "without_dependencies = []\n"
    )
    monkeypatch.setattr(environments, "RECIPES", recipes)
    monkeypatch.setattr(environments.venv, "create", failing_python)
    with pytest.raises(InputError, match="cannot install no-such-peer: no such package"):
        environments.environment("no-such-peer", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step-topk", "harvest-stream", "train-sweep"])
def test_it_runs_where_only_torch_and_transformers_are(name: str, tmp_path: Path) -> None:
    """As on many a machine with a GPU: an import of the others would raise there, and does here."""
    blocked = "import sys\nfor name in ('transformer_lens', 'datasets', 'wandb', 'matplotlib'):\n"
    (tmp_path / "sitecustomize.py").write_text(f"{blocked}    sys.modules[name] = None\n")
    flags = ["--only", name, "--d-sae", "64", "--batch-tokens", "64", "--repeats", "1", "--json"]
    flags += ["--layer", "1", "--forward-tokens", "128", "--buffer-tokens", "256"]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench.py", *flags],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["name"] == name


# Quality -----------------------------------------------------------------------------------------


def fit(fvu: float, lr: float = 1.0, curve: Sequence[tuple[float, float]] = ()) -> Fit:
    return Fit("ours 1.0", fvu, fvu, l0=4, dead=0, delta_ce=None, cpu_s=9, lr=lr, curve=curve)


@pytest.fixture
def activations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (peers, quality):
        monkeypatch.setattr(module, "HELD_OUT_ROWS", 512)
    np.save(tmp_path / "rows.npy", synthetic_rows(2048, 16, seed=0).numpy())
    return tmp_path / "rows.npy"


FITTED = {"quality": True, "d_sae": 64, "k": 4, "batch_tokens": 64, "steps": 20, "seeds": 2}


@pytest.mark.slow
def test_the_fits_of_all_seeds_on_the_rows_of_a_file(activations: Path) -> None:
    topk, batch_topk = quality.qualities(BenchFlags(rows=str(activations), **FITTED))
    assert (topk.architecture, batch_topk.architecture) == ("topk", "batch_topk")
    for found in (topk, batch_topk):
        assert len(found.fits) == 2 and found.fits[0].fvu != found.fits[1].fvu
        assert all(0 < fit.fvu < 1 and fit.delta_ce is None for fit in found.fits)
        cells = dict(zip(quality.COLUMNS, quality.cells(found, topk), strict=True))
        assert cells["FVU"].startswith(f"{found.fvu:.4f} ± ") and cells["delta CE"] == ""
        fvus = [fvu for _, fvu in found.fits[0].curve]
        assert len(fvus) > 5 and fvus[-1] < fvus[0]  # on the way it gets better
    assert topk.fits[0].l0 == 4


def test_the_learning_rate_of_a_peer_is_searched_until_it_gets_worse() -> None:
    """Best at eight times the default of 1: that and the two beside it are tried, and a half never
    is, for twice the default is better already."""

    def made(peer: str, architecture: str, seed: int, lr: float | None = None) -> Any:
        lr = lr or 1.0
        return SimpleNamespace(fit=fit(abs(math.log2(lr / 8)), lr))

    comparison = quality.Comparison.__new__(quality.Comparison)
    comparison._made = made  # type: ignore[method-assign]
    assert [its.fit.lr for its in comparison._rates("peer")] == [1, 2, 4, 8, 16]


def test_the_time_to_another_fit_is_that_of_the_first_point_that_is_as_good() -> None:
    ours = [fit(0.1, curve=[(2.0, 0.5), (seconds, 0.2)]) for seconds in (4.0, 6.0)]
    found = quality.Quality("topk", ours, [])
    assert [found.seconds_to(fvu) for fvu in (0.5, 0.2, 0.1, 0.05)] == [2.0, 5.0, 9.0, None]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("missing.npy", "cannot read activations from missing.npy"),
        ("few.npy", "too few for 1,280 of the training"),
        ("flat.npy", r"has the shape \[4\]: activations are \[n, d_in\]"),
    ],
)
def test_a_file_without_such_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("few.npy", np.zeros((100, 8)))
    np.save("flat.npy", np.zeros(4))
    with pytest.raises(InputError, match=said):
        quality.qualities(BenchFlags(rows=rows, **FITTED))
