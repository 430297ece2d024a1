"""`scripts/papers/toy_models.py`: what a reader of the paper types and gets."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import reference
from in_process import Done, called
from refusals import refusal_of
from rich.console import Console

from sae.commands import toy_models
from sae.papers.claims import Claim
from sae.papers.toy_models import demonstrate
from sae.papers.toy_models.section import Scale
from sae.papers.toy_models.work import LONGEST_FIRST, Finished

SMALL = (
    *("demonstrate", "--quick", "--seeds", 1, "--n", 6, "--m", 2, "--steps", 30),
    *("--densities", 0.5),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    out = tmp_path_factory.mktemp("toy") / "run"
    return out, called(toy_models.main, *SMALL, "--out", out)


def test_a_section_leaves_figures_in_two_formats_and_its_numbers(
    finished: tuple[Path, Done],
) -> None:
    out, done = finished
    assert done.code == 0, done.err
    assert f"written to {out}" in done.out
    assert (out / "demonstrate.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "demonstrate.svg").read_text()
    result = json.loads((out / "result.json").read_text())
    assert result["sections"]["demonstrate"]["seeds"] == [0]
    assert result["sections"]["demonstrate"]["numbers"]["densities"] == [0.5]


def test_other_sizes_than_the_papers_make_figures_but_no_claims(
    finished: tuple[Path, Done],
) -> None:
    """The thresholds are not for them."""
    out, done = finished
    assert "no claim was judged" in done.out
    assert json.loads((out / "result.json").read_text())["claims"] == []


def test_the_same_seed_gives_the_same_numbers() -> None:
    scale = Scale(quick=True, seeds=(7,), n=6, m=2, densities=(0.5,), steps=30)
    first, again = (json.dumps(demonstrate.run(scale).numbers) for _ in range(2))
    assert first == again


def put_into(page: Path, result: Path) -> Done:
    return called(reference.main, "--docs", page.parents[1], "--toy-models", result)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "papers").mkdir()
    return tmp_path / "papers" / "toy_models.md"


def test_a_page_gets_its_claims_between_markers_and_the_figures_that_it_shows(
    finished: tuple[Path, Done], page: Path
) -> None:
    shown = "![it](toy_models/demonstrate.png)"
    page.write_text(f"before\n<!-- claims -->stale<!-- /claims -->\n{shown}\nafter\n")
    assert put_into(page, finished[0]).code == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith(f"{shown}\nafter\n")
    assert "| claim | paper | ours (spread) | gate | holds |" in text
    assert "stale" not in text
    figures = [path.name for path in page.with_suffix("").iterdir()]
    assert figures == ["demonstrate.png"]  # those that the page shows, beside it


def test_a_page_without_a_place_for_the_table_is_refused_by_name(
    finished: tuple[Path, Done], page: Path
) -> None:
    page.write_text("nothing\n")
    done = put_into(page, finished[0])
    assert done.code == 2
    assert (
        "has no place for the table: put <!-- claims --> and <!-- /claims --> into it" in done.err
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--m", 0), "m must be at least 1, got 0"),
        (("--densities", 1.5), "--densities must lie in (0, 1], got 1.5"),
    ],
)
def test_flags_that_make_no_sense_are_refused_by_value(
    tmp_path: Path, flags: tuple[object, ...], message: str
) -> None:
    out = tmp_path / "run"
    done = called(toy_models.main, "geometry", *flags, "--out", out)
    assert message in refusal_of(done, out)


def test_a_section_that_is_not_in_the_paper_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert "topology" in refusal_of(called(toy_models.main, "topology", "--out", out), out)


def test_every_section_has_its_place_in_the_order_of_work() -> None:
    assert sorted(LONGEST_FIRST) == sorted(toy_models.SECTIONS)


HELD = Claim("geometry/a", "geometry", "it holds", "-", 0.5, (0.5, 0.5), "< 1", True)
NOT_JUDGED = replace(
    HELD, id="geometry/b", claim="it is too small", ours=7.0, spread=(6.0, 8.0), passed=None
)
CLAIMS = [
    HELD,
    replace(HELD, id="geometry/a/linear", claim="a control", control=True),
    NOT_JUDGED,
    replace(NOT_JUDGED, id="geometry/b/linear", claim="its control", control=True),
]


def test_the_last_line_counts_what_is_not_judged_apart() -> None:
    assert toy_models.summary(CLAIMS) == (
        "1 of 1 claims hold; 1 not judged at --quick size; "
        "1 of 1 negative controls fail as they should"
    )
    assert "not judged" not in toy_models.summary(CLAIMS[:2])


def test_the_table_on_the_screen_says_not_judged_and_never_no() -> None:
    screen = io.StringIO()
    done = Finished("geometry", CLAIMS, {}, 1.0, Scale(quick=True))
    toy_models.show(done, Console(file=screen, width=120))
    rows = [line.split("│")[1:-1] for line in screen.getvalue().splitlines() if "│" in line]
    marks = {row[0].strip(): (row[2].strip(), row[4].strip()) for row in rows}
    assert marks == {
        "it holds": ("0.5", "yes"),
        "it is too small": ("7 (6 to 8)", "not judged"),
    }


@pytest.mark.slow
def test_the_whole_paper_runs_quickly_and_every_judged_claim_holds(tmp_path: Path) -> None:
    """Every claim that a quick run judges, and every control of one that it must refuse. Claims
    whose thresholds take the full run are measured and not judged."""
    out = tmp_path / "run"
    # Workers also on one core: in this process, the tests' own checks would apply to a whole run.
    done = called(toy_models.main, "all", "--quick", "--workers", 2, "--out", out)
    assert done.code == 0, done.err
    result = json.loads((out / "result.json").read_text())
    assert sorted(result["sections"]) == sorted(toy_models.SECTIONS)
    judged = [row for row in result["claims"] if row["passed"] is not None]
    assert sum(not row["control"] for row in judged) >= 25
    assert [row["id"] for row in judged if not row["passed"]] == []
    for section in toy_models.SECTIONS:
        assert list(out.glob(f"{section}*.png")), section
