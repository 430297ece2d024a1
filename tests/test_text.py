"""Text sources: what is read, how it is split, and what is said where it cannot be read."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activation_cache.common.errors import InputError
from activation_cache.text.config import DOCSTRINGS, Split, TextConfig
from activation_cache.text.documents import PLAIN_TEXT_DOCUMENT_CHARS, documents
from activation_cache.text.split import HELD_OUT_EVERY, is_held_out

SPLITS: tuple[Split, Split] = ("train", "held_out")
DATASETS = (".json", ".jsonl", ".parquet")


def write_dataset(path: Path, texts: list[str], column: str = "text") -> str:
    """Write one row per text, in the format that the suffix of `path` names."""
    rows = [{column: text} for text in texts]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({column: texts}), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path.write_text(json.dumps(rows))
    return str(path)


def read(source: str, split: Split = "train", **options: Any) -> list[Any]:
    """The documents of one split of a source."""
    return list(documents(TextConfig(dataset=source, **options), split))


def refusal(source: str, text_column: str = "text") -> str:
    """The message with which reading `source` is refused: always one line."""
    with pytest.raises(InputError) as raised:
        read(source, "train", text_column=text_column)
    message = str(raised.value)
    assert "\n" not in message
    return message


# Files and datasets ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", DATASETS)
def test_a_dataset_is_read_row_by_row_in_its_own_order(tmp_path: Path, suffix: str) -> None:
    texts = [f"document number {i}" for i in range(60)]
    source = write_dataset(tmp_path / f"texts{suffix}", texts)
    train, held_out = (read(source, split) for split in SPLITS)
    assert train == [text for text in texts if text not in held_out]
    assert held_out == [text for text in texts if text not in train]
    assert len(train) + len(held_out) == 60


@pytest.mark.parametrize("suffix", DATASETS)
def test_the_first_row_of_a_dataset_is_not_lost(tmp_path: Path, suffix: str) -> None:
    assert not is_held_out("the first")
    assert not is_held_out("the second")
    source = write_dataset(tmp_path / f"texts{suffix}", ["the first", "the second"])
    assert read(source, "train") == ["the first", "the second"]


def test_the_text_may_stand_in_any_named_column(tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "texts.jsonl", ["the first"], column="body")
    assert read(source, "train", text_column="body") == ["the first"]


def test_rows_of_blanks_are_passed_over(tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "texts.jsonl", ["the first", "", " \n\t", "the second"])
    assert read(source, "train") == ["the first", "the second"]


def test_text_outside_ascii_is_kept(tmp_path: Path) -> None:
    text = "naïve café, 日本語, 🙂"
    assert not is_held_out(text)
    path = tmp_path / "texts.txt"
    path.write_text(text, encoding="utf-8")
    assert read(str(path), "train") == [text]
    source = write_dataset(tmp_path / "texts.parquet", [text])
    assert read(source, "train") == [text]


def test_plain_text_is_gathered_into_documents_of_whole_paragraphs(tmp_path: Path) -> None:
    # 900 characters each: the third one passes the 2,000, so three paragraphs, then two.
    assert PLAIN_TEXT_DOCUMENT_CHARS == 2_000
    paragraphs = [letter * 900 for letter in "abcde"]
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(paragraphs))
    found = [text for split in SPLITS for text in read(str(path), split)]
    assert sorted(found) == ["\n\n".join(paragraphs[:3]), "\n\n".join(paragraphs[3:])]


def test_a_single_line_of_plain_text_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("the first")
    assert read(str(path), "train") == ["the first"]


def test_a_file_name_with_brackets_is_a_name_and_not_a_pattern(tmp_path: Path) -> None:
    path = tmp_path / "notes[1].txt"
    path.write_text("the first")
    (tmp_path / "notes1.txt").write_text("another file")
    assert read(str(path), "train") == ["the first"]


# The split ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=6)
@given(texts=st.lists(st.text("abc ", min_size=1, max_size=6), min_size=1, max_size=60))
def test_every_document_is_in_exactly_one_split(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("split") / "texts.jsonl"
    source = write_dataset(path, texts)
    train, held_out = (read(source, split) for split in SPLITS)
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(text for text in texts if text.strip())
    assert all(map(is_held_out, held_out))


def test_one_document_in_twenty_is_held_out() -> None:
    # 500 of 10,000 expected; a fair split strays by sqrt(10,000 * 0.05 * 0.95), about 22.
    assert HELD_OUT_EVERY == 20
    n_held_out = sum(is_held_out(f"document number {i}") for i in range(10_000))
    assert 400 < n_held_out < 600


def test_documents_stay_in_their_split_when_others_are_added_in_front(tmp_path: Path) -> None:
    texts = [f"document number {i}" for i in range(100)]
    short = write_dataset(tmp_path / "short.jsonl", texts)
    longer = write_dataset(tmp_path / "longer.jsonl", [f"new {i}" for i in range(7)] + texts)
    for split in SPLITS:
        old = read(short, split)
        assert [
            text for text in documents(TextConfig(dataset=longer), split) if text in texts
        ] == old


def test_unpaired_surrogates_have_a_split_too() -> None:
    assert isinstance(is_held_out("\ud800"), bool)


# Installed documentation -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held_out_docstrings() -> list[str]:
    return read(DOCSTRINGS, "held_out")


def paragraphs_of(texts: list[str]) -> list[str]:
    """The paragraphs of all documents, without regard to white space."""
    found = (" ".join(part.split()) for text in texts for part in text.split("\n\n"))
    return [paragraph for paragraph in found if paragraph]


def test_no_held_out_paragraph_of_the_docstrings_occurs_in_training(
    held_out_docstrings: list[str],
) -> None:
    train = paragraphs_of(list(islice(documents(TextConfig(dataset=DOCSTRINGS), "train"), 200)))
    assert len(train) > 1_000
    assert not set(train) & set(paragraphs_of(held_out_docstrings))
    assert len(train) == len(set(train))  # nor does any paragraph occur twice


def test_the_held_out_docstrings_are_plenty_and_hold_no_paragraph_twice(
    held_out_docstrings: list[str],
) -> None:
    assert sum(map(len, held_out_docstrings)) > 500_000
    paragraphs = paragraphs_of(held_out_docstrings)
    assert len(paragraphs) == len(set(paragraphs))
    assert all(text.strip() for text in held_out_docstrings)


@pytest.mark.slow
def test_the_docstrings_come_in_the_same_order_in_every_process(
    held_out_docstrings: list[str],
) -> None:
    code = (
        "import json; from itertools import islice;"
        "from activation_cache.text.docstrings import docstring_documents;"
        "print(json.dumps(list(islice(docstring_documents('held_out'), 20))))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert json.loads(other.stdout) == held_out_docstrings[:20]


# Bad input ---------------------------------------------------------------------------------------


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nothing.txt"
    path.touch()
    assert refusal(str(path)) == f"the text file {path} is empty: give one with text in it"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    message = refusal(str(tmp_path / "absent.jsonl"))
    assert message.startswith(f"no text file at {tmp_path}/absent.jsonl: give an existing .txt")


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.png").touch()
    assert f"the folder {tmp_path} holds no text:" in refusal(str(tmp_path))
    assert "no text file at" in refusal(str(tmp_path / "*.txt"))


def test_a_file_of_another_kind_is_refused_with_the_kinds_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "report.docx"
    path.write_text("the first")
    message = refusal(str(path))
    assert f"cannot read text from {path}" in message
    assert "must end in one of .txt, .json, .jsonl, .ndjson, .csv, .tsv, .parquet" in message


def test_plain_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("café au lait".encode("latin-1"))
    message = refusal(str(path))
    assert f"cannot read text from {path}" in message
    assert "byte 0xe9 in position 3" in message
    assert "UTF-8 text" in message


@pytest.mark.parametrize("suffix", DATASETS)
def test_a_wrong_text_column_is_refused_with_the_columns_there_are(
    tmp_path: Path, suffix: str
) -> None:
    source = write_dataset(tmp_path / f"texts{suffix}", ["the first"], column="body")
    message = refusal(source, text_column="content")
    assert message == f"{source} has no text column 'content': it has body"


def test_a_column_of_numbers_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "numbers.jsonl"
    path.write_text('{"text": 5}\n')
    assert f"{path} has no text column 'text'" in refusal(str(path))


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_broken_json_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_text('{"text": "the first"}\nnot json\n')
    message = refusal(str(path))
    assert f"cannot read text from {path}" in message
    assert "text, JSON lines or parquet" in message


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "broken.parquet", ["the first"] * 100)
    path = Path(source)
    path.write_bytes(path.read_bytes()[:-20])
    assert f"cannot read text from {path}" in refusal(source)


def test_a_hub_dataset_is_refused_while_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without this the hub client retries for half a minute before it gives up.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal("no-such-owner/no-such-dataset")
    assert "cannot read the dataset 'no-such-owner/no-such-dataset': the hub cannot be" in message
    assert "a local .txt, .jsonl or .parquet file" in message
