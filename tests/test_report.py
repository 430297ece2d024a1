"""The report of a run: everything of the run folder is on one page, and nothing else is needed."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from activation_cache.common.errors import InputError
from sae.pages.charts import (
    Series,
    compact,
    histogram,
    line_chart,
    linear_ticks,
    log_ticks,
    power_of_ten,
)
from sae.pages.run_report import write_report

SETTINGS: dict[str, Any] = {
    "model": "tiny",
    "hook_name": "blocks.2.hook_resid_pre",
    "architecture": "topk",
    "d_sae": 1536,
    "k": 32,
    "l1_coeff": None,
    "tied": False,
    "n_tokens": 1_000_000,
    "batch_tokens": 1024,
    "lr": 0.00034567891,
    "dataset": "docstrings",
    "out": "runs/first",
}
VERSIONS = {"python": "3.11.7", "torch": "2.13.0+cpu"}
METRICS: dict[str, float] = {
    "fvu": 0.0513,
    "explained_variance": 0.9487,
    "explained_variance_legacy": 0.9312,
    "mse": 9.104,
    "cosine": 0.9731,
    "l2_ratio": 0.9702,
    "relative_reconstruction_bias": 0.9913,
    "l0": 31.98,
    "l1": 80.23,
    "dead": 3,
    "dead_fraction": 3 / 1536,
    "d_sae": 1536,
    "n_tokens": 100_000,
    "ce_clean": 3.204,
    "ce_spliced": 3.256,
    "ce_zero": 7.911,
    "ce_mean": 7.802,
    "delta_ce": 0.052,
    "kl": 0.0497,
    "ce_recovered": 0.989,
    "ce_recovered_mean": 0.988,
}
CONVENTIONS = {name: f"How {name} is defined, in one sentence." for name in METRICS}
EDGES = [-7 + i / 4 for i in range(29)]
COUNTS = [round(420 * math.exp(-(((edge + 2.4) / 0.7) ** 2))) for edge in EDGES[:-1]]
NETWORK = ("http:", "https:", "src=", "@import", "url(", "href=", "<link", "<script", "<iframe")


def log_rows(n_rows: int = 60) -> list[dict[str, float]]:
    return [
        {
            "step": 17 * i,
            "n_tokens": 17_000 * i,
            "loss": 9 + 190 * math.exp(-i / 6) + math.sin(3 * i) / 3,
            "mse": 8.5 + 185 * math.exp(-i / 6) + math.sin(3 * i) / 3,
            "l0": 32.0,
            "fvu": 0.05 + 0.9 * math.exp(-i / 6),
            "dead": max(0, 40 - i),
            "lr": 0.001 * min(1, (n_rows - i) / 12),
            "grad_norm": 1.2 + 9 / i,
            "tokens_per_s": 15_000 + 900 * math.sin(i),
            "auxk": 0.3 / i,
        }
        for i in range(1, n_rows + 1)
    ]


def write_run(
    folder: Path,
    *,
    settings: Mapping[str, Any] = SETTINGS,
    rows: Sequence[Mapping[str, Any]] | None = None,
    evaluated: Mapping[str, Any] | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"settings": settings, "versions": VERSIONS, "git_commit": "abc123"}
    density = {"log10_edges": EDGES, "counts": COUNTS}
    full = {"metrics": METRICS, "conventions": CONVENTIONS, "density": density}
    lines = [json.dumps(row) + "\n" for row in (log_rows() if rows is None else rows)]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(lines))
    (folder / "eval.json").write_text(json.dumps(full if evaluated is None else evaluated))
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


class _Page(HTMLParser):
    """The tags of a page, checked for balance, and its text as a reader sees it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def n_vertices(markup: str) -> list[int]:
    return [len(points.split()) for points in re.findall(r'points="([^"]*)"', markup)]


def y_values(markup: str) -> list[float]:
    (points,) = re.findall(r'points="([^"]*)"', markup)
    return [float(point.split(",")[1]) for point in points.split()]


def test_nothing_on_the_page_points_to_the_network(run_folder: Path) -> None:
    page = page_of(run_folder)
    assert [needle for needle in NETWORK if needle in page] == []
    assert "default-src 'none'" in page


def test_the_page_is_well_formed_and_names_what_was_trained_on_what(run_folder: Path) -> None:
    page = _Page(page_of(run_folder))
    assert page.open == []
    title = "TopK dictionary of 1,536 features on blocks.2.hook_resid_pre of tiny"
    assert title in page.text


def test_every_metric_is_on_the_page_with_its_value_and_its_convention(run_folder: Path) -> None:
    page = page_of(run_folder)
    for name, value in METRICS.items():
        assert f'<th scope="row">{name}</th><td class="number" title="{value}">' in page
        assert CONVENTIONS[name] in page


def test_every_setting_and_version_is_on_the_page_as_the_file_has_it(run_folder: Path) -> None:
    page = page_of(run_folder)
    written = {name: v if isinstance(v, str) else json.dumps(v) for name, v in SETTINGS.items()}
    for name, value in (written | VERSIONS).items():
        assert f'<th scope="row">{name}</th><td>{value}</td>' in page
    assert "abc123" in page


def test_the_headline_says_fvu_l0_delta_ce_dead_and_tokens(run_folder: Path) -> None:
    header = page_of(run_folder).partition("</header>")[0].rpartition("<header>")[2]
    numbers = re.findall(r"<dd>(.*?)</dd>", header)
    assert numbers == ["0.0513", "31.98", "+0.052", "3", "1.02M"]  # 60 rows x 17,000 tokens
    assert "0.195 %, in 100k tokens" in header  # 3 / 1536


def test_the_splice_table_measures_each_intervention_from_the_clean_model(
    run_folder: Path,
) -> None:
    text = _Page(page_of(run_folder)).text
    assert "dictionary spliced in 3.256 +0.052" in text
    assert "activations set to their mean 7.802 +4.598" in text
    assert "activations set to zero 7.911 +4.707" in text


def test_what_comes_from_files_is_escaped_everywhere(tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>"
    names = ("model", "hook_name", "architecture", "d_sae")
    folder = write_run(
        tmp_path,
        settings=SETTINGS | dict.fromkeys(names, attack) | {attack: [attack]},
        rows=[{"n_tokens": 10, "loss": 1.0, attack: 2.0}],
        evaluated={"metrics": {attack: attack}, "conventions": {attack: attack, "density": attack}},
    )
    page = page_of(folder)
    assert "script" not in _Page(page).tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_path_that_is_no_utf8_does_not_stop_the_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path, settings=SETTINGS | {"out": "runs/\udcff"})
    assert "<td>runs/?</td>" in page_of(folder)


def test_unknown_keys_are_shown_like_known_ones(tmp_path: Path) -> None:
    metrics = {"novelty": 0.123456, "verdict": "fine", "absent": None, "parts": [1, 2]}
    rows = [{"n_tokens": n, "loss": 1.0, "novelty": n / 7} for n in (10, 20, 30)]
    folder = write_run(tmp_path, rows=rows, evaluated={"metrics": metrics})
    text = _Page(page_of(folder)).text
    assert "novelty against tokens seen" in text
    assert "novelty 0.1235" in text
    assert "verdict fine" in text
    assert "absent null" in text
    assert "parts [1, 2]" in text


def test_a_convention_without_its_number_says_that_it_was_not_measured(tmp_path: Path) -> None:
    evaluated = {"metrics": {"fvu": 0.1}, "conventions": CONVENTIONS | {"density": "Its sentence."}}
    page = page_of(write_run(tmp_path, evaluated=evaluated))
    assert "kl not measured How kl is defined" in re.sub(r"<[^>]+>", " ", page).replace("  ", " ")
    assert page.count("Its sentence.") == 1


@pytest.mark.parametrize(
    "evaluated",
    [
        {},
        {"metrics": {}, "conventions": {}, "density": {}},
        {"metrics": {"fvu": math.nan, "ce_clean": math.inf}},
        {"metrics": {"ce_clean": 0.0, "ce_zero": 0.0}},
        {"metrics": {"ce_spliced": 3.0}},
        {"metrics": {"dead": 8}, "density": {"log10_edges": [-1.0, 0.0], "counts": [0]}},
        {"metrics": {"dead": 0}, "density": {"log10_edges": [-1.0, -0.75], "counts": [8]}},
    ],
)
@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 0, "n_tokens": 0, "loss": 0.0, "fvu": 0.0, "dead": 0}],
        [{"step": 1, "n_tokens": 1024, "loss": 12.3, "fvu": math.nan, "l0": None}],
    ],
)
def test_small_and_partial_runs_have_a_page(
    tmp_path: Path, evaluated: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    page = _Page(page_of(write_run(tmp_path, settings={}, rows=rows, evaluated=evaluated)))
    assert page.open == []
    assert "Sparse dictionary" in page.text


def test_a_run_with_only_its_config_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"settings": {"model": "tiny"}, "versions": {}}')
    text = _Page(page_of(tmp_path)).text
    assert "No step was logged." in text
    assert "This run was not evaluated." in text


def test_a_spliced_model_better_than_the_clean_one_has_no_excess(tmp_path: Path) -> None:
    metrics = {"ce_clean": 4.0, "ce_spliced": 3.0, "delta_ce": -1.0}
    page = page_of(write_run(tmp_path, evaluated={"metrics": metrics}))
    bars = re.findall(r'"clean" width="([^"]*)".*?"excess" x="[^"]*" width="([^"]*)"', page)
    assert bars == [("100.00", "0.00"), ("75.00", "0.00")]


def test_the_folder_keeps_no_temporary_file_and_an_old_report_is_replaced(
    run_folder: Path,
) -> None:
    (run_folder / "report.html").write_text("old")
    assert page_of(run_folder).startswith("<!doctype html>")
    found = {path.name for path in run_folder.iterdir()}
    assert found == {"config.json", "metrics.jsonl", "eval.json", "report.html"}


def test_the_same_run_gives_the_same_page(run_folder: Path) -> None:
    assert page_of(run_folder) == page_of(run_folder)


def test_what_is_no_run_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        write_report(tmp_path)


def test_a_line_has_a_vertex_for_every_finite_value(tmp_path: Path) -> None:
    rows = log_rows(40)
    for i, bad in ((3, math.nan), (9, math.inf), (12, -math.inf)):
        rows[i]["fvu"] = bad
    rows[20].pop("fvu")
    page = page_of(write_run(tmp_path, rows=rows))
    # loss, mse, fvu, l0, dead, lr, grad_norm, tokens_per_s, auxk
    assert n_vertices(page) == [40, 40, 36, 40, 40, 40, 40, 40, 40]
    assert "3 not finite, not drawn." in page


def test_a_line_falls_on_the_page_as_its_values_do() -> None:
    line = Series(name="loss", points=[(0, 10.0), (1, 5.0), (2, 0.0)])
    top, middle, bottom = y_values(line_chart([line], title="t", x_label="x", y_label="y"))
    assert bottom - middle == pytest.approx(middle - top)
    line = Series(name="fvu", points=[(0, 1.0), (1, 0.1), (2, 0.01)])
    chart = line_chart([line], title="t", x_label="x", y_label="y", log_y=True)
    top, middle, bottom = y_values(chart)
    assert bottom - middle == pytest.approx(middle - top, abs=0.11)  # rounded to 0.1
    assert "y, log scale" in chart


def test_a_value_of_zero_makes_a_logarithmic_axis_linear() -> None:
    line = Series(name="fvu", points=[(0, 1.0), (1, 0.0)])
    chart = line_chart([line], title="t", x_label="x", y_label="y", log_y=True)
    assert n_vertices(chart) == [2]
    assert "log scale" not in chart


def test_a_chart_without_values_says_so() -> None:
    line = Series(name="loss", points=[(0, math.nan)])
    chart = line_chart([line], title="t", x_label="x", y_label="y", log_y=True)
    assert "no finite values" in chart
    assert n_vertices(chart) == []


def test_histogram_bars_are_as_tall_as_their_counts() -> None:
    chart = histogram([-2, -1, 0, 1], [10, 0, 5], title="t", x_label="x", y_label="y")
    heights = [float(h) for h in re.findall(r'class="bar".*?height="([^"]*)"', chart)]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.1)
    assert "-2 to -1: 10" in chart


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 37, [0, 10, 20, 30, 40]),
        (0, 1_000_000, [0, 500_000, 1_000_000]),
        (0, 0.0011, [0, 0.0005, 0.001, 0.0015]),
        (0, 0.3, [0, 0.1, 0.2, 0.3]),
        (-3, 7, [-5, 0, 5, 10]),
        (11.2, 12.1, [11, 11.5, 12, 12.5]),
        (32, 32, [0, 10, 20, 30, 40]),
        (-5, -5, [-6, -4, -2, 0]),
        (0, 0, [0, 0.5, 1]),
    ],
)
def test_linear_ticks_are_round_and_enclose_the_values(
    low: float, high: float, ticks: list[float]
) -> None:
    assert linear_ticks(low, high) == ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.03, 0.8, [0.02, 0.05, 0.1, 0.2, 0.5, 1]),
        (0.001, 1, [0.001, 0.01, 0.1, 1]),
        (3, 3000, [1, 10, 100, 1000, 10_000]),
        (1e-9, 3e5, [1e-9, 1e-6, 1e-3, 1, 1e3, 1e6]),
        (11.2, 12.1, [11, 11.5, 12, 12.5]),
        (0.08, 0.08, [0.05, 0.1]),
        (0.1, 0.1, [0.05, 0.1, 0.2]),
    ],
)
def test_logarithmic_ticks_are_round_and_enclose_the_values(
    low: float, high: float, ticks: list[float]
) -> None:
    assert log_ticks(low, high) == ticks


def test_tick_labels_are_short() -> None:
    values = (0, 250_000, 1_500_000, 2e9, -1500, 0.3, 0.1 + 0.2, 0.0005, 2e-5)
    labels = ["0", "250k", "1.5M", "2B", "-1.5k", "0.3", "0.3", "0.0005", "2e-5"]
    assert [compact(value) for value in values] == labels
    assert [power_of_ten(e) for e in (-7, 0, 12)] == ["10⁻⁷", "10⁰", "10¹²"]
    assert power_of_ten(-1.5) == "0.032"  # 10^-1.5 = 0.0316


@pytest.mark.parametrize(
    ("density", "said"),
    [
        ({"log10_edges": [-1.0, 0.0], "counts": [0]}, "No feature fired."),
        ({}, "No firing frequencies were recorded."),
    ],
)
def test_a_page_without_a_histogram_says_why(
    tmp_path: Path, density: Mapping[str, Any], said: str
) -> None:
    evaluated = {"metrics": METRICS, "density": density}
    assert said in page_of(write_run(tmp_path, evaluated=evaluated))
