"""A text is what is in it, not what it is called: another one under the same name is noticed."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import Done, called

from activation_cache.cache.manifest import Manifest
from activation_cache.text import record as record_module
from activation_cache.text.config import Split, TextConfig
from activation_cache.text.documents import documents
from activation_cache.text.record import TextHasChanged, TextRecord
from sae.commands import evaluate as evaluate_script
from sae.commands import harvest as harvest_script
from sae.commands import train as train_script


def shown(texts: list[str], record: TextRecord) -> TextRecord:
    for number, text in enumerate(texts):
        record.see(number, text.encode())
    return record


def expecting(texts: list[str], n_marks: int = record_module.MARKS) -> TextRecord:
    """A record that expects these documents, as one that was saved does."""
    found = TextRecord("t.jsonl")
    found.load_state_dict(shown(texts, TextRecord("t.jsonl")).state_dict(n_marks))
    return found


def changed(texts: list[str], i: int) -> list[str]:
    return [*texts[:i], "another", *texts[i + 1 :]]


# The record --------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 200), share=st.floats(0, 1, exclude_max=True))
def test_the_first_document_that_differs_is_named(n: int, share: float) -> None:
    texts, i = [f"document {k}" for k in range(n)], int(share * n)
    shown(texts, expecting(texts))
    with pytest.raises(TextHasChanged, match=rf"t.jsonl has changed: document {i} is another"):
        shown(changed(texts, i), expecting(texts))


@pytest.mark.parametrize(
    ("i", "named"),
    [(0, "documents 0 to 3"), (61, "documents 60 to 63"), (99, "documents 96 to 99")],
)
def test_of_many_documents_a_group_is_named(i: int, named: str) -> None:
    texts = [f"document {k}" for k in range(100)]
    with pytest.raises(TextHasChanged, match=f"one of the {named} is another"):
        shown(changed(texts, i), expecting(texts, n_marks=32))


def test_a_record_keeps_a_bounded_number_of_hashes() -> None:
    texts = [str(k) for k in range(5 * record_module.MARKS)]
    state = shown(texts, TextRecord("t")).state_dict()
    assert len(state["marks"]) <= record_module.MARKS
    assert state["every"] == 8
    assert len(shown(texts, TextRecord("t")).state_dict(32)["marks"]) <= 32


def test_every_pass_over_a_text_is_compared_with_the_first() -> None:
    texts = ["one", "two", "three"]
    record = shown(texts, shown(texts, TextRecord("t")))
    with pytest.raises(TextHasChanged, match="document 1 is another"):
        shown(["one", "2", "three"], record)


# The commands ------------------------------------------------------------------------------------

WORDS = {"old": "the array holds values of each axis", "new": "a module returns its parameters"}


def write_text(path: Path, kind: str, n: int = 400) -> Path:
    lines = [json.dumps({"text": f"{WORDS[kind]} number {i} " * 20}) for i in range(n)]
    path.write_text("\n".join(lines))
    return path


def train(text: Path | str, out: Path, *more: object) -> Done:
    return called(
        train_script.main,
        *("--dataset", text, "--n-tokens", 4096, "--batch-tokens", 256, "--buffer-tokens", 1024),
        *("--d-sae", 32, "--k", 4, "--context-size", 32, "--eval-tokens", 512, "--wandb", "off"),
        *("--checkpoint-tokens", 1024, "--keep-checkpoints", 9, "--out", out, *more),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, and a run on it."""
    folder = tmp_path_factory.mktemp("trained")
    done = train(write_text(folder / "t.jsonl", "old"), folder / "run")
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def copy(trained: Path) -> Path:
    """The run as if it had been interrupted in the middle, and its text; both may be changed."""
    run = Path(shutil.copytree(trained / "run", trained / "copy"))
    for checkpoint in sorted((run / "checkpoints").iterdir())[2:]:
        shutil.rmtree(checkpoint)
    (run / "eval.json").unlink()
    return run


@pytest.fixture(autouse=True)
def restored(request: pytest.FixtureRequest) -> Iterator[None]:
    """The text is as it was after each test."""
    yield
    if "trained" in request.fixturenames:
        folder = request.getfixturevalue("trained")
        write_text(folder / "t.jsonl", "old")
        shutil.rmtree(folder / "copy", ignore_errors=True)


def refused(done: Done) -> str:
    assert done.code == 2, done.out
    assert done.err.count("\n") == 1
    return done.err


def test_a_run_is_not_resumed_on_another_text_of_the_same_name(trained: Path, copy: Path) -> None:
    write_text(trained / "t.jsonl", "new")
    before = sorted(path for path in copy.rglob("*"))
    message = refused(called(train_script.main, "--resume", "--out", copy))
    assert f"the text {trained}/t.jsonl (held out) has changed: document 0 is another" in message
    assert sorted(path for path in copy.rglob("*")) == before
    write_text(trained / "t.jsonl", "old")
    assert called(train_script.main, "--resume", "--out", copy).code == 0


def test_a_run_is_not_resumed_where_one_document_of_its_training_is_another(
    trained: Path, copy: Path
) -> None:
    text = trained / "t.jsonl"
    (third, *_) = _documents(text, "train")[3:]
    text.write_text(text.read_text().replace(third, third.replace("axis", "side")))
    message = refused(called(train_script.main, "--resume", "--out", copy))
    assert f"the text {text} has changed: document 3 is another" in message
    assert "bring it back, or train into another --out" in message


def _documents(path: Path, split: Split) -> list[str]:
    return [str(document) for document in documents(TextConfig(dataset=str(path)), split)]


def test_a_dictionary_is_evaluated_from_any_folder_on_the_text_it_was_trained_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "t.jsonl", "new")  # another file of the same name, in another folder
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "eval.json"
    assert called(evaluate_script.main, trained / "run", "--out", out).code == 0
    evaluated, at_the_end = (json.loads(p.read_text()) for p in (out, trained / "run/eval.json"))
    assert evaluated == at_the_end
    assert evaluated["text"]["dataset"] == str(trained / "t.jsonl")


def test_a_dictionary_is_not_evaluated_on_another_text_unless_that_is_meant(
    trained: Path, tmp_path: Path
) -> None:
    own = json.loads((trained / "run/eval.json").read_text())
    write_text(trained / "t.jsonl", "new")
    message = refused(called(evaluate_script.main, trained / "run"))
    assert "t.jsonl (held out) has changed: document 0 is another" in message
    assert "--other-text" in message
    out = tmp_path / "eval.json"
    for flags in (["--other-text"], ["--dataset", write_text(tmp_path / "n.jsonl", "new")]):
        done = called(evaluate_script.main, trained / "run", *flags, "--out", out)
        assert done.code == 0, done.err
        assert "on other text than it names" in done.out
        other = json.loads(out.read_text())
        assert other["text"]["is_other"]
        assert other["text"]["tokens"] != own["text"]["tokens"]
        assert other["metrics"]["fvu"] > 2 * own["metrics"]["fvu"]


def test_a_harvest_is_not_resumed_on_another_text_of_the_same_name(tmp_path: Path) -> None:
    text, cache = write_text(tmp_path / "t.jsonl", "old"), tmp_path / "cache"
    flags = ["--dataset", text, "--shard-tokens", 512, "--context-size", 32, "--out", cache]
    flags += ["--held-out-tokens", 256]
    assert called(harvest_script.main, *flags, "--n-tokens", 1024).code == 0
    manifest = json.loads((cache / "manifest.json").read_text())
    assert manifest["splits"]["train"]["text"]["marks"]
    _interrupted(cache)
    write_text(tmp_path / "t.jsonl", "new")
    message = refused(called(harvest_script.main, *flags, "--n-tokens", 1024))
    assert f"the text {text} has changed: document 0 is another" in message


def _interrupted(cache: Path) -> None:
    """As if the harvest had been killed in front of the last shard."""
    path = cache / "manifest.json"
    manifest = Manifest.from_bytes(path.read_bytes(), str(cache))
    train_split = manifest.splits["train"]
    last = train_split.shards[-1]
    shorter = replace(
        train_split, shards=train_split.shards[:-1], cursor=last.cursor, complete=False
    )
    path.write_bytes(manifest.with_split("train", shorter).to_bytes())


def test_more_or_fewer_tokens_of_the_same_text_are_no_other_text(trained: Path) -> None:
    for flags in (("--eval-tokens", "128"), ("--eval-tokens", "1024"), ("--context-size", "16")):
        done = called(evaluate_script.main, trained / "run", *flags)
        assert done.code == 0, done.err
    write_text(trained / "t.jsonl", "new")
    message = refused(called(evaluate_script.main, trained / "run", "--eval-tokens", "128"))
    assert "(held out) has changed: document 0 is another" in message
