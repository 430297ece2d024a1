"""Which features are shown of many."""

from pathlib import Path

import pytest
from benchmarks.browser import synthetic_features

from sae.features import Features
from sae.features.telling import telling


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return synthetic_features(tmp_path_factory.mktemp("features"), 200, n_contexts=1)


def test_half_have_the_largest_effect_in_each_part_of_the_densities(features: Features) -> None:
    chosen = telling(features)
    assert len(set(chosen)) == 50 and chosen == sorted(chosen)
    density, effect = features.numbers("density"), features.numbers("raised_logits")[:, 0]
    by_density = density.argsort()
    for part in by_density.split(40):
        best = part[effect[part].argsort(descending=True)[:5]]
        assert set(best.tolist()) <= set(chosen)


def test_the_other_half_are_drawn_from_the_seed(features: Features) -> None:
    chosen, other = set(telling(features, seed=0)), set(telling(features, seed=1))
    assert telling(features, seed=0) == sorted(chosen)
    assert 25 <= len(chosen & other) < 45


def test_of_a_few_features_all_that_fire_are_shown(tmp_path: Path) -> None:
    few = synthetic_features(tmp_path, 30, n_contexts=1)
    assert telling(few) == list(range(30))
    assert len(telling(few, n=7)) == 7
