"""Which members nothing beats, and the table and the picture that say so."""

import io
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.console import Console
from sweeps import RESID

from sae.pages.pareto import SweepRow, mark_fronts, write_plot
from sae.runs.sweep import results_table

# Fronts -------------------------------------------------------------------------------------------


def row(name: str, l0: float, fvu: float, delta_ce: float, site: str = RESID) -> SweepRow:
    metrics = {"l0": float(l0), "fvu": float(fvu), "delta_ce": float(delta_ce)}
    metrics["dead_fraction"] = 0.0
    return SweepRow(name=name, hook_name=site, architecture="topk", point={}, metrics=metrics)


def fronts(rows: Sequence[SweepRow]) -> dict[str, tuple[str, ...]]:
    """Of which fronts each is a part, in the order of the rows."""
    return {marked.name: marked.fronts for marked in mark_fronts(rows)}


def test_a_front_is_what_no_other_has_less_of_both_than() -> None:
    rows = [
        row("dominated", 30, 0.40, 0.25),  # by `dense` in FVU, by `kind` in delta CE
        row("dense", 20, 0.40, 0.40),  # delta CE: `sparse` has less of both
        row("kind", 20, 0.45, 0.20),  # FVU: `dense` has less at the same L0
        row("sparse", 10, 0.50, 0.30),
    ]
    assert list(fronts(rows).items()) == [
        ("sparse", ("FVU", "delta CE")),
        ("dense", ("FVU",)),
        ("kind", ("delta CE",)),
        ("dominated", ()),
    ]


def test_equals_are_on_a_front_together_and_a_tie_in_one_number_is_not_enough() -> None:
    rows = [
        row("one", 10, 0.5, 0.3),
        row("its equal", 10, 0.5, 0.3),
        row("same L0, worse", 10, 0.6, 0.4),
        row("same FVU, more L0", 11, 0.5, 0.5),
    ]
    both = ("FVU", "delta CE")
    assert fronts(rows) == {
        "one": both,
        "its equal": both,
        "same L0, worse": (),
        "same FVU, more L0": (),
    }


def test_one_per_cent_of_l0_is_no_difference() -> None:
    rows = [
        row("relu", 15.96, 0.436, 0.4),  # hardly sparser, and twice the error
        row("topk", 16.0, 0.208, 0.2),
        row("sparser", 15.8, 0.436, 0.4),  # by more than one per cent
    ]
    both = ("FVU", "delta CE")
    assert fronts(rows) == {"sparser": both, "topk": both, "relu": ()}


def test_a_member_alone_is_on_both_fronts() -> None:
    assert fronts([row("one", 0.0, 1.2, -0.1)]) == {"one": ("FVU", "delta CE")}
    assert mark_fronts([]) == []


def test_fronts_are_taken_and_listed_site_by_site() -> None:
    rows = [
        row("b worse", 20, 0.9, 0.9, "b"),
        row("a worse", 10, 0.6, 0.6, "a"),
        row("b best", 20, 0.8, 0.8, "b"),  # beaten by all of `a`, which says nothing
        row("a best", 9, 0.5, 0.5, "a"),
    ]
    both = ("FVU", "delta CE")
    assert list(fronts(rows).items()) == [
        ("a best", both),
        ("a worse", ()),
        ("b best", both),
        ("b worse", ()),
    ]


NAN = math.nan


@pytest.mark.parametrize("is_missing", [False, True], ids=["nan", "missing, as eval.json has it"])
def test_what_was_not_measured_is_on_no_front_and_beats_nobody(is_missing: bool) -> None:
    rows = [
        row("diverged", NAN, NAN, NAN),
        row("no model", 5, 0.9, NAN),
        row("better", 20, 0.5, 0.3),
        row("worse", 20, 0.6, 0.4),
        row("at least sparse", 1, NAN, NAN),
    ]
    if is_missing:
        for each in rows:
            present = {name: value for name, value in each.metrics.items() if value == value}
            object.__setattr__(each, "metrics", present)
    assert fronts(rows) == {
        "better": ("FVU", "delta CE"),
        "no model": ("FVU",),
        "worse": (),
        "at least sparse": (),
        "diverged": (),
    }


few = st.integers(0, 3).map(float)


@given(st.lists(st.tuples(few, few, few, st.sampled_from("ab")), min_size=1, max_size=8))
@hypothesis_settings(max_examples=20, deadline=None)
def test_a_front_is_its_definition_and_the_order_of_members_does_not_matter(
    numbers: list[tuple[float, float, float, str]],
) -> None:
    rows = [row(str(i), *numbers[i]) for i in range(len(numbers))]
    found = fronts(rows)
    assert found == fronts(rows[::-1])
    for i, (l0, fvu, _, site) in enumerate(numbers):
        beaten = any(
            (other[0] <= l0 and other[1] < fvu) or (other[0] < l0 and other[1] <= fvu)
            for other in numbers
            if other[3] == site
        )
        assert ("FVU" in found[str(i)]) is not beaten


# Table and picture --------------------------------------------------------------------------------


LONG = (
    "jumprelu-d_sae1536-l0_coeff0.25-tied-blocks.10.hook_resid_post-n_tokens1000000-lr0.001-seed0"
)


def printed(rows: Sequence[SweepRow], width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(results_table(rows))
    return out.getvalue()


def column(table: str, n: int) -> str:
    """All cells of a column put together."""
    lines = [line.split("│") for line in table.splitlines() if line.startswith("│")]
    return "".join(cells[n + 1].strip() for cells in lines)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_shows_whole_names_and_numbers(width: int) -> None:
    rows = mark_fronts(
        [
            row(LONG, 12.34, 0.1234, 0.05678),
            row("topk-k4", 1234.5, 0.9, -0.001234),
            row("k", 2, 1, 3),
        ]
    )
    table = printed(rows, width)
    assert column(table, 0) == "".join(each.name for each in rows)
    for number in ("12.34", "0.1234", "0.05678", "-0.001234", "1,234"):
        assert number in table, number
    assert max(map(len, table.splitlines())) <= width
    assert "…" not in table


def test_the_table_shows_what_was_not_measured_as_nothing_or_nan() -> None:
    rows = mark_fronts([row("diverged", 3, NAN, NAN), row("fine", 2, 0.5, 0.3)])
    assert column(printed(rows, 80), 0) == "finediverged"
    measured = {"l0": 3.0, "dead_fraction": 0.5}
    bare = SweepRow(
        name="diverged", hook_name=RESID, architecture="topk", point={}, metrics=measured
    )
    assert "diverged" in printed(mark_fronts([bare]), 80)


def test_a_row_of_results_is_plain_json() -> None:
    (marked,) = mark_fronts([row("one", 2, 0.5, 0.3)])
    assert json.loads(json.dumps(marked.to_dict(), allow_nan=False))["fronts"] == [
        "fvu",
        "delta_ce",
    ]


PICTURES: Mapping[str, Sequence[SweepRow]] = {
    "two sites, zeros, less, and diverged": [
        row("zero", 0, 1.0, -0.1, "a"),
        row("all", 5, 0.0, 0.0, "a"),
        row("diverged", NAN, NAN, NAN, "a"),
        row("all diverged", 2, NAN, NAN, "b"),
    ],
}
MORE_PICTURES: Mapping[str, Sequence[SweepRow]] = {
    "one": [row("one", 2, 0.5, 0.3)],
    "equals": [row("one", 2, 0.5, 0.3), row("other", 2, 0.5, 0.3)],
    "far apart": [row("a", 1, 0.9, 9.0), row("b", 4096, 1e-5, 1e-5)],
    "many sites": [row(site, 2, 0.5, 0.3, site) for site in "abcdefgh"],
    "infinite": [row("a", 2, math.inf, math.inf), row("b", 2, 0.5, 0.3)],
}


@pytest.mark.slow
@pytest.mark.parametrize("rows", MORE_PICTURES.values(), ids=MORE_PICTURES)
def test_every_picture_is_a_picture(tmp_path: Path, rows: Sequence[SweepRow]) -> None:
    assert_drawn(rows, tmp_path)


@pytest.mark.parametrize("rows", PICTURES.values(), ids=PICTURES)
def test_the_picture_is_a_picture(tmp_path: Path, rows: Sequence[SweepRow]) -> None:
    assert_drawn(rows, tmp_path)


def assert_drawn(rows: Sequence[SweepRow], folder: Path) -> None:
    import matplotlib.image

    write_plot(mark_fronts(rows), folder)
    pixels = matplotlib.image.imread(folder / "pareto.png")
    n_sites = len({each.hook_name for each in rows})
    height, width, _ = pixels.shape
    assert width > 1000 and height > 400 * n_sites
    assert (pixels[..., :3].min(axis=-1) < 0.5).mean() > 0.001  # there is ink
    svg = ElementTree.parse(folder / "pareto.svg").getroot()
    assert svg.tag.endswith("svg") and len(list(svg.iter())) > 50
