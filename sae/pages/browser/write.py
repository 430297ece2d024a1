"""The static pages of a folder of features, and their data as small scripts.

A page that is opened from disk may not read JSON, so all data are calls of `given(name, value)`:

first.js           what the first page needs, so that it is there at once
index.js           columns of all features: numbers, tokens, one context of each
words.js           the text of all tokens
map.js             decoder rows as points in a plane
features-0012.js   all of 64 features
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

from activation_cache.common.files import write_file
from sae.base import SAE
from sae.features import Context, Features
from sae.pages.browser.layout import layout
from sae.pages.browser.over_seeds import over_seeds

STATIC = Path(__file__).with_name("static")
PAGE = "index.html"
PARTS = "browser"
"""The folder beside the page with its scripts and data."""

FEATURES_IN_FILE = 64
N_FIRST = 48
"""Features on the first page."""
N_TOKENS = 6
"""Tokens of a feature in the index, on which it fires, and which it raises."""
SHOWN_BEFORE, SHOWN_AFTER = 9, 4
"""Tokens around the one of the context in the index."""
DIGITS = 4

INDEX = ("density", "max", "effect", "alignment", "tokens", "raised", "context")
"""The columns of the index; effect is by how much a feature raises the first of `raised`."""

SINGLE = (
    *("n_active", "density", "max", "min", "mean_active", "std_active", "mean_square"),
    *("encoder_norm", "decoder_norm", "alignment"),
)
PAIRS = {
    "tokens": ("token_ids", "token_counts"),
    "raised": ("raised_ids", "raised_logits"),
    "lowered": ("lowered_ids", "lowered_logits"),
    "decoder": ("decoder_neighbours", "decoder_cosines"),
    "encoder": ("encoder_neighbours", "encoder_cosines"),
    "before": ("before_ids", "before_share"),
    "with": ("with_ids", "with_share"),
    "after": ("after_ids", "after_share"),
}


def write_browser(features: Features, sae: SAE[Any] | None = None) -> Path:
    """Write `index.html` and its parts into the folder of the features; returns the page.

    With the dictionary, the pages have a map of its decoder rows. How stable features are over
    seeds is shown where it is known (`over_seeds`). What was there is replaced.
    """
    folder = features.folder / PARTS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in STATIC.iterdir():
        shutil.copy(file, (features.folder if file.name == PAGE else folder) / file.name)
    index: dict[str, list[Any]] = {name: [] for name in INDEX}
    stability = over_seeds(features)
    for number, first in enumerate(range(0, len(features), FEATURES_IN_FILE)):
        rows = _rows(features, slice(first, first + FEATURES_IN_FILE))
        for row, its in zip(rows, stability[first : first + FEATURES_IN_FILE], strict=False):
            row["seeds"] = {name: _round(value) for name, value in its.items()}
        _write(folder, f"features-{number:04d}", rows)
        for row in rows:
            for name, value in _in_index(row).items():
                index[name].append(value)
    _write(folder, "index", index)
    _write(folder, "words", features.vocabulary)
    _write(folder, "first", _first(index, features) | {"facts": _facts(features, sae)})
    if sae is not None:
        _write(folder, "map", _map(features, sae))
    features.notes.write_all(features.notes.read())  # the page reads the file, also an empty one
    return features.folder / PAGE


def _write(folder: Path, name: str, value: Any) -> None:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # in ASCII
    write_file(folder / f"{name}.js", f"given({json.dumps(name)}, {text});\n")


def _facts(features: Features, sae: SAE[Any] | None) -> dict[str, Any]:
    facts = features.facts
    return {
        "d_sae": facts.d_sae,
        "n_tokens": facts.n_tokens,
        "hook_name": facts.hook_name,
        "model": facts.provenance.get("model_name"),
        "dataset": facts.provenance.get("dataset_path"),
        "in_file": FEATURES_IN_FILE,
        "n_looked_at": facts.shown["n_looked_at"],
        "has_map": sae is not None,
        "has_logits": "raised_ids" in features.names,
    }


# Everything of a feature -------------------------------------------------------------------------


def _rows(features: Features, which: slice) -> list[dict[str, Any]]:
    """All that its page shows, for some features."""
    columns = {name: features.numbers(name, which).tolist() for name in features.names}
    n = len(columns["density"])
    rows: list[dict[str, Any]] = []
    for i in range(n):
        of = {name: column[i] for name, column in columns.items()}
        row: dict[str, Any] = {name: _round(of[name]) for name in SINGLE}
        for name, (ids, values) in PAIRS.items():
            pairs = zip(of.get(ids, ()), of.get(values, ()), strict=True)
            row[name] = [[i, _round(value)] for i, value in pairs if i >= 0]
        row["histogram"] = of["histogram"]
        row["contexts"] = [_context(c) for c in features.contexts(which.start + i)]
        rows.append(row)
    return rows


def _context(context: Context) -> list[Any]:
    """[kind, position, place of the token, token ids, places that are active, their values]."""
    active = [place for place, value in enumerate(context.values) if value]
    values = [_round(context.values[place]) for place in active]
    return [context.kind, context.position, context.at, context.token_ids, active, values]


def _round(value: int | float | str) -> int | float | str | None:
    """With a few digits, as the files are text; counts and words as they are, None for what is no
    number."""
    if isinstance(value, int | str):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


# The index ---------------------------------------------------------------------------------------


def _in_index(row: dict[str, Any]) -> dict[str, Any]:
    """What the index has of a feature."""
    return {
        "density": row["density"],
        "max": row["max"],
        "effect": row["raised"][0][1] if row["raised"] else None,
        "alignment": row["alignment"],
        "tokens": [i for i, _ in row["tokens"][:N_TOKENS]],
        "raised": [i for i, _ in row["raised"][:N_TOKENS]],
        "context": _excerpt(*row["contexts"][0][2:4]) if row["contexts"] else [],
    }


def _excerpt(at: int, token_ids: list[int]) -> list[Any]:
    """Tokens of its largest context, and which of them is shown."""
    start = max(0, at - SHOWN_BEFORE)
    return [at - start, token_ids[start : at + SHOWN_AFTER + 1]]


def _first(index: dict[str, list[Any]], features: Features) -> dict[str, Any]:
    """The rows of the index that come first, and the words in them."""
    column = index["effect" if "raised_ids" in features.names else "density"]
    firing = [i for i, density in enumerate(index["density"]) if density > 0]
    order = sorted(firing, key=lambda i: (-column[i], i))[:N_FIRST]
    rows = {name: [column[i] for i in order] for name, column in index.items()}
    shown = [*rows["tokens"], *rows["raised"], *(c[1] for c in rows["context"] if c)]
    ids = sorted({i for row in shown for i in row})
    return {"features": order, "rows": rows, "words": {i: features.word(i) for i in ids}}


def _map(features: Features, sae: SAE[Any]) -> list[list[float] | None]:
    """By feature, a point; None for those that never fire, whose rows mean nothing."""
    fires = (features.numbers("n_active") > 0).nonzero().flatten()
    points = layout(sae.W_dec[fires.to(sae.device)]).round(4).tolist()
    placed: list[list[float] | None] = [None] * len(features)
    for feature, point in zip(fires.tolist(), points, strict=True):
        placed[feature] = point
    return placed
