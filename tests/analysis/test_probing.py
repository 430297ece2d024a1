"""Probes on planted truth, and features pooled over the tokens of texts."""

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from activation_cache import LanguageModel
from activation_cache.common.errors import InputError
from activation_cache.text.probing.sets import ProbeSet
from sae.analysis.probing.compare import compare, majority
from sae.analysis.probing.folds import document_folds, refuse_leaks
from sae.analysis.probing.probes import cross_validated, probe, top_features
from sae.analysis.probing.scores import auc_of, difference
from sae.architectures import ReLUConfig, TopKConfig
from sae.base import SAE
from sae.provenance import Provenance
from sae.runs.probing import pooled_features

SITE = "blocks.2.hook_resid_pre"
N, D = 300, 60
DOCUMENTS = [f"document {row // 3}" for row in range(N)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def y(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(2, size=N)


@pytest.fixture
def noise(rng: np.random.Generator) -> np.ndarray:
    """Sparse features that know nothing of the label."""
    return rng.random((N, D)) * (rng.random((N, D)) < 0.2)


def refusal(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# Probes ------------------------------------------------------------------------------------------


def test_the_one_feature_that_carries_the_label_is_found(y: np.ndarray, noise: np.ndarray) -> None:
    noise[:, 17] = y * 2.0
    found = cross_validated(noise, y, DOCUMENTS, 1)
    assert [fold.features for fold in found.folds] == [(17,)] * 5
    assert found.accuracy.mean == found.auc.mean == 1.0
    assert (found.auc.low, found.auc.high) == (1.0, 1.0)


def test_a_label_spread_over_five_features_needs_five(
    rng: np.random.Generator, noise: np.ndarray
) -> None:
    votes = rng.random((N, 5)) < 0.5
    y = (votes.sum(axis=1) > 2).astype(np.int64)
    planted = [3, 14, 15, 35, 59]
    noise[:, planted] = votes * 2.0
    one, five = (cross_validated(noise, y, DOCUMENTS, k) for k in (1, 5))
    assert one.accuracy.mean == pytest.approx(11 / 16, abs=0.08)  # what one vote of five tells
    assert five.accuracy.mean == 1.0
    assert all(sorted(fold.features) == planted for fold in five.folds)
    assert difference(five, one)[0].low > 0.1


def test_a_random_twin_does_not_beat(y: np.ndarray, noise: np.ndarray) -> None:
    ours = noise.copy()
    ours[:, 17] = y * 2.0
    probes = [cross_validated(of, y, DOCUMENTS, 5, n_folds=3) for of in (ours, noise)]
    accuracy, auc = difference(*probes)
    assert accuracy.low > 0.3 and auc.low > 0.3
    assert auc.mean == pytest.approx(probes[0].auc.mean - probes[1].auc.mean)


def test_shuffled_labels_give_one_half_within_the_interval(
    rng: np.random.Generator, noise: np.ndarray
) -> None:
    y = np.arange(N) % 2  # as many of both
    noise[:, 17] = y * 2.0
    found = cross_validated(noise, rng.permutation(y), DOCUMENTS, 5)
    assert found.auc.low < 0.5 < found.auc.high
    assert found.accuracy.low < 0.5 < found.accuracy.high


def test_intervals_are_wider_where_texts_of_a_document_say_the_same(
    rng: np.random.Generator,
) -> None:
    y = np.repeat(rng.integers(2, size=50), 6)
    score = np.repeat(rng.normal(size=50), 6) + 2 * y
    whole = [f"document {row // 6}" for row in range(N)]
    single = [f"text {row}" for row in range(N)]
    by_document, by_text = (
        cross_validated(score[:, None], y, documents, 1, n_folds=3).auc
        for documents in (whole, single)
    )
    assert by_document.high - by_document.low > 1.5 * (by_text.high - by_text.low)


def test_sparse_features_give_what_dense_ones_give(y: np.ndarray, noise: np.ndarray) -> None:
    noise[:, 4] += 0.3 * y
    csr = sparse.csr_array(noise)
    dense, same = (cross_validated(of, y, DOCUMENTS, 16, n_folds=3) for of in (noise, csr))
    assert [fold.features for fold in dense.folds] == [fold.features for fold in same.folds]
    np.testing.assert_array_equal(dense.draws, same.draws)
    every = cross_validated(
        csr[:, :9], y, DOCUMENTS, None, n_folds=3
    )  # scaled, not centred: it stays sparse
    assert every.folds[0].features == ()


def test_features_are_chosen_by_the_difference_of_their_class_means() -> None:
    features = np.array([[0.0, 5.0, 1.0, 0.0], [0.0, 5.0, 3.0, 0.0], [3.0, 4.0, 2.0, 1.0]])
    assert top_features(features, np.array([0, 0, 1]), 3).tolist() == [0, 1, 3]
    assert top_features(features * 1000, np.array([1, 1, 0]), 3).tolist() == [0, 1, 3]


def test_a_small_feature_counts_as_much_as_a_large_one(y: np.ndarray, noise: np.ndarray) -> None:
    noise[:, 17] = y * 2.0
    small = cross_validated(noise * 1e-6, y, DOCUMENTS, 5, n_folds=3)
    assert small.accuracy.mean == 1.0


def test_auc_is_that_of_scikit_learn_and_a_weight_is_a_repeated_text(
    rng: np.random.Generator,
) -> None:
    y, log_odds = rng.integers(2, size=40), rng.integers(8, size=40) / 4  # with ties
    weights = rng.integers(4, size=40)
    repeated = [np.repeat(of, weights) for of in (y, log_odds)]
    found = auc_of(log_odds, y, np.stack([np.ones(40), weights, weights * y]))
    assert found[0] == pytest.approx(roc_auc_score(y, log_odds))
    assert found[1] == pytest.approx(roc_auc_score(*repeated))
    assert np.isnan(found[2])  # one class only


def test_a_probe_says_what_it_does_on_documents_it_has_not_seen(
    y: np.ndarray, noise: np.ndarray
) -> None:
    noise[:, 17] = y * 2.0
    noise[240:, 17] = 2.0 - noise[240:, 17]  # the other way round in the later documents
    train, test = slice(0, 240), slice(240, None)
    sides = [(noise[of], y[of], DOCUMENTS[of]) for of in (train, test)]
    found = probe(*sides[0], *sides[1], 1)
    assert found.features == (17,)
    assert found.accuracy == found.auc == 0.0


def test_a_comparison_has_every_dictionary_and_every_baseline(
    rng: np.random.Generator, y: np.ndarray, noise: np.ndarray
) -> None:
    raw = rng.normal(size=(N, 8))
    raw[:, 2] += 6.0 * y
    ours = noise.copy()
    ours[:, 17] = raw[:, 2].clip(0)
    dictionaries = {"ours": ours, "random": sparse.csr_array(noise)}
    table = compare(dictionaries, raw, y, DOCUMENTS, ks=(1, 16), n_folds=2)
    auc = {(of.name, of.k): of.result.auc.mean for of in table}
    assert [*auc] == [
        *(("ours", 1), ("ours", 16), ("random", 1), ("random", 16)),
        *(("raw", None), ("pca", 1), ("majority", None)),  # there are no 16 components of 8
    ]
    assert auc["ours", 1] > 0.99 and auc["raw", None] > 0.99
    assert auc["random", 1] < 0.65 and auc["majority", None] == 0.5


def test_components_are_of_the_training_side_alone(y: np.ndarray, noise: np.ndarray) -> None:
    train, test = slice(0, 240), slice(240, None)
    sides = [(noise[of], y[of], DOCUMENTS[of]) for of in (train, test)]
    found = probe(*sides[0], *sides[1], 3, transform=PCA())
    pca = PCA().fit(noise[train])
    by_hand = probe(
        *(pca.transform(noise[train]), y[train], DOCUMENTS[train]),
        *(pca.transform(noise[test]), y[test], DOCUMENTS[test]),
        3,
    )
    assert found.features == by_hand.features
    np.testing.assert_allclose(found.log_odds, by_hand.log_odds)


def test_the_majority_is_that_of_the_training_side() -> None:
    y = np.array([1, 1, 1, 0] * 25)
    found = majority(y, [f"document {row // 4}" for row in range(100)])
    assert found.accuracy.mean == pytest.approx(0.75) and found.auc.mean == 0.5


# Folds and leaks ---------------------------------------------------------------------------------


def test_folds_share_no_document_and_hold_every_text_out_once(y: np.ndarray) -> None:
    folds = document_folds(y, DOCUMENTS, 5)
    for train, test in folds:
        refuse_leaks([DOCUMENTS[row] for row in train], [DOCUMENTS[row] for row in test])
    assert sorted(np.concatenate([test for _, test in folds]).tolist()) == list(range(N))


def test_a_document_on_both_sides_is_refused(y: np.ndarray, noise: np.ndarray) -> None:
    with pytest.raises(InputError) as error:
        probe(noise[:151], y[:151], DOCUMENTS[:151], noise[151:], y[151:], DOCUMENTS[151:], 1)
    assert refusal(error) == (
        "the probe set leaks: 1 on both sides of the split, as the document 'document 50': keep "
        "each document on one side"
    )


def test_one_class_only_is_refused(noise: np.ndarray) -> None:
    with pytest.raises(InputError, match="one class only: every label is") as error:
        cross_validated(noise, np.ones(N, np.int64), DOCUMENTS, 1)
    refusal(error)


def test_too_few_documents_are_refused(y: np.ndarray, noise: np.ndarray) -> None:
    few = [f"document {row // 100}" for row in range(N)]
    with pytest.raises(InputError) as error:
        cross_validated(noise, y, few, 1)
    assert refusal(error) == (
        "too few documents: class 0 has texts of 3, and 5 folds need as many at least: give texts "
        "of more documents, or fewer folds"
    )


def test_a_fold_without_one_of_the_classes_is_refused() -> None:
    with pytest.raises(InputError) as error:
        document_folds(np.array([1, 0, 1, 0, 1]), ["d", "c", "a", "d", "a"], 2)
    assert refusal(error) == (
        "too few documents: of 2 folds of 3 documents one has a side with one class only: give "
        "texts of more documents, or fewer folds"
    )


@pytest.mark.parametrize("k", [0, D + 1])
def test_a_k_that_is_none_is_refused(y: np.ndarray, noise: np.ndarray, k: int) -> None:
    with pytest.raises(InputError, match=f"k must be from 1 to the 60 features, got {k}"):
        cross_validated(noise, y, DOCUMENTS, k)


def test_other_labels_and_values_that_are_not_finite_are_refused(
    y: np.ndarray, noise: np.ndarray
) -> None:
    with pytest.raises(InputError, match=r"labels must be 0 or 1, got \[0, 2\]"):
        cross_validated(noise, y * 2, DOCUMENTS, 1)
    noise[3, 3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        cross_validated(noise, y, DOCUMENTS, 1)


# Features of texts -------------------------------------------------------------------------------


TEXTS = ["One two three.", "A much longer text, of which the end is padded nowhere.", "Yes"]


@pytest.fixture(scope="module")
def dictionaries() -> dict[str, SAE]:
    relu = ReLUConfig(d_sae=50).build(192, seed=0)
    return {"topk": TopKConfig(d_sae=40, k=4).build(192, seed=1), "relu": relu}


def acts_alone(tiny: LanguageModel, text: str) -> torch.Tensor:
    """The activations of the tokens of one text, without padding and without position 0."""
    tokenizer = tiny.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([[tokenizer.bos_token_id, *ids]])  # type: ignore[list-item]
    return tiny.activations(tokens, [SITE])[SITE][0, 1:]


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_features_are_pooled_over_the_real_tokens_of_a_text(
    tiny: LanguageModel, dictionaries: dict[str, SAE], pool: str
) -> None:
    found = pooled_features(tiny, dictionaries, TEXTS, SITE, 2, pool=pool)  # type: ignore[arg-type]
    for row, text in enumerate(TEXTS):
        x = acts_alone(tiny, text)
        np.testing.assert_allclose(found.raw[row], x.double().mean(dim=0), rtol=1e-4, atol=1e-5)
        for name, sae in dictionaries.items():
            acts = sae.encode(x).detach().double()
            expected = acts.mean(dim=0) if pool == "mean" else acts.amax(dim=0)
            pooled = found.features[name]
            assert isinstance(pooled, sparse.csr_array) and pooled.dtype == np.float32
            np.testing.assert_allclose(pooled[[row]].toarray()[0], expected, rtol=1e-4, atol=1e-5)


def test_neither_the_batch_nor_the_chunk_changes_the_features(
    tiny: LanguageModel, dictionaries: dict[str, SAE], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pooled_features(tiny, dictionaries, TEXTS, SITE)
    monkeypatch.setattr("sae.runs.probing.CHUNK_NUMBERS", 100)  # two tokens
    single = pooled_features(tiny, dictionaries, TEXTS, SITE, 1)
    for name in dictionaries:
        both = (of.features[name].toarray() for of in (whole, single))
        np.testing.assert_allclose(*both, atol=1e-4)  # of values up to 26, in float32
    np.testing.assert_allclose(whole.raw, single.raw, atol=1e-4)


def test_the_end_of_a_long_text_is_cut_off(tiny: LanguageModel) -> None:
    long, cut = (
        pooled_features(tiny, {}, [text], SITE, max_tokens=5).raw
        for text in ("One two three four five six seven", "One two three four five six")
    )
    np.testing.assert_array_equal(long, cut)


def test_a_text_without_a_token_is_refused(tiny: LanguageModel) -> None:
    with pytest.raises(InputError, match="the text '' has no token that counts") as error:
        pooled_features(tiny, {}, ["Yes", ""], SITE)
    refusal(error)


def test_a_dictionary_of_another_site_or_width_is_refused(tiny: LanguageModel) -> None:
    narrow = TopKConfig(d_sae=8, k=2).build(16)
    with pytest.raises(InputError, match="the dictionary a takes activations of width 16"):
        pooled_features(tiny, {"a": narrow}, TEXTS, SITE)
    other = TopKConfig(d_sae=8, k=2).build(192)
    other.provenance = Provenance(hook_name="blocks.1.hook_resid_pre")
    with pytest.raises(InputError, match=r"the dictionary a is for blocks\.1\.hook_resid_pre, not"):
        pooled_features(tiny, {"a": other}, TEXTS, SITE)


def test_labels_of_installed_text_are_read_from_the_embedded_model(
    tiny: LanguageModel, built: dict[str, ProbeSet]
) -> None:
    of = built["code_or_prose"]
    sae = TopKConfig(d_sae=256, k=16).build(192)
    pooled = pooled_features(tiny, {"random": sae}, of.texts, SITE)
    y = np.array(of.labels)
    table = compare(pooled.features, pooled.raw, y, of.documents, ks=(5,), n_folds=3)
    auc = {row.name: row.result.auc.mean for row in table}
    assert auc["raw"] > 0.9  # code looks like nothing else
    assert auc["majority"] == 0.5
