"""Text as people have it: every form of file, folder and dataset is read as what it is."""

import bz2
import gzip
import json
import lzma
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from in_process import called
from small_models import copy_of_tiny
from test_tokens import TOKENIZER, packed, take
from transformers import AutoTokenizer

from activation_cache import HarvestConfig, InputError, LanguageModel, harvest, load_model
from activation_cache.text import documents as text
from activation_cache.text.config import Split, TextConfig
from activation_cache.text.documents import documents
from sae.commands import train as train_script

TEXTS = [f"document number {i} has words" for i in range(40)]


def read(*dataset: object, **options: Any) -> list[Any]:
    """The documents of both splits, sorted."""
    cfg = TextConfig(dataset=tuple(map(str, dataset)), **options)
    splits: tuple[Split, Split] = ("train", "held_out")
    return sorted(document for split in splits for document in documents(cfg, split))


def refusal(*dataset: object, **options: Any) -> str:
    with pytest.raises(InputError) as raised:
        read(*dataset, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def json_lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_files_are_read(tmp_path: Path, suffix: str) -> None:
    compress = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
    }
    path = tmp_path / f"texts.jsonl{suffix}"
    path.write_bytes(compress[suffix](json_lines(TEXTS)))
    assert read(path) == sorted(TEXTS)
    path.write_bytes(path.read_bytes()[:-10])
    assert f"cannot read text from {path}" in refusal(path)


def test_tables_with_headers_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n1,"one, two"\n2,three\n')
    (tmp_path / "b.tsv").write_text("id\ttext\n1\tfour\n")
    assert read(tmp_path / "a.csv", tmp_path / "b.tsv") == ["four", "one, two", "three"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str) -> None:
    contents = {"a.txt": "one", "a.jsonl": '{"text": "one"}', "a.json": '[{"text": "one"}]'}
    (tmp_path / name).write_text(contents.get(name, "text\none\n"), encoding="utf-8-sig")
    assert read(tmp_path / name) == ["one"]


def test_texts_that_look_like_dates_or_numbers_are_texts(tmp_path: Path) -> None:
    texts = ["2024-05-06", "2024-05-06T07:08:09", "12", "1e5", "true"]
    (tmp_path / "a.jsonl").write_bytes(json_lines(texts))
    assert read(tmp_path / "a.jsonl") == sorted(texts)


def test_a_column_may_be_missing_from_rows_but_not_from_all(tmp_path: Path) -> None:
    rows = [{"id": 1}, {"id": 2, "text": None}, {"text": "one"}, {"id": 3, "text": "two"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(path) == ["one", "two"]
    assert refusal(path, text_column="body") == f"{path} has no text column 'body': it has id, text"


def test_a_name_with_colons_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "a::b.jsonl").write_bytes(json_lines(["one"]))
    assert read(tmp_path / "a::b.jsonl") == ["one"]


def test_what_a_column_holds_is_said_where_it_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": [1, 2]}\n')
    assert "in row 2 it holds a list" in refusal(tmp_path / "a.jsonl")


# Plain text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("txt_documents", "expected"),
    [
        ("gathered", ["one\ntwo\n\nthree\n"]),
        ("line", ["one", "three", "two"]),
        ("paragraph", ["one\ntwo", "three\n"]),
        ("file", ["one\ntwo\n\nthree\n"]),
    ],
)
def test_a_document_of_plain_text_is_what_was_asked_for(
    tmp_path: Path, txt_documents: str, expected: list[str]
) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n")
    assert read(tmp_path / "a.txt", txt_documents=txt_documents) == expected


def test_a_story_a_line_makes_many_documents(tmp_path: Path) -> None:
    """Without an empty line the file was one document, and one of the splits was empty."""
    stories = [f"Story {i}: " + "once upon a time " * 20 for i in range(200)]
    (tmp_path / "stories.txt").write_text("\n".join(stories))
    found = read(tmp_path / "stories.txt")
    assert len(found) == 34  # of six stories each, which have 2,098 characters; the last of two
    assert sorted("\n".join(found).split("\n")) == sorted(stories)


# Folders and patterns ----------------------------------------------------------------------------


def test_folders_and_patterns_are_all_their_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.jsonl").write_bytes(json_lines(["one"]))
    (tmp_path / "inner" / "b.txt").write_text("two")
    pq.write_table(pa.table({"text": ["three"]}), tmp_path / "inner" / "c.parquet")
    (tmp_path / "notes.docx").write_text("no text")
    (tmp_path / ".hidden.txt").write_text("hidden")
    assert read(tmp_path) == ["one", "three", "two"]
    assert read(tmp_path / "inner" / "*") == ["three", "two"]
    assert read(tmp_path / "**" / "*.txt") == ["two"]
    assert "no text file at" in refusal(tmp_path / "*.csv")


def test_a_folder_of_save_to_disk_is_read(tmp_path: Path) -> None:
    halves = {"train": TEXTS[:20], "test": TEXTS[20:]}
    saved = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"text": texts}) for name, texts in halves.items()}
    )
    saved.save_to_disk(tmp_path / "both")
    saved["test"].save_to_disk(tmp_path / "one")
    assert read(tmp_path / "both") == sorted(TEXTS[:20])
    assert read(tmp_path / "both", dataset_split="test") == sorted(TEXTS[20:])
    assert read(tmp_path / "one") == sorted(TEXTS[20:])
    assert "no split 'dev'" in refusal(tmp_path / "both", dataset_split="dev")


def test_a_home_folder_is_written_out_and_a_name_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jsonl").write_bytes(json_lines(["one"]))
    assert read("~/a.jsonl") == ["one"]
    assert "there is no dataset" in refusal()


# Several, and the hub ----------------------------------------------------------------------------


def test_several_datasets_have_their_shares_of_the_text(tmp_path: Path) -> None:
    for name, length in (("a", 10), ("b", 40)):
        texts = [f"{name}{i:03}".ljust(length, ".") for i in range(400)]
        (tmp_path / f"{name}.jsonl").write_bytes(json_lines(texts))
    sources = tuple(str(tmp_path / f"{name}.jsonl") for name in "ab")
    for weights, share in (((), 0.5), ((3.0, 1.0), 0.75)):
        cfg = TextConfig(dataset=sources, dataset_weight=weights)
        first = list(islice(documents(cfg, "train"), 100))
        of_a = sum(len(str(document)) for document in first if str(document).startswith("a"))
        assert of_a / sum(map(len, first)) == pytest.approx(share, abs=0.03)
    assert len(read(*sources)) == 800  # when one has ended, the other goes on
    assert "2 datasets have 1 weights" in refusal(*sources, dataset_weight=(1.0,))


def test_configuration_split_and_revision_are_those_of_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def load_dataset(*arguments: object, **options: object) -> list[dict[str, str]]:
        asked.extend([arguments, options])
        return [{"text": text} for text in TEXTS]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(text, "hub_is_reachable", lambda: True)
    options = {"dataset_config": "en", "dataset_split": "validation", "dataset_revision": "v2"}
    assert read("allenai/c4", **options) == sorted(TEXTS)
    expected = {"split": "validation", "revision": "v2", "streaming": True}
    assert asked[:2] == [("allenai/c4", "en"), expected]


# Token ids and conversations ---------------------------------------------------------------------


def token_rows(tmp_path: Path, rows: list[list[int]]) -> Path:
    pq.write_table(pa.table({"ids": rows, "text": ["x"] * len(rows)}), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def test_token_ids_are_read_instead_of_text(tmp_path: Path) -> None:
    path = token_rows(tmp_path, [[1, 2, 3], [4], [5, 6]])
    assert read(path, tokens_column="ids") == [(1, 2, 3), (4,), (5, 6)]
    assert "no column of token ids 'text': in row 1" in refusal(path, tokens_column="text")
    assert "no column of token ids 'tokens': it has" in refusal(path, tokens_column="tokens")


def test_token_ids_are_packed_like_text_or_served_as_they_are() -> None:
    rows: list[Any] = [(1, 2, 3), (4, 5, 6)]
    assert take(packed(rows, context_size=4, prepend_bos=True), 9) == [
        [[90, 1, 2, 3]],
        [[90, 91, 4, 5]],
    ]
    as_they_are = packed(rows, context_size=3, repack=False)
    assert take(as_they_are, 9) == [[[1, 2, 3]], [[4, 5, 6]]]
    with pytest.raises(InputError, match=r"row 0 of .* has 3 token ids: .* --context-size \(4\)"):
        take(packed(rows, context_size=4, repack=False), 1)


def test_conversations_are_text_by_the_chat_template(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "1 2"}, {"role": "assistant", "content": "3"}]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": messages}) + "\n")
    assert read(path, chat=True) == [messages]
    template = "{% for m in messages %}{{ m.content }} <eos> {% endfor %}"
    TOKENIZER.chat_template = template
    try:
        assert take(packed([messages], context_size=3), 9) == [[[1, 2, 91]], [[3, 91, 91]]]
    finally:
        TOKENIZER.chat_template = None
    with pytest.raises(InputError, match="chat template of the tokenizer cannot be applied"):
        take(packed([messages], context_size=3), 9)


def test_an_id_that_the_model_has_no_embedding_for_is_named_with_its_text() -> None:
    with pytest.raises(InputError) as raised:
        take(packed(["1 2", "3 88 4"], context_size=2, n_vocab=80), 9)
    assert "document 1 of  ('3 88 4'...) has the token '88' with id 88" in str(raised.value)
    assert "embeddings for 80 ids" in str(raised.value)
    with pytest.raises(InputError, match="has the token None with id -1"):
        take(packed([(1, -1)], context_size=2, n_vocab=80), 9)


# The model and its tokenizer ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def longer_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded model with two tokens that only its tokenizer knows."""
    folder = copy_of_tiny(tmp_path_factory.mktemp("longer") / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_token_without_an_embedding_is_named_before_anything_is_trained(
    tmp_path: Path, longer_tokenizer: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines([*TEXTS, "a text with <two> in it"]))
    model = load_model(longer_tokenizer, device="cpu")
    with pytest.raises(InputError) as raised:
        harvest(model, HarvestConfig(dataset=str(path)))
    expected = "('a text with <two> in it'...) has the token '<two>' with id 4097"
    assert expected in str(raised.value) and "embeddings for 4096 ids" in str(raised.value)
    path.write_bytes(json_lines(TEXTS))  # a text that goes without them can be used
    assert harvest(model, HarvestConfig(dataset=str(path)))


def test_what_a_forward_pass_cannot_take_is_one_line(tiny: LanguageModel) -> None:
    site = "blocks.1.hook_resid_pre"
    for tokens, what in ((torch.full((1, 4), 5000), "up to 5000"), (torch.zeros(1, 500), "of 500")):
        with pytest.raises(InputError, match=f"tiny cannot take blocks .*{what}"):
            tiny.activations(tokens.long(), [site])


def test_passes_over_a_short_text_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines([f"{text} and many more words" for text in TEXTS]))
    done = called(
        train_script.main,
        *("--dataset", path, "--n-tokens", 2048, "--batch-tokens", 128, "--buffer-tokens", 256),
        *("--d-sae", 32, "--k", 4, "--context-size", 16, "--eval-tokens", 32, "--wandb", "off"),
        *("--forward-tokens", 64, "--log-every", 4, "--out", tmp_path / "run"),
    )
    assert done.code == 0, done.err
    rows = [json.loads(r) for r in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    epochs = [row["epochs"] for row in rows]
    assert epochs[-1] > 1 and epochs == sorted(epochs)
    assert epochs[-1] / epochs[-2] == pytest.approx(
        rows[-1]["n_tokens"] / rows[-2]["n_tokens"], 0.01
    )
    report = (tmp_path / "run/report.html").read_text()
    assert f"The text was read {epochs[-1]:.1f} times over" in report
