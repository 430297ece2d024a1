"""The pictures of the documentation, out of the run that `make demo` leaves.

    python scripts/pictures.py RUN FEATURE NOTE

Needs Chromium and Playwright (the extra `browser`), and the run's features.
"""

import sys
from pathlib import Path
from threading import Thread
from typing import Any

from benchmarks.browser import browser_page, until

import sae
import sae.features
from activation_cache import load_model
from sae.commands.features import answers_of
from sae.pages.browser import PARTS, write_browser
from sae.pages.server import PageServer

DOCS = Path(__file__).parents[1] / "docs"
SIZE = {"width": 1120, "height": 930}
PROMPT = "Returns an array of the same shape, or raises an"


def take(page: Any, url: str, wanted: str, name: str, height: int = 700) -> None:
    """A picture of the top of a page, once it shows what is wanted of it."""
    page.set_viewport_size({**SIZE, "height": height})
    page.goto(url)
    page.wait_for_selector(wanted)
    page.screenshot(path=DOCS / f"{name}.png")


def take_all(page: Any, run: Path, served: str, feature: int) -> None:
    take(page, f"file://{run}/report.html", "h1", "report", SIZE["height"])
    take(page, f"file://{run}/features/index.html#/feature/{feature}", ".contexts", "feature")
    take(page, served, "tbody tr", "features")
    until(page, "index.complete")
    page.fill("#search", "array")
    take(page, f"{served}#/map", "canvas", "features-map")
    page.goto(f"{served}#/prompt")
    page.fill("#prompt", PROMPT)
    page.click("#read")
    page.wait_for_selector(".active")
    page.click(".active tr:nth-child(2) button:has-text('off')")
    page.wait_for_selector(".next .bar.after")
    page.screenshot(path=DOCS / "prompt.png")


def main() -> None:
    run, feature = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    features, dictionary = sae.features.open(run / "features"), sae.load(run)
    features.notes.write(feature, sys.argv[3])
    page_file = write_browser(features, dictionary)
    answers = answers_of(features, load_model("tiny"), dictionary)
    with PageServer(page_file, PARTS, answers, 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with browser_page(viewport=SIZE, color_scheme="light") as page:
            take_all(page, run, server.url, feature)
        server.shutdown()


if __name__ == "__main__":
    main()
