"""Labelled sets: from installed text by rule, and from a user's file."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from activation_cache.common.errors import InputError
from activation_cache.text.probing.build import probe_sets
from activation_cache.text.probing.installed import Installed
from activation_cache.text.probing.rules import RULES
from activation_cache.text.probing.sets import LEAST_DOCUMENTS, ProbeSet, from_csv
from sae.analysis.probing.folds import document_folds


def refusal(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# Sets from installed text ------------------------------------------------------------------------


def test_every_set_is_balanced_with_enough_documents(built: dict[str, ProbeSet]) -> None:
    assert len(built) >= 10
    for of in built.values():
        assert Counter(of.labels) == {0: 30, 1: 30}
        assert len(set(of.documents)) >= LEAST_DOCUMENTS
        assert len(set(of.texts)) == len(of.texts)
        document_folds(np.array(of.labels), of.documents, 3)


def test_length_tells_nothing_of_the_class(built: dict[str, ProbeSet]) -> None:
    for of in built.values():
        lengths: defaultdict[int, list[int]] = defaultdict(list)
        for text, label in zip(of.texts, of.labels, strict=True):
            lengths[label].append(len(text))
        for one, other in zip(sorted(lengths[0]), sorted(lengths[1]), strict=True):
            assert one / other == pytest.approx(1.0, abs=0.42)  # bins are half a doubling wide


def test_the_same_sets_are_built_again(built: dict[str, ProbeSet]) -> None:
    again = probe_sets(["first_sentence"], n_per_class=30)[0]
    assert again == built["first_sentence"] and again.digest == built["first_sentence"].digest


def test_a_set_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no probe set 'sentiment': choose from code_or_prose"):
        probe_sets(["sentiment"])


@pytest.mark.slow
def test_all_sets_have_a_hundred_texts_of_each_class() -> None:
    for of in probe_sets(n_per_class=60):
        assert Counter(of.labels) == {0: 60, 1: 60}
        document_folds(np.array(of.labels), of.documents, 5)


DOCSTRING = """Returns the 3 "best" features. They must not be changed.

Args:
    mode (`str`, *optional*):
        How they are ranked.
    top (int): How many.

>>> best = features(2)
>>> best
[1]
"""
NUMPY = """The rows were computed before. Use `rows` of deprecated tables?

Parameters
----------
axis : int, default 0
    Which of the axes,
    from 0.
"""
MODULE = Installed(
    "torch/best.py",
    (DOCSTRING, NUMPY),
    ("Is it done?",),
    "// no\nint best(int k) {\n  return k + 1; /* of it */\n}\n\n#include <best.h>;",
    "torch/best.h",
)
FIRST, SECOND = 'Returns the 3 "best" features.', "They must not be changed."
THIRD, FOURTH = "The rows were computed before.", "Use `rows` of deprecated tables?"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("origin", {FIRST: True, SECOND: True, THIRD: True, FOURTH: True}),
        ("parameter_type", {"mode: How they are ranked.": True, "top: How many.": False,
                            "axis: Which of the axes, from 0.": False}),
        ("deprecation", {FIRST: False, SECOND: False, THIRD: False, FOURTH: True,
                         "Is it done?": False}),
        ("question", {FIRST[:-1]: False, SECOND[:-1]: False, THIRD[:-1]: False,
                      FOURTH[:-1]: True, "Is it done": True}),
        ("numeral", {FIRST: True, SECOND: False, THIRD: False, FOURTH: False}),
        ("quotation", {FIRST: True, SECOND: False, THIRD: False, FOURTH: False,
                       "Is it done?": False}),
        ("first_sentence", {FIRST: True, SECOND: False, THIRD: True, FOURTH: False}),
        ("verb_or_noun", {FIRST: True, THIRD: False}),
        ("passive", {FIRST: False, SECOND: True, THIRD: True, FOURTH: False}),
        ("modal", {FIRST: False, SECOND: True, THIRD: False, FOURTH: False}),
        ("negation", {FIRST: False, SECOND: True, THIRD: False, FOURTH: False}),
        ("comment_or_docstring", {"Is it done?": True, FIRST: False, SECOND: False, THIRD: False,
                                  FOURTH: False}),
        ("python_or_cpp", {"best = features(2)\nbest": False,
                           "int best(int k) {\n  return k + 1; \n}": True}),
        ("code_or_prose", {"best = features(2)\nbest": True, FIRST: False, SECOND: False,
                           THIRD: False, FOURTH: False}),
    ],
)  # fmt: skip
def test_each_rule_on_a_small_module(
    rule: str, expected: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activation_cache.text.probing.installed.CHARS", range(1, 401))
    assert dict(RULES[rule].label(MODULE)) == expected
    assert RULES[rule].document(MODULE, False) == "torch/best.py"
    is_cpp = rule == "python_or_cpp"
    assert RULES[rule].document(MODULE, True) == ("torch/best.h" if is_cpp else "torch/best.py")


# Sets from a file --------------------------------------------------------------------------------


def rows_of(n: int, document: str = "") -> str:
    """Texts of two classes in turn; `document` may have the row's number in it."""
    head = "text,label" + (",document" if document else "")
    tail = [f",{document.format(row)}" if document else "" for row in range(n)]
    rows = [f'"text, {row}",{"bad" if row % 2 else "good"}{end}' for row, end in enumerate(tail)]
    return "\n".join([head, *rows]) + "\n"


def test_a_file_gives_texts_labels_and_documents(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text(rows_of(40, "page {}"))
    of = from_csv(path)
    assert (of.name, of.classes, len(of)) == ("reviews", ("bad", "good"), 40)
    assert of.texts[1] == "text, 1" and of.labels[:3] == (1, 0, 1)
    assert of.documents[39] == "page 39"
    path.write_text(rows_of(40))
    assert from_csv(path).documents[39] == "row 40"  # its own document


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no column 'text': it has ; name the columns in the first line"),
        ("text,sentiment\na,b\n", "no column 'label': it has sentiment, text"),
        ("text,label\n", "has no rows: give texts with labels"),
        ("text,label\na\n", "row 1 of .* has no label: fill it, or leave out the row"),
        ("text,label\n  ,x\n", "row 1 of .* has no text"),
        (rows_of(4, " "), "row 1 of .* has no document"),
        (rows_of(40).replace("bad", "good"), r"has 1 label \(good\): give texts of two classes"),
        (rows_of(40) + "x,c\n", r"has 3 labels \(bad, c, good\): give texts of two classes"),
        (rows_of(12), "too few documents: f has texts that are 'bad' of 6, and 10 are needed"),
        (rows_of(40, "one"), "too few documents: f has texts that are 'bad' of 1, and 10"),
        (rows_of(40) + '"text, 3",bad\n', "leaks: f has the text 'text, 3' in the documents 'row "
         "4' and 'row 41': remove one, or give both one document"),
        ("text,label\n\udcff,a\n", "cannot read .*: UnicodeDecodeError"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_probe_set_is_refused_in_one_line(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message) as error:
        from_csv(path)
    refusal(error)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory; give a CSV file") as error:
        from_csv(tmp_path / "none.csv")
    refusal(error)


def test_a_set_without_one_class_is_refused() -> None:
    texts = tuple(f"text {row}" for row in range(20))
    with pytest.raises(InputError, match="one class only: no text of ours is 'no'") as error:
        ProbeSet("ours", texts, (1,) * 20, texts, ("no", "yes"))
    refusal(error)
