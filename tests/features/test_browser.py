"""The pages of features in headless Chromium, from disk with the network off, and served."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from benchmarks.browser import BROWSERS, first_bytes, synthetic_features, until
from feature_folders import HOSTILE, hostile_features
from small_models import RESID_MID

import sae
import sae.features
from activation_cache import LanguageModel, SourceConfig, text_batches
from sae.architectures import TopKConfig
from sae.commands.features import answers_of
from sae.pages.browser import PARTS, write_browser
from sae.pages.server import PageServer

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser; where it has to be there, its absence is a failure."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None and "CI" not in os.environ:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    assert found, "no browser is installed"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page with the network off, on which nothing may go wrong."""
    context = chromium.new_context(offline=True, viewport={"width": 1280, "height": 800})
    yield from _watched(context)


def _watched(context: Any) -> Iterator[Any]:
    context.set_default_timeout(10_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    yield page
    assert wrong == []
    assert all(re.match(r"file:|data:|http://127\.0\.0\.1:", url) for url in requested)
    context.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    features, dictionary = hostile_features(tmp_path_factory.mktemp("hostile"))
    features.notes.write(5, "<b>bold</b> note")
    return write_browser(features, dictionary)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24,576 features, and the vocabulary of GPT-2."""
    return write_browser(synthetic_features(tmp_path_factory.mktemp("many"), 24_576, n_contexts=2))


def _open(page: Any, file: Path, hash: str = "") -> None:
    page.goto(f"file://{file}{hash}")
    until(page, "index.complete")


def _rows(page: Any) -> list[int]:
    return [int(row.get_attribute("data-feature")) for row in page.query_selector_all("tbody tr")]


# From disk ---------------------------------------------------------------------------------------


def test_the_first_page_is_small_and_shows_features_before_the_rest_is_read(
    page: Any, many: Path
) -> None:
    assert first_bytes(many.parent) < 300_000
    page.route("**/browser/index.js", lambda route: None)  # never answered
    page.goto(f"file://{many}", wait_until="commit")
    page.wait_for_selector("tbody tr")
    assert "24,576 features at blocks.8.hook_resid_pre" in page.inner_text(".summary")
    assert page.inner_text(".chip").strip()


def test_all_features_are_sorted_and_searched(page: Any, many: Path) -> None:
    features = sae.features.open(many.parent)
    _open(page, many)
    effect = features.numbers("raised_logits")[:, 0]
    assert effect[_rows(page)[0]] == pytest.approx(effect.max().item(), rel=1e-3)
    for name in ("max", "density", "alignment"):
        for best in (features.numbers(name).max(), features.numbers(name).min()):
            page.click(f"thead .{name} button")  # again, for the other way round
            first = features.numbers(name)[_rows(page)[0]]
            assert first.item() == pytest.approx(best.item(), rel=1e-3)
    page.click("thead .number button")
    assert _rows(page)[:3] == [0, 1, 2]
    wanted = features.numbers("token_ids")[777, 0].item()
    page.fill("#search", features.word(wanted).strip())
    found = _rows(page)
    assert 777 in found
    fires = (features.numbers("token_ids")[:, :6] == wanted).any(dim=1).nonzero().flatten()
    assert found[: len(fires)] == fires.tolist()  # those that fire on the very token come first
    page.fill("#search", "#24575")
    assert _rows(page)[0] == 24_575
    page.fill("#search", "no token has this")
    assert _rows(page) == [] and "no feature is found" in page.inner_text(".end")


def test_the_list_goes_on_as_it_is_scrolled(page: Any, many: Path) -> None:
    _open(page, many)
    before = len(_rows(page))
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("n => document.querySelectorAll('tbody tr').length > n", arg=before)
    assert len(set(_rows(page))) == len(_rows(page)) < 200


def test_a_feature_has_a_page_and_links_to_its_neighbours(page: Any, many: Path) -> None:
    features = sae.features.open(many.parent)
    feature = features[1234]
    _open(page, many, "#/feature/1234")
    page.wait_for_selector(".contexts")
    text = page.inner_text("main")
    assert "Feature 1234" in text and f"{feature.n_active:,} of 1,000,000 tokens" in text
    first = page.query_selector(".contexts .line")
    assert [t.inner_text() for t in first.query_selector_all(".token")] == [
        word for word in feature.contexts[0].tokens
    ]
    shown = first.query_selector(".at .token")
    shown.hover()
    assert f"token {shown.get_attribute('data-token')}" in page.inner_text("#tip")
    neighbour = feature.neighbours[0].id
    page.click(f"text=Similar decoder rows >> xpath=.. >> a.number >> text='{neighbour}'")
    page.wait_for_selector(f"h1:has-text('Feature {neighbour}')")
    page.go_back()
    page.wait_for_selector("h1:has-text('Feature 1234')")
    page.fill(".compare input", "77")
    page.press(".compare input", "Enter")
    page.wait_for_selector("h1:has-text('Features 1234 and 77')")


def test_the_keys_lead_everywhere(page: Any, many: Path) -> None:
    _open(page, many)
    first, second = _rows(page)[:2]
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"h1:has-text('Feature {second}')")
    page.keyboard.press("k")
    page.wait_for_selector(f"h1:has-text('Feature {first}')")
    page.keyboard.press("d")
    page.wait_for_selector("canvas")
    page.keyboard.press("l")
    page.wait_for_selector("tbody tr")
    page.keyboard.press("/")
    page.keyboard.type("w1a")
    assert page.input_value("#search") == "w1a"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.is_visible("dialog")


def test_a_point_of_the_overview_opens_its_feature(page: Any, many: Path) -> None:
    _open(page, many, "#/density")
    page.wait_for_selector("canvas")
    box = page.query_selector("canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 8)
    page.wait_for_selector(".under a.number")
    feature = page.inner_text(".under a.number")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 8)
    page.wait_for_selector("h1:has-text('Feature')")
    assert page.inner_text("h1") == f"Feature {feature}"


def test_hostile_tokens_are_text(page: Any, hostile: Path) -> None:
    _open(page, hostile)
    page.click("thead .number button")
    shown = page.inner_text("main")
    for token in ("</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "{{7*7}}"):
        assert token in shown
    assert "\\u202eback" in shown and "\\u0000\\u001b[31m" in shown and "\u202e" not in shown
    assert "&lt;" in shown and "\\xe2\\x80" in shown and "<b>bold</b> note" in shown
    for feature in (0, 5, 69):
        _open(page, hostile, f"#/feature/{feature}")
        page.wait_for_selector("h1:has-text('Feature')")
    assert page.query_selector_all("main script, main img, main b") == []
    _open(page, hostile, "#/map")
    page.wait_for_selector("canvas")
    _open(page, hostile, "#/pair/5/6")
    page.wait_for_selector("h1:has-text('Features 5 and 6')")
    assert len(HOSTILE) == page.evaluate("index.words.length")


def test_a_feature_that_never_fires_says_so(page: Any, hostile: Path) -> None:
    _open(page, hostile, "#/feature/3")
    page.wait_for_selector(".empty")
    assert page.inner_text(".empty") == "It never fires on this text."
    _open(page, hostile, "#/feature/700")
    page.wait_for_selector("main > .empty")
    assert page.inner_text(".empty").endswith("features are 0 to 69")


def test_it_fits_a_phone_and_the_dark(chromium: Any, hostile: Path) -> None:
    context = chromium.new_context(
        offline=True, viewport={"width": 360, "height": 740}, color_scheme="dark", is_mobile=True
    )
    for page in _watched(context):
        for hash in ("", "#/feature/5", "#/pair/5/6", "#/density"):
            _open(page, hostile, hash)
            page.wait_for_selector("main > *")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, hash
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", colour)[:3])) < 60


# Served ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    dictionary = TopKConfig(d_sae=64, k=8).build(tiny.width(RESID_MID)).requires_grad_(False)
    dictionary.provenance = sae.Provenance(hook_name=RESID_MID)
    text = text_batches(tiny, SourceConfig(), 3000)
    folder = tmp_path_factory.mktemp("served")
    features = sae.features.collect(tiny, dictionary, text, folder, progress=False)
    page = write_browser(features, dictionary)
    answers = answers_of(features, tiny, dictionary)
    with PageServer(page, PARTS, answers, 0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_prompt_is_read_and_its_features_are_changed(chromium: Any, served: PageServer) -> None:
    for page in _watched(chromium.new_context()):
        page.goto(served.url)
        until(page, "index.complete")
        page.click("#to-prompt")
        page.fill("#prompt", "Returns a list of")
        page.click("#read")
        page.wait_for_selector(".prompt-tokens")
        tokens = "".join(t.inner_text() for t in page.query_selector_all(".prompt-tokens .token"))
        assert tokens == "<|endoftext|>Returns a list of"
        strongest = page.inner_text(".active .number")
        before = page.inner_text(".next")
        page.click(".active tr:first-child button:has-text('off')")
        page.wait_for_selector(".next .bar.after")
        assert strongest in page.inner_text(".edits") and page.inner_text(".next") != before
        assert page.is_visible("text=With the change")
        page.fill(".edits input >> nth=0", "9")
        page.fill(".edits input >> nth=1", "50")
        page.click(".edits button:has-text('set')")
        page.wait_for_selector("text=set to 50")
        for left in (1, 0):
            page.click(".edit button")
            assert len(page.query_selector_all(".edit")) == left
        page.wait_for_selector(".next .bar.after", state="detached")
        assert page.inner_text(".next") == before


def test_a_note_is_kept_and_found(chromium: Any, served: PageServer) -> None:
    for page in _watched(chromium.new_context()):
        page.goto(served.url + "#/feature/7")
        page.fill("input.note", "the seventh")
        page.press("input.note", "Enter")
        page.click("h1")
        page.wait_for_timeout(300)
        page.fill("#search", "seventh")
        page.wait_for_selector("tbody tr")
        assert _rows(page) == [7]
    assert sae.features.open(served.page.parent)[7].note == "the seventh"


def test_copy_as_python_is_code_that_runs(page: Any, hostile: Path) -> None:
    _open(page, hostile, "#/feature/5")
    page.wait_for_selector("#python")
    found: dict[str, Any] = {}
    exec(page.inner_text("#python").replace("feature.top", "top = feature.top"), found)
    assert found["feature"].index == 5 and found["top"][0].kind == "top"
