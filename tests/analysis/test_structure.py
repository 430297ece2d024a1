"""What a dictionary looks like from its weights and a pass, by hand, planted, and what must not
matter."""

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from planted import generator, random_rows, reordered, unit, written
from torch import Tensor

import sae
from activation_cache.common.errors import InputError
from sae.analysis.stability import expected_nearest
from sae.analysis.structure import (
    MetaConfig,
    Structure,
    expected_nearest_absolute,
    meta_structure,
    structure,
)
from sae.analysis.structure.activity import Pass, one_pass
from sae.analysis.structure.neighbours import nearest_within
from sae.analysis.structure.spread import Spread
from sae.interop.pretrained import PretrainedConfig, PretrainedSAE
from sae.provenance import Provenance
from sae.trainable import TrainableSAE

X = torch.rand(32, 2, generator=generator(0))


# Norms, neighbours, duplicates -------------------------------------------------------------------


def test_the_spread_of_five_numbers_by_hand_leaves_out_what_is_not_known() -> None:
    spread = Spread.of(torch.tensor([5.0, 1.0, math.nan, 2.0, 3.0, 4.0]))
    assert spread.mean == 3.0 and spread.n == 5
    assert spread.quantiles == pytest.approx(
        {0.0: 1.0, 0.05: 1.2, 0.25: 2.0, 0.5: 3.0, 0.75: 4.0, 0.95: 4.8, 1.0: 5.0}
    )
    assert math.isnan(Spread.of(torch.tensor([math.nan])).quantiles[0.5])


def test_neighbours_of_four_directions_by_hand() -> None:
    """Signed, the nearest to (1, 0) is (0.8, 0.6); by absolute value it is its opposite."""
    rows = torch.tensor([[2.0, 0.0], [0.8, 0.6], [-3.0, 0.0], [0.0, 0.0]])
    nearest = nearest_within(rows)
    assert nearest.signed[:3].tolist() == pytest.approx([0.8, 0.8, -0.8])
    assert nearest.absolute[:3].tolist() == pytest.approx([1.0, 0.8, 1.0])
    assert nearest.signed[3].isnan() and nearest.absolute[3].isnan()  # it has no direction
    summary = nearest.summary(d_in=2)
    assert summary.signed.n == 3 and summary.signed.mean == pytest.approx(0.8 / 3)
    assert summary.n_duplicates == 0 and summary.duplicate_share == 0.0


def test_three_copies_and_two_are_five_duplicates_in_four_pairs() -> None:
    """Of ten orthogonal rows three are the same and two others lie at a cosine of 0.95; the
    opposite of a row is no copy of it."""
    rows = torch.eye(12)[:10]
    rows[1] = 4.0 * rows[0]
    rows[2] = rows[0]
    rows[4] = 0.95 * rows[3] + math.sqrt(1 - 0.95**2) * rows[4]
    rows[6] = -rows[5]
    summary = nearest_within(rows).summary(d_in=12)
    assert summary.n_duplicates == 5 and summary.duplicate_share == 0.5
    assert summary.n_duplicate_pairs == 4


def test_neighbours_are_those_of_numpy_however_many_rows_are_taken_at_once() -> None:
    rows = random_rows(70, 9, 0) * torch.rand(70, 1, generator=generator(1))
    exact = unit(rows.double()).numpy()
    cosines = exact @ exact.T
    np.fill_diagonal(cosines, -np.inf)
    absolute = np.where(np.isinf(cosines), 0.0, abs(cosines)).max(axis=1)
    for chunk_pairs in (1, 700, 1 << 24):
        found = nearest_within(rows, chunk_pairs=chunk_pairs)
        np.testing.assert_allclose(found.signed, cosines.max(axis=1), atol=1e-6)
        np.testing.assert_allclose(found.absolute, absolute, atol=1e-6)
        assert found.n_duplicate_pairs == (cosines > 0.9).sum() // 2


def test_random_rows_lie_as_random_rows_are_said_to() -> None:
    summary = nearest_within(random_rows(2000, 32, 3)).summary(d_in=32)
    assert summary.signed.mean == pytest.approx(summary.random_signed, abs=0.003)
    assert summary.absolute.mean == pytest.approx(summary.random_absolute, abs=0.003)
    assert summary.random_signed == expected_nearest(1999, 32)


def test_the_expected_absolute_cosine_in_the_plane_by_hand() -> None:
    """With one other direction it is the mean of |cos| over angles, 2 / pi; in 3 dimensions |cos|
    is uniform, and the largest of n has the mean n / (n + 1)."""
    assert expected_nearest_absolute(1, 2) == pytest.approx(2 / math.pi, abs=1e-3)
    assert expected_nearest_absolute(4, 3) == pytest.approx(4 / 5, abs=1e-6)
    assert expected_nearest_absolute(7, 1) == pytest.approx(1.0, abs=1e-3)


def test_a_single_feature_has_no_neighbour() -> None:
    found = structure(written(torch.tensor([[1.0, 0.0]])), [X])
    assert found.decoder_neighbours.signed.n == 0
    assert found.to_dict()["decoder_neighbours"]["random_signed"] is None


def test_alignment_and_norms_of_two_features_by_hand() -> None:
    dictionary = written(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    dictionary.untied_W_enc_rows = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, -1.0]]))
    found = structure(dictionary, [X])
    assert found.features.alignment.tolist() == pytest.approx([0.6, -1.0])
    assert found.decoder_norms.mean == pytest.approx(1.5)
    assert found.encoder_norms.quantiles[1.0] == pytest.approx(5.0)
    assert found.encoder_neighbours.signed.mean == pytest.approx(-0.8)


# Firing ------------------------------------------------------------------------------------------


def test_rare_and_dense_features_by_hand() -> None:
    """Four features on a million tokens: never, 5 times, on 2 %, on half of them."""
    seen = Pass(torch.tensor([0, 5, 20_000, 500_000]), 1_000_000, None).summary()
    assert seen.l0 == pytest.approx(0.520005) and seen.dead_share == 0.25
    assert seen.rare[1e-5].of_features == 0.5  # 5 of a million is less than one in 100,000
    assert seen.rare[1e-5].of_firing == pytest.approx(5 / 520_005)
    assert seen.dense[0.01].of_features == 0.5
    assert seen.dense[0.01].of_firing == pytest.approx(520_000 / 520_005)
    assert seen.dense[0.1].of_features == 0.25
    assert seen.dense[0.1].of_firing == pytest.approx(500_000 / 520_005)


def test_a_density_is_not_spoken_of_where_three_fires_are_not_expected_at_it() -> None:
    for n_tokens, is_known in ((299_999, False), (300_000, True)):
        seen = Pass(torch.tensor([0, 1]), n_tokens, None).summary()
        assert (seen.rare[1e-5].of_features is not None) is is_known
        assert seen.rare[1e-6].of_features is None
    seen = Pass(torch.tensor([0, 1]), 50, None).summary()
    assert seen.dense[0.01].of_features is None and seen.dense[0.1].of_features == 0.0


def test_what_is_known_of_a_silent_feature_is_that_it_is_silent_by_chance_once_in_twenty() -> None:
    below = Pass(torch.tensor([0]), 1000, None).summary().dead_density_below
    assert (1 - below) ** 1000 == pytest.approx(0.05)
    assert below == pytest.approx(3 / 1000, rel=5e-3)


def test_where_nothing_fires_there_is_no_firing_to_share() -> None:
    seen = Pass(torch.tensor([0, 0]), 1000, None).summary()
    assert seen.l0 == 0.0 and seen.dense[0.1].of_firing is None


# Shrinkage ---------------------------------------------------------------------------------------


def test_shrinkage_of_two_features_by_hand() -> None:
    """x = (2, 1). The first feature makes 1 of the 2, the second 1.25 of the 1: a half, and a
    quarter too much. A feature that does not fire has none."""
    dictionary = written(torch.eye(3))
    assert dictionary.untied_W_enc_rows is not None
    dictionary.untied_W_enc_rows.data = torch.diag(torch.tensor([0.5, 1.25, 1.0]))
    found = structure(dictionary, [torch.tensor([[2.0, 1.0, 0.0]])])
    assert found.features.shrinkage[:2].tolist() == pytest.approx([0.5, 1.25])
    assert found.features.shrinkage[2].isnan()
    assert found.shrinkage is not None and found.shrinkage.n == 2


def test_of_two_copies_each_lacks_all_that_is_missing() -> None:
    """x = 1; both make 0.25. Beside the other's, 0.75 is left for each: a third of it is there."""
    dictionary = written(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), threshold=0.0)
    assert dictionary.untied_W_enc_rows is not None
    dictionary.untied_W_enc_rows.data *= 0.25
    found = one_pass(dictionary, [torch.tensor([[1.0, 0.0]])])
    assert found.shrinkage is not None
    assert found.shrinkage.tolist() == pytest.approx([1 / 3, 1 / 3])


def test_shrinkage_is_that_of_numpy_in_float64_and_batches_do_not_matter() -> None:
    dictionary = written(random_rows(20, 6, 1))
    dictionary.W_dec.data *= 1.0 + torch.rand(20, 1, generator=generator(2))
    x = torch.randn(200, 6, generator=generator(3))
    W_dec = dictionary.W_dec.detach().double().numpy()
    acts = dictionary.encode(x).detach().double().numpy()
    error = x.double().numpy() - acts @ W_dec - dictionary.b_dec.detach().double().numpy()
    own = (acts**2).sum(axis=0) * (W_dec**2).sum(axis=1)
    target = own + (acts * (error @ W_dec.T)).sum(axis=0)
    expected = np.where(target > 0, own / np.where(target > 0, target, 1.0), np.nan)
    for batches in ([x], list(x.split(7))):
        found = one_pass(dictionary, batches)
        assert found.shrinkage is not None and found.n_tokens == 200
        np.testing.assert_allclose(found.shrinkage, expected, rtol=1e-4)
        np.testing.assert_array_equal(found.fires, (acts != 0).sum(axis=0))


def test_a_feature_divided_by_its_shrinkage_has_none() -> None:
    dictionary = written(random_rows(12, 24, 1))
    x = torch.relu(torch.randn(500, 12, generator=generator(4))) @ dictionary.W_dec.detach()
    x = 1.5 * x
    shrinkage = one_pass(dictionary, [x]).shrinkage
    assert shrinkage is not None and (shrinkage - 1.0).abs()[3] > 0.01
    dictionary.W_dec.data[3] /= shrinkage[3].float()
    again = one_pass(dictionary, [x]).shrinkage
    assert again is not None and again[3].item() == pytest.approx(1.0, abs=1e-4)


def test_a_dictionary_that_undoes_a_normalisation_has_no_shrinkage_of_single_features() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    weights = {
        "W_enc": rows.T,
        "W_dec": rows,
        "b_enc": torch.zeros(3),
        "b_dec": torch.zeros(2),
    }
    cfg = PretrainedConfig(d_sae=3, activation="relu", normalization="constant_norm")
    normalised = PretrainedSAE(cfg, weights)
    found = structure(normalised, [5.0 * X])
    assert found.shrinkage is None and found.features.shrinkage.isnan().all()
    assert found.activity.n_tokens == 32


# The dictionary of the rows ----------------------------------------------------------------------


def fit(dictionary: TrainableSAE, batches: Iterable[Tensor], /, **settings: Any) -> None:
    sae.fit(dictionary, batches, sae.TrainConfig(**settings), progress=False)


SHORT = MetaConfig(k=2, n_steps=50, batch_rows=96, lr=1e-2, seed=1)


def test_rows_that_are_sums_of_two_of_few_directions_are_explained_and_random_ones_are_not() -> (
    None
):
    atoms = random_rows(12, 32, 0)
    pairs = torch.stack([torch.randperm(12, generator=generator(i))[:2] for i in range(96)])
    found = meta_structure(unit(atoms[pairs].sum(dim=1)), fit, SHORT)
    assert found.d_sae == 24 and found.settings.seed == 1
    assert found.decoder_fraction_variance_explained > 0.9
    assert found.random < 0.7


def test_random_rows_are_explained_no_better_than_random_rows() -> None:
    found = meta_structure(random_rows(96, 32, 5), fit, SHORT)
    assert found.decoder_fraction_variance_explained == pytest.approx(found.random, abs=0.05)


def test_it_is_trained_on_directions_and_rows_without_one_are_left_out() -> None:
    seen: list[Tensor] = []

    def remember(dictionary: TrainableSAE, batches: Iterable[Tensor], /, **settings: Any) -> None:
        seen.append(torch.cat(list(batches)))

    rows = random_rows(20, 6, 5)
    meta_structure(rows, remember, MetaConfig(n_steps=2))
    lengths = torch.cat([torch.arange(1.0, 21.0), torch.zeros(1)])
    meta_structure(lengths[:, None] * torch.cat([rows, rows[:1]]), remember, MetaConfig(n_steps=2))
    torch.testing.assert_close(seen[2], seen[0])
    assert torch.equal(seen[3], seen[1])  # the random rows


def test_the_training_of_the_rows_is_saebenchs() -> None:
    asked: list[dict[str, Any]] = []

    def remember(dictionary: TrainableSAE, batches: Iterable[Tensor], /, **settings: Any) -> None:
        sizes = {tuple(batch.shape) for batch in batches}
        asked.append({"k": dictionary.cfg.k, "d_sae": dictionary.d_sae, "sizes": sizes, **settings})

    found = structure(written(random_rows(30, 8, 0)), [torch.randn(9, 8)], fit=remember)
    assert asked[0] == asked[1]
    assert asked[0] == {
        "k": 4,
        "d_sae": 8,
        "sizes": {(1024, 8)},
        "n_tokens": 1500 * 1024,
        "lr": 5e-4,
        "lr_warmup_fraction": 0.0,
        "lr_decay_fraction": 0.0,
        "seed": 0,
    }
    assert found.meta is not None and found.meta.d_sae == 8


# What must not matter ----------------------------------------------------------------------------


def _trained_like(seed: int = 0) -> tuple[Any, Tensor]:
    dictionary = written(random_rows(30, 10, seed))
    dictionary.W_dec.data *= 0.5 + torch.rand(30, 1, generator=generator(seed))
    return dictionary, torch.randn(300, 10, generator=generator(7))


def _approximately(found: Structure) -> object:
    return pytest.approx(_flat(found.to_dict()), rel=1e-4, abs=1e-6)


def _flat(of: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers that there are."""
    flat: dict[str, float] = {}
    for name, value in of.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = value
    return flat


def test_the_order_of_features_and_of_tokens_does_not_matter() -> None:
    dictionary, x = _trained_like()
    found = structure(dictionary, [x])
    order = torch.randperm(30, generator=generator(1))
    moved = reordered(dictionary, order)
    other = structure(moved, x.flip(0).split(11))
    assert _flat(other.to_dict()) == _approximately(found)
    torch.testing.assert_close(
        other.features.shrinkage, found.features.shrinkage[order], equal_nan=True
    )


def test_what_the_encoder_loses_and_the_decoder_gains_moves_nothing_but_norms() -> None:
    """acts times c, decoder rows over c: the same function."""
    dictionary, x = _trained_like()
    found = _flat(structure(dictionary, [x]).to_dict())
    c = 0.5 + torch.rand(30, 1, generator=generator(2))
    assert dictionary.untied_W_enc_rows is not None
    dictionary.untied_W_enc_rows.data *= c
    dictionary.threshold.data *= c[:, 0]
    dictionary.W_dec.data /= c
    other = _flat(structure(dictionary, [x]).to_dict())
    moved = [name for name in found if other[name] != pytest.approx(found[name], rel=1e-4)]
    assert moved and all("_norms." in name for name in moved)


def test_the_numbers_are_json() -> None:
    dictionary, x = _trained_like()
    read = json.loads(json.dumps(structure(dictionary, [x]).to_dict(), allow_nan=False))
    assert read["n_features"] == 30 and read["meta"] is None
    assert read["decoder_neighbours"]["signed"]["quantiles"]["0.5"] > 0.0
    assert read["activity"]["rare"]["1e-05"] == {"of_features": None, "of_firing": None}


# What cannot be used -----------------------------------------------------------------------------


def test_what_cannot_be_used_is_said_in_one_line() -> None:
    dictionary, x = _trained_like()
    with pytest.raises(InputError, match="there are no activations"):
        structure(dictionary, [])
    with pytest.raises(InputError, match=r"shape \[300, 9\]: give \[rows, 10\]"):
        structure(dictionary, [x[:, :9]])
    with pytest.raises(InputError, match="n_steps must be at least 1, got 0"):
        MetaConfig(n_steps=0)
    with pytest.raises(InputError, match="1 decoder rows have a direction"):
        meta_structure(torch.eye(3)[:1], fit)
    dictionary.W_dec.data[0, 0] = math.nan
    with pytest.raises(InputError, match="W_dec has 1 entries that are not finite"):
        structure(dictionary, [x])
    transcoder, _ = _trained_like()
    transcoder.provenance = Provenance(hook_name="a", hook_name_out="b")
    with pytest.raises(InputError, match="transcoder to b"):
        structure(transcoder, [x])
