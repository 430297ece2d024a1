"""The files of the feature browser: what the pages read, and what may be in it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from feature_folders import HOSTILE, Words, hostile_features

import sae.features
from activation_cache import LanguageModel
from sae.features.notes import NOTES
from sae.features.words import byte_letters, words_of
from sae.pages.browser import write_browser
from sae.pages.browser.layout import layout


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    features, dictionary = hostile_features(folder)
    features.notes.write(2, "</script> a note")
    return write_browser(features, dictionary).parent


def _given(file: Path) -> Any:
    """The data of a script."""
    name, value = re.fullmatch(r"given\((\"[^\"]+\"), (.*)\);\n", file.read_text(), re.S).groups()  # type: ignore[union-attr]
    assert json.loads(name) == file.stem
    return json.loads(value)


def test_the_files_have_what_the_folder_has(pages: Path) -> None:
    features = sae.features.open(pages)
    index = _given(pages / "browser" / "index.js")
    shards = [_given(file) for file in sorted((pages / "browser").glob("features-*.js"))]
    assert [len(shard) for shard in shards] == [64, 6]
    whole = [row for shard in shards for row in shard]
    for i, feature in enumerate(features):
        row = whole[i]
        assert row["n_active"] == feature.n_active and row["histogram"] == feature.histogram
        assert row["max"] == index["max"][i] == pytest.approx(feature.max, rel=1e-3)
        assert [tuple(pair) for pair in row["tokens"]] == feature.tokens
        assert [i for i, _ in row["raised"] + row["lowered"][::-1]] == [
            i for i, _ in feature.logits
        ]
        assert [i for i, _ in row["with"]] == [i for i, _ in feature.together()]
        for shown, context in zip(row["contexts"], feature.contexts, strict=True):
            kind, position, at, ids, places, values = shown
            assert (kind, position, at) == (context.kind, context.position, context.at)
            assert ids == context.token_ids
            dense = [0.0] * len(ids)
            for place, value in zip(places, values, strict=True):
                dense[place] = value
            assert dense == pytest.approx(context.values, rel=1e-3)
        if feature.contexts:
            at, ids = index["context"][i]
            assert ids[at] == feature.top[0].token_ids[feature.top[0].at]
    assert index["context"][3] == [] and index["density"][3] == 0
    assert _given(pages / "browser" / "words.js") == HOSTILE


def test_the_first_page_has_the_features_with_the_largest_effect_that_fire(pages: Path) -> None:
    first, index = (_given(pages / "browser" / f"{name}.js") for name in ("first", "index"))
    firing = [i for i, density in enumerate(index["density"]) if density > 0]
    best = sorted(firing, key=lambda i: (-index["effect"][i], i))[: len(first["features"])]
    assert first["features"] == best and 3 not in best
    for n, i in enumerate(best):
        assert {name: column[n] for name, column in first["rows"].items()} == {
            name: column[i] for name, column in index.items()
        }
    ids = {i for row in [*first["rows"]["tokens"], *first["rows"]["raised"]] for i in row}
    assert ids <= {int(i) for i in first["words"]}


def test_no_text_leaves_its_string(pages: Path) -> None:
    for file in (pages / "browser").glob("*.js"):
        text = file.read_text()
        assert text.isascii() or file.name == "draw.js" or "given(" not in text[:6]
    data = [pages / NOTES, *(pages / "browser").glob("[fiw]*.js")]
    for file in (file for file in data if file.read_text().startswith("given(")):
        assert _given(file) is not None  # one call of one literal
        assert not re.search(r"[\u2028\u2029\u202e\x00]", file.read_text())


def test_nothing_is_loaded_from_a_network(pages: Path) -> None:
    static = [pages / "index.html", *(pages / "browser").glob("*.css")]
    static += [
        file for file in (pages / "browser").glob("*.js") if "given(" not in file.read_text()[:6]
    ]
    for file in static:
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.|@import", text), file
    assert "default-src 'none'; script-src 'self'" in (pages / "index.html").read_text()


def test_writing_again_keeps_notes_and_replaces_the_rest(pages: Path) -> None:
    (pages / "browser" / "features-9999.js").write_text("of a larger dictionary")
    features = sae.features.open(pages)
    write_browser(features)
    assert not (pages / "browser" / "features-9999.js").exists()
    assert not _given(pages / "browser" / "first.js")["facts"]["has_map"]
    assert features[2].note == "</script> a note" and features[4].note == ""
    features.notes.write(4, " another ")
    assert _given(pages / NOTES) == {"2": "</script> a note", "4": "another"}
    features.notes.write(4, "")
    assert sae.features.open(pages).notes.read() == {2: "</script> a note"}


def test_notes_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    features, _ = hostile_features(tmp_path, d_sae=8)
    (tmp_path / NOTES).write_text('given("notes", {1: });\n')
    with pytest.raises(sae.InputError, match=r"notes.js cannot be read .*: repair or remove it"):
        features.notes.read()


# The map -----------------------------------------------------------------------------------------


def test_similar_rows_lie_side_by_side_on_the_map() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(6, 32, generator=generator).repeat_interleave(20, dim=0)
    rows = groups + 0.1 * torch.randn(120, 32, generator=generator)
    points = torch.from_numpy(layout(rows * torch.rand(120, 1, generator=generator).add(0.5)))
    assert points.min() == 0 and points.max() == 1
    distances = torch.cdist(points, points).fill_diagonal_(torch.inf)
    nearest = distances.argmin(dim=1)
    assert torch.equal(nearest // 20, torch.arange(120) // 20)


def test_a_few_rows_lie_in_the_middle() -> None:
    assert layout(torch.randn(3, 4)).tolist() == [[0.5, 0.5]] * 3


# The text of tokens ------------------------------------------------------------------------------


def test_bytes_that_are_no_character_are_shown(tiny: LanguageModel) -> None:
    words = words_of(tiny.tokenizer)
    assert len(words) == len(tiny.tokenizer)
    for i, word in enumerate(words):
        text = tiny.tokenizer.decode([i])
        assert word == text or "\ufffd" in text
    assert not any("\ufffd" in word for word in words)
    letters = {byte: letter for letter, byte in byte_letters().items()}
    (euro_begins,) = (tiny.tokenizer.convert_tokens_to_ids(letters[0xE2]),)
    assert words[euro_begins] == r"\xe2"


def test_bytes_have_the_letters_that_byte_level_tokenizers_write() -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    assert set(byte_letters()) == set(ByteLevel.alphabet())
    assert byte_letters()["A"] == 0x41 and byte_letters()["\u0120"] == 0x20  # the space in GPT-2's


def test_pieces_of_sentencepiece_keep_their_space_and_their_bytes() -> None:
    class Pieces(Words):
        def decode(self, ids: list[int]) -> str:  # type: ignore[override]
            text = super().decode(ids)
            return "\ufffd" if text.startswith("<0x") else text.replace("\u2581", " ").lstrip()

    assert words_of(Pieces(["\u2581the", "the", "<0xE2>", "\u2581"])) == [
        " the",
        "the",
        r"\xe2",
        " ",
    ]
