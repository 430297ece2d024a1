"""`featureloom stability`: the seeds of a sweep, held against each other and their twins."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from in_process import called
from sweeps import MLP, RESID, SMALL, loaded

from activation_cache import LanguageModel
from sae.commands import features as features_script
from sae.commands import stability, train
from sae.runs.settings import RunSettings
from sae.runs.settings.run_settings import describe
from sae.runs.stability import read_members, sweep_stability

SEEDS = ["seed0", "seed1", "seed2"]
SIZES = {**SMALL, "k": 4, "n_tokens": 192}


def flags(settings: dict[str, Any]) -> list[object]:
    named = ((f"--{name.replace('_', '-')}", value) for name, value in settings.items())
    return [part for pair in named for part in pair]


@pytest.fixture(scope="module")
def trained(gpt2: LanguageModel, dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("seeds") / "out"
    settings = {**SIZES, "model": gpt2.name, "dataset": dataset, "out": out}
    with loaded(gpt2):
        done = called(train.main, *flags(settings), "--seeds", 3, "--twins")
    assert done.code == 0, done.err
    return out


@pytest.fixture
def folder(
    trained: Path, tmp_path: Path, gpt2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A sweep that a test may change, with its model at hand."""
    monkeypatch.setattr("sae.runs.evaluation.load_model", lambda *_, **__: gpt2)
    shutil.copytree(trained, tmp_path / "sweep")
    return tmp_path / "sweep"


def judged(folder: Path, *arguments: object) -> dict[str, Any]:
    done = called(stability.main, folder, "--n-tokens", 128, *arguments)
    assert done.code == 0, done.err
    return json.loads((folder / "stability.json").read_text())


def copied(folder: Path, name: str, *others: str) -> None:
    """Put the dictionary of one member in the place of others'."""
    for other in others:
        shutil.rmtree(folder / "members" / other / "sae")
        shutil.copytree(folder / "members" / name / "sae", folder / "members" / other / "sae")


def features(folder: Path, name: str) -> dict[str, list[Any]]:
    return pq.read_table(folder / "members" / name / "stability.parquet").to_pydict()


def test_each_feature_has_a_row_and_the_summary_counts_them(folder: Path) -> None:
    found = judged(folder)
    assert list(found["seeds"]) == SEEDS
    assert found["hook_name"] == RESID and 0 < found["n_tokens"] <= 128
    for name, its in found["seeds"].items():
        columns = features(folder, name)
        assert columns["feature"] == list(range(32))
        for verdict, count in its["n_features"].items():
            of_verdict = [v == verdict for v in columns["verdict"]]
            assert sum(of_verdict) == count
            share = np.array(columns["variance_share"])[of_verdict].sum()
            assert its["variance_share"][verdict] == pytest.approx(share)
        assert its["fvu_without_unstable"] >= its["fvu"]
    assert {"pw_mcc", "fvu", "delta_ce", "verdict", "decoder_cosine"} <= found["conventions"].keys()
    assert found["thresholds"]["decoder_cosine"] == 0.7


def test_it_measures_what_the_evaluation_of_the_run_measured(folder: Path) -> None:
    """On the same text: 128 held-out tokens."""
    found = judged(folder)
    for name, its in {**found["seeds"], **found["twins"]}.items():
        then = json.loads((folder / "members" / name / "eval.json").read_text())["metrics"]
        for metric in ("fvu", "delta_ce", "ce_spliced", "l0"):
            assert its[metric] == pytest.approx(then[metric], rel=1e-4), (name, metric)
    assert list(found["twins"]) == ["twin-decoder", "twin-encoder"]


def test_the_dictionary_that_is_spliced_in_is_the_one_without_its_unstable_features(
    folder: Path,
) -> None:
    """Two ways to the same FVU: of the evaluation, and of the sums over activations."""
    found = sweep_stability(read_members(folder), 128)
    for name, its in found.seeds.items():
        assert its.n_features["unstable"] > 0
        assert its.fvu == pytest.approx(found.reports[name].fvu, rel=1e-5)
        lesser = found.without_unstable[name]
        assert its.fvu_without_unstable == pytest.approx(lesser.fvu, rel=1e-5)
        assert lesser.ce_spliced != found.reports[name].ce_spliced


def test_seeds_that_are_one_dictionary_have_no_unstable_feature(folder: Path) -> None:
    """And so nothing is lost without them."""
    copied(folder, "seed0", "seed1", "seed2")
    for its in judged(folder)["seeds"].values():
        assert its["pw_mcc"] == pytest.approx(1.0, abs=1e-5)
        assert its["mmcs"] == pytest.approx(1.0, abs=1e-5)
        assert its["n_features"]["unstable"] == its["n_features"]["subspace"] == 0
        assert its["n_features"]["stable"] > 0
        assert its["delta_ce_without_unstable"] == pytest.approx(its["delta_ce"])
        assert its["l0_without_unstable"] == pytest.approx(its["l0"])


def test_features_that_its_twins_have_are_not_called_stable(folder: Path) -> None:
    copied(folder, "seed0", "seed1", "seed2", "twin-decoder", "twin-encoder")
    for its in judged(folder)["seeds"].values():
        alive = 32 - its["n_features"]["dead"]
        assert its["n_features"]["in twins too"] == alive > 0
        assert its["twin_mmcs"] == pytest.approx(1.0, abs=1e-5)


def test_without_twins_it_warns_and_their_numbers_are_unknown(folder: Path) -> None:
    for twin in ("twin-decoder", "twin-encoder"):
        shutil.rmtree(folder / "members" / twin)
    done = called(stability.main, folder, "--n-tokens", 128)
    assert done.code == 0 and "warning: the sweep has no twins" in done.out
    found = json.loads((folder / "stability.json").read_text())
    assert found["twins"] == {} and found["seeds"]["seed0"]["twin_mmcs"] is None


def test_it_writes_where_it_is_told_to_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    before = {path for path in folder.rglob("*")}
    out = tmp_path / "elsewhere"
    assert called(stability.main, folder, "--n-tokens", 128, "--out", out).code == 0
    assert {path for path in folder.rglob("*")} == before
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == [
        *(f"members/{name}/stability.parquet" for name in SEEDS),
        "stability.json",
    ]


def test_pages_of_features_show_the_verdict_whichever_came_first(folder: Path) -> None:
    """And none that is of other weights."""

    def shown(name: str) -> list[Any]:
        pages = folder / "members" / name / "features" / "browser"
        script = (pages / "features-0000.js").read_text()
        return [row.get("seeds") for row in json.loads(script[script.index("[") : -3])]

    def collect(name: str) -> None:
        done = called(features_script.main, folder / "members" / name, "--n-tokens", 128)
        assert done.code == 0, done.err

    collect("seed0")
    assert shown("seed0") == [None] * 32
    judged(folder)
    collect("seed1")
    for name in ("seed0", "seed1"):
        columns = features(folder, name)
        assert [its["verdict"] for its in shown(name)] == columns["verdict"]
        assert [its["reappears"] for its in shown(name)] == columns["reappears"]
    shutil.copy(folder / "members/seed0/stability.parquet", folder / "members" / "seed1")
    collect("seed1")
    assert shown("seed1") == [None] * 32
    (folder / "members" / "seed1" / "stability.parquet").write_text("no parquet")
    done = called(features_script.main, folder / "members" / "seed1")
    assert done.code == 2 and "write it again with `featureloom stability`" in done.err


def test_seeds_of_activations_in_files_have_no_cross_entropy(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((4096, 8)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    sizes = {name: SIZES[name] for name in ("batch_tokens", "buffer_tokens", "d_sae", "k")}
    settings = {**sizes, "wandb": "off", "activations": tmp_path / "rows.npy", "n_tokens": 256}
    out = tmp_path / "sweep"
    done = called(train.main, *flags(settings), "--seeds", 2, "--twins", "--out", out)
    assert done.code == 0, done.err
    for its in judged(out)["seeds"].values():
        assert its["delta_ce"] is None and its["delta_ce_without_unstable"] is None
        assert 0 < its["fvu"] <= its["fvu_without_unstable"]


def written(folder: Path, members: dict[str, dict[str, Any]]) -> Path:
    """A sweep with these settings of its members, and no dictionaries."""
    for name, settings in members.items():
        member = folder / "members" / name
        member.mkdir(parents=True)
        (member / "config.json").write_text(describe(RunSettings.of(hook_name=RESID, **settings)))
        (member / "eval.json").write_text("{}")
    return folder


def assert_refused(folder: Path, message: str, *arguments: object) -> None:
    done = called(stability.main, folder, *arguments)
    assert done.code == 2, done
    assert message in done.err and done.err.count("\n") == 1, done.err
    assert not (folder / "stability.json").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "is no sweep: it has no members"),
        ({"seed0": {}, "twin-decoder": {"frozen": "decoder"}}, "has 1 trained seeds"),
        ({"a": {"seed": 0, "k": 8}, "b": {"seed": 1, "k": 16}}, "differ in k, 8 and 16"),
        (
            {"seed0": {"seed": 0}, "seed1": {"seed": 1, "n_tokens": 1000}},
            "differ in n_tokens, None and 1000",
        ),
    ],
)
def test_what_is_no_sweep_over_seeds_is_refused_in_one_line(
    tmp_path: Path, members: dict[str, dict[str, Any]], message: str
) -> None:
    assert_refused(written(tmp_path / "sweep", members), message)


def test_members_of_several_sites_are_refused_by_name(tmp_path: Path) -> None:
    folder = written(tmp_path / "sweep", {"seed0": {"seed": 0}})
    other = RunSettings.of(hook_name=MLP, seed=1)
    (folder / "members" / "other").mkdir()
    (folder / "members" / "other" / "config.json").write_text(describe(other))
    (folder / "members" / "other" / "eval.json").write_text("{}")
    assert_refused(folder, f"has members of several sites, {MLP}, {RESID}")


def test_a_member_that_was_interrupted_is_refused_by_name(tmp_path: Path) -> None:
    folder = written(tmp_path / "sweep", {f"seed{seed}": {"seed": seed} for seed in range(2)})
    (folder / "members" / "seed1" / "eval.json").unlink()
    assert_refused(folder, "seed1 is not trained to its end: --resume the sweep")


def test_flags_that_make_no_sense_are_refused(folder: Path, tmp_path: Path) -> None:
    assert_refused(folder, "n_tokens must be at least 1, got 0", "--n-tokens", 0)
    (tmp_path / "file").write_text("")
    assert_refused(folder, "cannot write to", "--out", tmp_path / "file")


def test_the_tables_fit_a_terminal_of_80_columns(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = called(stability.main, folder, "--n-tokens", 128).out
    lines = [line for line in out.splitlines() if line.startswith(("│", "┃"))]
    assert "…" not in out and max(map(len, lines)) <= 80
    assert out.count("│ seed0 ") == 3 and out.count("│ twin-decoder ") == 1
