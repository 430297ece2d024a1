"""Each member of a sweep is, to the last bit, what it would be alone."""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import pytest
from sweeps import MLP, RESID, Grid, assert_each_is_as_if_alone, differences, logged, member

from activation_cache import ActivationCache
from sae import load
from sae.runs import inputs
from sae.runs.evaluation import evaluate_dictionary
from sae.runs.sweep import SweepSettings, sweep

VARIED: Grid = [
    {"architecture": "topk", "k": 4, "seed": 1},
    {"architecture": "topk", "k": 2, "tied": True, "hook_name": MLP, "n_tokens": 150},
    {"architecture": "batch_topk", "k": 4, "products": "bfloat16", "n_tokens": 300},
    {"architecture": "matryoshka", "k": 3, "tied": True, "d_sae": 48, "products": "screened"},
    {"architecture": "relu", "l1_coeff": 0.07, "lr": "1e-2", "hook_name": MLP},
    {"architecture": "gated", "tied": True, "d_sae": 40, "n_tokens": 1},
    {"architecture": "jumprelu", "l0_coeff": 0.001, "seed": 1, "n_tokens": 640},
]


@pytest.mark.usefixtures("no_report")
def test_members_of_every_kind_are_to_the_last_bit_what_they_are_alone(
    make: Callable[..., SweepSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make(VARIED, n_tokens=320)
    assert_each_is_as_if_alone(settings)
    monkeypatch.setattr("sae.runs.evaluation.load_model", inputs.load_model)
    for folder in sorted((settings.out / "members").iterdir())[:2]:
        report = evaluate_dictionary(load(folder)).to_json()
        assert report == (folder / "eval.json").read_text().rstrip("\n")


@pytest.mark.usefixtures("no_report")
def test_members_that_read_a_cache_up_to_any_row_are_what_they_are_alone(
    make: Callable[..., SweepSettings], cache: ActivationCache
) -> None:
    """The last batch of a cache is cut off at n_tokens: 36 rows for the first, not 64."""
    grid: Grid = [
        {"architecture": "topk", "k": 4, "n_tokens": [100, 1000]},
        {"architecture": "batch_topk", "hook_name": MLP, "n_tokens": 320, "seed": 1},
    ]
    settings = make(grid, cache=cache.folder, epochs=2)
    assert_each_is_as_if_alone(settings)
    name = "topk-k4-n_tokens100"
    assert logged(member(settings, name))[-1]["n_tokens"] == 100


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("is_cached", [False, True])
def test_every_architecture_seed_width_site_and_product_is_what_it_is_alone(
    make: Callable[..., SweepSettings], cache: ActivationCache, is_cached: bool
) -> None:
    """Widths of 32 and 200: of the wider ones, jumprelu and relu may become sparse on the way."""
    each: Mapping[str, Any] = {
        "tied": [False, True],
        "seed": [0, 1],
        "d_sae": [32, 200],
        "hook_name": [RESID, MLP],
    }
    grid = [
        {"architecture": ["topk", "batch_topk", "matryoshka"], "k": 2, **each},
        {"architecture": ["relu", "gated"], "l1_coeff": 0.5, "lr": 0.01, **each},
        {"architecture": "jumprelu", "l0_coeff": 0.01, "lr": 0.01, "n_tokens": 1280, **each},
        {
            "architecture": ["topk", "batch_topk", "matryoshka"],
            "products": ["bfloat16", "screened"],
            "n_tokens": [64, 192],
        },
        {"architecture": ["relu", "jumprelu", "gated"], "products": "bfloat16"},
    ]
    cached = {"cache": cache.folder, "epochs": 2} if is_cached else {}
    assert_each_is_as_if_alone(make(grid, n_tokens=1024, **cached))


@pytest.mark.usefixtures("no_report")
def test_neither_the_order_of_members_nor_the_number_of_passes_matters(
    make: Callable[..., SweepSettings],
) -> None:
    grid: Grid = [
        {"architecture": "topk", "k": [2, 4]},
        {"architecture": "jumprelu", "n_tokens": 192, "hook_name": MLP},
    ]
    whole = make(grid)
    turned = make(
        [{**block, "k": [4, 2]} if "k" in block else block for block in grid][::-1], out="turned"
    )
    passes = make(grid, out="passes", members_per_pass=2)
    names = [[row.name for row in sweep(settings)] for settings in (whole, turned, passes)]
    assert names[0] == names[1] == names[2] and len(names[0]) == 3
    for name, other in product(names[0], (turned, passes)):
        assert not differences(member(whole, name), member(other, name)), name
    results = [(settings.out / "results.json").read_bytes() for settings in (whole, turned, passes)]
    assert results[0] == results[1] == results[2]
