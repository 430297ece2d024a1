"""A claim passes where its gate holds on every seed, a control where it fails on every seed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sae.papers.claims import Gate, judge, markdown_table, read_claims, write_result

GATE = Gate(
    "section/small",
    "it is small",
    "about 1",
    "< 2",
    "size",
    lambda v: v["size"] < 2,
    ("untrained",),
)
FULL_RUN_ONLY = replace(GATE, judged_quick=False)


def test_a_claim_has_the_median_and_the_spread_over_seeds() -> None:
    claim, _ = judge(
        "section", [GATE], [{"size": 1.5}, {"size": 0.5}, {"size": 1.0}], _untrained(9)
    )
    assert (claim.ours, claim.spread, claim.passed, claim.control) == (1.0, (0.5, 1.5), True, False)
    assert claim.shown == "1 (0.5 to 1.5)"


def test_one_seed_on_which_the_gate_does_not_hold_fails_the_claim() -> None:
    claim, _ = judge("section", [GATE], [{"size": 1.0}, {"size": 2.5}], _untrained(9))
    assert not claim.passed


@pytest.mark.parametrize(("sizes", "passed"), [((3, 4), True), ((3, 1), False)])
def test_a_control_passes_where_the_gate_refuses_it_on_every_seed(
    sizes: tuple[float, ...], passed: bool
) -> None:
    _, control = judge("section", [GATE], [{"size": 1.0}], _untrained(*sizes))
    assert control.control
    assert control.passed is passed
    assert control.id == "section/small/untrained"


def test_a_quick_run_shows_what_it_does_not_judge_and_calls_it_neither_held_nor_failed() -> None:
    measured = [{"size": 2.5}, {"size": 3.5}]
    rows = judge("section", [FULL_RUN_ONLY], measured, _untrained(1.5), quick=True)
    claim, control = rows
    assert (claim.passed, control.passed) == (None, None)
    assert (claim.shown, control.shown) == ("3 (2.5 to 3.5)", "1.5")
    assert markdown_table(rows).endswith("| not judged | untrained 1.5 |")


@pytest.mark.parametrize(("gate", "quick"), [(FULL_RUN_ONLY, False), (GATE, True), (GATE, False)])
def test_whatever_else_a_gate_does_not_let_pass_fails(gate: Gate, quick: bool) -> None:
    rows = judge("section", [gate], [{"size": 2.5}], _untrained(1.5), quick=quick)
    assert [row.passed for row in rows] == [False, False]


def test_what_is_not_judged_is_null_in_the_file_and_read_as_such(tmp_path: Path) -> None:
    rows = judge("section", [FULL_RUN_ONLY], [{"size": 1.0}], _untrained(9), quick=True)
    write_result(tmp_path, "section", rows, {})
    assert '"passed": null' in (tmp_path / "result.json").read_text()
    assert read_claims(tmp_path) == rows


def test_a_section_replaces_what_the_file_had_of_it_and_nothing_else(tmp_path: Path) -> None:
    old, new = ([{"size": 1.0}], [{"size": 1.9}])
    write_result(tmp_path, "a", judge("a", [GATE], old, _untrained(9)), {"numbers": [1.0]})
    write_result(tmp_path, "b", judge("b", [GATE], old, _untrained(9)), {})
    write_result(tmp_path, "a", judge("a", [GATE], new, _untrained(9)), {"numbers": [float("nan")]})
    claims = {(claim.section, claim.id): claim for claim in read_claims(tmp_path)}
    assert len(claims) == 4
    assert claims["a", "section/small"].ours == 1.9
    assert claims["b", "section/small"].ours == 1.0
    text = (tmp_path / "result.json").read_text()
    assert json.loads(text)["sections"]["a"] == {"numbers": [None]}  # JSON has no NaN
    names = {"id", "section", "claim", "paper", "ours", "spread", "gate", "passed", "control"}
    assert names == set(json.loads(text)["claims"][0])


def test_the_table_has_a_row_a_claim_and_says_which_do_not_hold() -> None:
    table = markdown_table(judge("section", [GATE], [{"size": 2.5}], _untrained(9)))
    assert table.splitlines()[2:] == [
        "| it is small | about 1 | 2.5 | < 2 | **no** | untrained 9 |"
    ]


def test_a_control_that_the_gate_lets_pass_is_shown_as_such() -> None:
    table = markdown_table(judge("section", [GATE], [{"size": 1.0}], _untrained(1.5)))
    assert table.endswith("| yes | **untrained 1.5 passes** |")


def test_bars_in_a_cell_do_not_end_it() -> None:
    gate = Gate("s/d", "|D| is 1", "-", "|D - 1| < 0.1", "D", lambda v: True)
    assert r"| \|D\| is 1 |" in markdown_table(judge("s", [gate], [{"D": 1.0}]))


def _untrained(*sizes: float) -> dict[str, list[dict[str, float]]]:
    return {"untrained": [{"size": size} for size in sizes]}
