"""Publishing a dictionary on a hub on this machine, and evaluating published ones."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from forks import Done
from hub_stand_in import TOKEN, Hub, Repository, serving
from huggingface_hub import constants
from in_process import called
from refusals import refusal_of

import sae
from sae.architectures import TopKConfig
from sae.commands import evaluate as evaluate_script
from sae.commands import upload as upload_script
from sae.commands.dictionary import UNSAID
from sae.evaluation import METRICS
from sae.hub.card import model_card, plain
from sae.hub.transfer import HubPath

WHERE = HubPath(repo="user/repo")


Cli = Callable[..., Done]


@pytest.fixture
def cli() -> Cli:
    """Runs a script's main with arguments; no token is ever in what it says."""

    def call(main: Callable[[], None], *arguments: object) -> Done:
        done = called(main, *arguments)
        assert TOKEN not in done.out + done.err
        return done

    return call


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving(monkeypatch, tmp_path / "home") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of the embedded model, as far as publishing reads it."""
    dictionary = TopKConfig(d_sae=8, k=2).build(192)
    dictionary.provenance = sae.Provenance.from_metadata(
        {
            "model_name": "tiny",
            "hook_name": "blocks.2.hook_resid_pre",
            "dataset_path": "docstrings",
            "context_size": 16,
            "eval_tokens": 256,
        }
    )
    sae.save(dictionary, tmp_path / "run" / "sae")
    metrics = {"n_tokens": 20305, "fvu": 0.25, "l0": 2.0, "kl": float("nan")}
    evaluated = {"metrics": metrics, "conventions": {n: METRICS[n].convention for n in metrics}}
    (tmp_path / "run" / "eval.json").write_text(json.dumps(evaluated))
    (tmp_path / "run" / "config.json").write_text(json.dumps({"settings": {}, "versions": {}}))
    return tmp_path / "run"


# Publishing --------------------------------------------------------------------------------------


def test_a_run_is_published_with_its_card_and_loads_from_there_bit_for_bit(
    hub: Hub, run: Path, cli: Cli
) -> None:
    done = cli(upload_script.main, run, "user/repo")
    assert done.code == 0, done.err
    repository = hub.repositories["user/repo"]
    commit = repository.refs["main"]
    files = repository.published()
    assert set(files) == {"cfg.json", "sae_weights.safetensors", "eval.json", "README.md"}
    assert files["eval.json"] == (run / "eval.json").read_bytes()
    assert f"{hub.url}/user/repo/commit/{commit}" in done.out
    assert "load with  hf://user/repo" in done.out
    loaded = sae.load("hf://user/repo")
    assert torch.equal(loaded.W_dec, sae.load(run).W_dec)
    assert loaded.provenance.to_metadata()["revision"] == commit
    assert repository.private is False


def test_a_folder_a_branch_and_privacy_are_chosen_by_flags(hub: Hub, run: Path, cli: Cli) -> None:
    flags = ("--path-in-repo", "layer 2/topk", "--private", "--revision", "trial")
    done = cli(upload_script.main, run / "sae", "user/repo", *flags)
    assert done.code == 0, done.err
    repository = hub.repositories["user/repo"]
    assert repository.private and set(repository.refs) == {"main", "trial"}
    assert sorted(repository.published("trial")) == [
        f"layer 2/topk/{name}" for name in ("README.md", "cfg.json", "sae_weights.safetensors")
    ]
    assert sae.load("hf://user/repo@trial/layer 2/topk").d_sae == 8


def test_publishing_again_adds_to_what_is_there(hub: Hub, run: Path, cli: Cli) -> None:
    for folder in ("a", "b", "b"):
        assert cli(upload_script.main, run, "user/repo", "--path-in-repo", folder).code == 0
    files = hub.repositories["user/repo"].published()
    assert {name.split("/")[0] for name in files} == {"a", "b"}


# The card ----------------------------------------------------------------------------------------


def test_the_card_has_each_number_with_its_convention_and_none_that_was_not_measured(
    hub: Hub, run: Path, cli: Cli
) -> None:
    cli(upload_script.main, run, "user/repo")
    card = hub.repositories["user/repo"].published()["README.md"].decode()
    assert card.startswith("---\nlibrary_name: featureloom\n")
    assert "# 8 features of blocks.2.hook\\_resid\\_pre of tiny\n" in card
    assert 'sae.load("hf://user/repo")' in card
    assert "| n\\_tokens | 20,305 | counted tokens" in card
    assert "| fvu | 0.25 | sum \\|x - x\\_hat\\|^2 / sum" in card
    assert "| kl |" not in card and "nan" not in card
    assert "| context\\_size | 16 |" in card and "| k | 2 |" in card


def test_the_card_of_a_dictionary_without_an_evaluation_claims_nothing(run: Path) -> None:
    card = model_card(sae.load(run), WHERE)
    assert "nothing is claimed" in card and "| metric |" not in card


def test_the_card_has_every_part_of_the_text_and_what_proves_the_site(run: Path) -> None:
    dictionary = sae.load(run)
    dictionary.provenance = sae.Provenance(
        text_options={"dataset": ["a", "b"], "dataset_weight": [3.0, 1.0]},
        site_proof=("resid_mid + mlp_out = resid_post", "resid_pre = hidden_states"),
    )
    card = model_card(dictionary, WHERE)
    assert "| text\\_options.dataset | a, b |" in card
    assert "| text\\_options.dataset\\_weight | 3.0, 1.0 |" in card
    assert "| resid\\_mid + mlp\\_out = resid\\_post, resid\\_pre = hidden" in card


def test_nothing_that_a_file_says_is_run_or_changes_what_the_card_is(run: Path) -> None:
    dictionary = sae.load(run)
    hostile = "{{ 7 * 7 }}{% for x in y %}\n---\n# <script>x</script> | `a` ![](http://x) $z$"
    dictionary.provenance = sae.Provenance.from_metadata(
        {"model_name": hostile, "hook_name": hostile, "nested": {"a": hostile}}
    )
    card = model_card(dictionary, WHERE, metrics={"l0": True, hostile: 1.0, "mse": "1"})
    harmless = model_card(sae.load(run), WHERE, metrics={"fvu": 1.0})
    assert "49" not in card and "<script>" not in card.replace("\\<script\\>", "")
    assert [line for line in card.splitlines() if line.startswith(("#", "---"))][1:3] == [
        "---",
        *[line for line in card.splitlines() if line.startswith("# ")],
    ]
    assert card.count("\n## ") == harmless.count("\n## ") == 2
    assert plain("a\n| b`\x1b[0m") == "a \\| b\\`?\\[0m"


# Refusals ----------------------------------------------------------------------------------------


def test_a_token_that_may_not_write_is_refused_with_what_to_do(
    hub: Hub, run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in ("hf_" + "wrong" * 7, ""):
        monkeypatch.setenv("HF_TOKEN", token)
        line = refusal_of(cli(upload_script.main, run, "user/repo"), run / "none")
        assert "status 401" in line and "hf auth login" in line
        assert "wrong" not in line
    assert hub.repositories == {}


@pytest.mark.parametrize("status", [403, 500])
def test_what_the_hub_refuses_is_told_in_one_line(
    hub: Hub, run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.status = status
    line = refusal_of(cli(upload_script.main, run, "user/repo"), run / "none")
    assert f"status {status}" in line


def test_without_network_nothing_is_published(
    hub: Hub, run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    line = refusal_of(cli(upload_script.main, run, "user/repo"), run / "none")
    assert "cannot reach hf://user/repo" in line and "go online" in line


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("no", "user/repo"), "no dictionary at no"),
        (("{run}", "repo"), "hf://user/repo/path"),
        (("{run}", "user/repo/folder"), "--path-in-repo"),
        (("{run}", "us er/re--po"), "cannot be a repository"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_asked_of_the_hub(
    hub: Hub, run: Path, cli: Cli, flags: tuple[str, ...], expected: str
) -> None:
    done = cli(upload_script.main, *(flag.format(run=run) for flag in flags))
    assert expected in refusal_of(done, run / "none")
    assert hub.asked == []


# Evaluating what is published --------------------------------------------------------------------


def _publish(hub: Hub, repo: str, folder: str, dictionary: sae.SAE, tmp_path: Path) -> None:
    sae.save(dictionary, tmp_path / "made")
    hub.repositories[repo] = Repository()
    hub.repositories[repo].commit(
        {f"{folder}/{path.name}": path.read_bytes() for path in (tmp_path / "made").iterdir()}
    )


@pytest.mark.slow
def test_a_published_dictionary_is_evaluated_by_its_address(
    hub: Hub, run: Path, cli: Cli, tmp_path: Path
) -> None:
    _publish(hub, "user/repo", "d", sae.load(run), tmp_path)
    out = tmp_path / "eval.json"
    done = cli(evaluate_script.main, "hf://user/repo/d", "--device", "cpu", "--out", out)
    assert done.code == 0, done.err
    assert json.loads(out.read_text())["metrics"]["l0"] <= 2


def test_a_release_is_evaluated_by_its_site_on_text_that_it_need_not_name(
    hub: Hub, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(UNSAID, "eval_tokens", 256)
    dictionary = TopKConfig(d_sae=8, k=2).build(192)
    site = "blocks.2.hook_resid_pre"
    _publish(hub, "jbloom/GPT2-Small-SAEs-Reformatted", site, dictionary, tmp_path)
    flags = ("--release", "gpt2-small-res-jb", "--model", "tiny", "--device", "cpu")
    done = cli(evaluate_script.main, *flags, "--hook", site)
    assert done.code == 0, done.err
    assert f"loaded hf://jbloom/GPT2-Small-SAEs-Reformatted/{site}" in done.out
    assert "published: l0 18, variance explained 0.999 (rounded" in done.out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--release gpt2-small-res-jb --hook blocks.8.hook_resid_pre", "name the local folder"),
        ("--release gpt2-small-res-jb", "--release needs --hook-name"),
        ("somewhere --release gpt2-small-res-jb --hook x", "no RUN_OR_DICTIONARY"),
        ("hf://user/repo/d", "name the local folder"),
        ("", "RUN_OR_DICTIONARY is required"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line_without_network(
    cli: Cli, tmp_path: Path, flags: str, expected: str
) -> None:
    done = cli(evaluate_script.main, *flags.split(), "--out", tmp_path / "eval.json")
    assert expected in refusal_of(done, tmp_path / "eval.json")
