"""The feature browser with many features: how large its pages are, and how quickly they answer.

    python -m benchmarks.browser [D_SAE]

from scripts/. Needs Playwright (the extra `browser`) and Chromium.
"""

import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from pyarrow.parquet import ParquetWriter
from safetensors.torch import save_file

from sae.features import CollectConfig, Features
from sae.features import open as open_features
from sae.features.folder import (
    FACTS,
    FEATURES_IN_GROUP,
    SCHEMA_VERSION,
    TABLE,
    TENSORS,
    WORDS,
    FolderFacts,
)
from sae.pages.browser import write_browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
N_WORDS, N_CONTEXTS, N_TOKENS = 50_257, 36, 33
REPEATS = 5


def synthetic_features(folder: Path, d_sae: int, *, n_contexts: int = N_CONTEXTS) -> Features:
    """A folder as large as one of so many features, of made-up numbers and words."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    cfg = CollectConfig()
    uniform = {"max": 30, "min": 1, "mean_active": 5, "std_active": 2, "mean_square": 1}
    uniform |= {"encoder_norm": 1, "decoder_norm": 1, "alignment": 1}
    numbers: dict[str, Any] = {name: scale * rng.random(d_sae) for name, scale in uniform.items()}
    numbers["density"] = 10 ** rng.uniform(-5, -1, d_sae)
    numbers["n_active"] = np.ceil(numbers["density"] * 1e6).astype(np.int64)
    numbers["histogram"] = rng.integers(0, 100, (d_sae, cfg.n_bins))
    for ids, values, most, n in (
        ("token_ids", "token_counts", N_WORDS, cfg.n_tokens),
        ("raised_ids", "raised_logits", N_WORDS, cfg.n_tokens),
        ("lowered_ids", "lowered_logits", N_WORDS, cfg.n_tokens),
        ("decoder_neighbours", "decoder_cosines", d_sae, cfg.n_neighbours),
        ("encoder_neighbours", "encoder_cosines", d_sae, cfg.n_neighbours),
        *((f"{side}_ids", f"{side}_share", d_sae, cfg.n_together) for side in SIDES),
    ):
        numbers[ids] = rng.integers(0, most, (d_sae, n)).astype(np.int32)
        numbers[values] = -np.sort(-rng.random((d_sae, n)), axis=1)
    tensors = {name: torch.as_tensor(array) for name, array in numbers.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / TENSORS)
    _write_contexts(folder / TABLE, d_sae, n_contexts, rng)
    words = [f" w{i:x}" if i % 3 else f"p{i:x}" for i in range(N_WORDS)]
    (folder / WORDS).write_text(json.dumps(words))
    facts = FolderFacts(
        schema_version=SCHEMA_VERSION, d_sae=d_sae, n_tokens=1_000_000, context_size=128,
        hook_name="blocks.8.hook_resid_pre", provenance={"model_name": "made up"},
        shown=asdict(cfg),
    )  # fmt: skip
    (folder / FACTS).write_text(json.dumps(facts.to_dict()))
    return open_features(folder)


SIDES = ("before", "with", "after")


def _write_contexts(path: Path, d_sae: int, n: int, rng: np.random.Generator) -> None:
    kinds = ["top"] * min(16, n) + ["quantile 0.8 to 1"] * (n - min(16, n))
    writer = None
    for first in range(0, d_sae, FEATURES_IN_GROUP):
        features = range(first, min(first + FEATURES_IN_GROUP, d_sae))
        size = len(features) * n
        values = rng.random((size, N_TOKENS)) * (rng.random((size, N_TOKENS)) < 0.1)
        table = pyarrow.table(
            {
                "feature": pyarrow.array(np.repeat(features, n).astype(np.int32)),
                "kind": pyarrow.array(kinds * len(features)),
                "position": pyarrow.array(rng.integers(0, 10**6, size)),
                "value": pyarrow.array(values[:, 24].astype(np.float32)),
                "at": pyarrow.array(np.full(size, 24, np.int32)),
                "token_ids": pyarrow.array(list(rng.integers(0, N_WORDS, (size, N_TOKENS)))),
                "values": pyarrow.array(list(values.astype(np.float32))),
            }
        )
        writer = writer or ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


@contextmanager
def browser_page(**context: Any) -> Iterator[Any]:
    """A page of headless Chromium with the network off."""
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports] an extra

    found = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser.new_context(**context).new_page()
        finally:
            browser.close()


def until(page: Any, condition: str) -> float:
    """Wait for a condition of JavaScript; returns the milliseconds since the page was opened."""
    return page.evaluate(
        f"""() => new Promise((resolve) => {{
          const look = () => {{
            const holds = typeof index === "object" && ({condition});
            return holds ? requestAnimationFrame(resolve) : setTimeout(look, 1);
          }};
          look();
        }})"""
    )


KEYSTROKE = """async (text) => {
  const box = document.getElementById("search");
  const started = performance.now();
  box.value = text;
  box.dispatchEvent(new Event("input", { bubbles: true }));
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  return performance.now() - started;
}"""


def first_bytes(folder: Path) -> int:
    """Of what the first page needs before it shows its rows."""
    named = re.findall(r'(?:href|src)="(browser/[^"]+)"', (folder / "index.html").read_text())
    files = ["index.html", "notes.js", "browser/first.js", *named]
    return sum((folder / file).stat().st_size for file in files)


def measure(folder: Path) -> dict[str, float]:
    """Milliseconds until the first rows are there, and for the slowest keystroke of a search."""
    firsts: list[float] = []
    slowest: list[float] = []
    for _ in range(REPEATS):
        with browser_page(offline=True) as page:
            page.goto(f"file://{folder}/index.html", wait_until="commit")
            firsts.append(until(page, "document.querySelector('tr[data-feature]')"))
            until(page, "index.complete")
            query = "w1a2f"
            typed = [query[: n + 1] for n in range(len(query))]
            slowest.append(max(page.evaluate(KEYSTROKE, text) for text in typed))
    return {"first_rows_ms": statistics.median(firsts), "keystroke_ms": statistics.median(slowest)}


def main() -> None:
    d_sae = int(sys.argv[1]) if len(sys.argv) > 1 else 24_576
    with tempfile.TemporaryDirectory() as where:
        features = synthetic_features(Path(where), d_sae)
        started = time.process_time()
        write_browser(features)
        written = time.process_time() - started
        size = sum(file.stat().st_size for file in (Path(where) / "browser").iterdir())
        found = {"d_sae": d_sae, "written_cpu_s": written, "mb": size / 1e6}
        found |= {"first_kb": first_bytes(Path(where)) / 1e3} | measure(Path(where))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
