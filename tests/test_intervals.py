"""Error bars over documents, and numbers by position and by rarity of the token."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from activation_cache import LanguageModel, SourceConfig, text_batches
from activation_cache.common.types import TextBatch
from sae.architectures import ReLUConfig
from sae.evaluation import METRICS, evaluate, evaluate_sites
from sae.evaluation.groups import (
    DOCUMENT,
    document_numbers,
    frequency_groups,
    position_groups,
    position_range,
)
from sae.evaluation.intervals import FEWEST_DOCUMENTS, intervals
from sae.evaluation.metric import Accumulator
from sae.evaluation.seen import Predictions, Seen

SITE, EARLIER = "blocks.2.hook_resid_pre", "blocks.1.hook_mlp_out"


def corpus(generator: np.random.Generator, n_documents: int) -> Seen:
    """Documents of uneven length, each with a scale and an error of its own, an offset in x, and
    one token of each document far out, as the first position of a text is."""
    lengths = generator.integers(5, 60, n_documents)
    documents = np.repeat(np.arange(n_documents), lengths)
    scale = generator.lognormal(0, 0.3, n_documents)[documents, None]
    x = 3.0 + scale * generator.normal(size=(len(documents), 4))
    x[np.unique(documents, return_index=True)[1], 0] += 30
    error = 0.4 * generator.lognormal(0, 0.3, n_documents)[documents, None]
    x_hat = x - error * generator.normal(size=x.shape)
    clean = 3 + 0.5 * generator.normal(size=n_documents)[documents] + generator.normal(size=len(x))
    spliced = clean + 0.2 * generator.exponential(size=len(x))
    tensors = [torch.from_numpy(of) for of in (x, x_hat, clean, spliced, clean + 2)]
    losses = [of[:, None] for of in tensors[2:]]
    predictions = Predictions(losses[0], losses[1], losses[2], losses[2], (losses[1] / 10)[:, 0])
    groups = {DOCUMENT: torch.from_numpy(documents)}
    acts = (tensors[0] > 3).double()
    return Seen(*tensors[:2], acts, tensors[0].mean(dim=0), predictions, None, groups)


def measured(seen: Seen) -> Accumulator:
    totals = Accumulator(METRICS.values())
    totals.update(seen)
    return totals


def test_intervals_hold_the_truth_for_nineteen_of_twenty_corpora() -> None:
    """Between 90 and 99 % of 200 corpora of 60 documents; the truth is that of 40,000 documents."""
    truth = measured(corpus(np.random.default_rng(1), 40_000)).results()
    names = ("fvu", "mse", "cosine", "l2_ratio", "l0", "ce_clean", "delta_ce", "kl", "ce_recovered")
    held = dict.fromkeys(names, 0)
    for seed in range(200):
        n_documents, found = intervals(measured(corpus(np.random.default_rng(100 + seed), 60)))
        assert n_documents == 60
        for name in names:
            low, high = found[name]
            held[name] += low <= truth[name] <= high
    assert all(180 <= n <= 198 for n in held.values()), held


def test_an_interval_is_of_documents_and_not_of_tokens() -> None:
    """Documents of 100 equal tokens: a bootstrap of tokens would be a tenth as wide."""
    values = 1 + 0.3 * torch.randn(
        50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    x_hat = values.repeat_interleave(100)[:, None]
    groups = {DOCUMENT: torch.arange(50).repeat_interleave(100)}
    zeros = torch.zeros_like(x_hat)
    seen = Seen(zeros, x_hat, zeros, torch.zeros(1, dtype=torch.float64), None, None, groups)
    totals = measured(seen)
    low, high = intervals(totals)[1]["mse"]
    spread = values.square().std() / math.sqrt(50)  # of the mean of 50 documents
    assert high - low == pytest.approx(2 * 1.96 * spread.item(), rel=0.15)


def test_few_documents_have_no_interval_and_counts_have_none() -> None:
    seen = corpus(np.random.default_rng(0), FEWEST_DOCUMENTS)
    found = intervals(measured(seen))[1]
    assert not {"n_tokens", "dead", "dead_fraction", "d_sae"} & found.keys()
    few = corpus(np.random.default_rng(0), FEWEST_DOCUMENTS - 1)
    assert intervals(measured(few)) == (FEWEST_DOCUMENTS - 1, {})


def test_positions_are_grouped_by_powers_of_two() -> None:
    groups = position_groups(torch.arange(10)).tolist()
    assert groups == [0, 1, 2, 2, 3, 3, 3, 3, 4, 4]
    assert [position_range(g) for g in range(5)] == [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15)]


def test_tokens_are_grouped_by_how_often_they_occur() -> None:
    """Of 16 tokens, id 1 is one half, ids 0 and 3 a quarter together, id 2 the rest."""
    assert frequency_groups(torch.tensor([2, 8, 4, 2, 0])).tolist() == [0, 2, 1, 0, 0]


def test_blocks_are_documents_where_these_are_not_known() -> None:
    counted = torch.ones(2, 3, dtype=torch.bool)
    assert document_numbers(None, counted, 5).tolist() == [[5] * 3, [6] * 3]


@pytest.fixture(scope="module")
def text(tiny: LanguageModel) -> list[TextBatch]:
    """Twelve documents, of one block each or a little more."""
    batches = text_batches(tiny, SourceConfig(forward_tokens=8 * 128), 16 * 128, split="held_out")
    documents = (torch.arange(16 * 128) // 171).view(2, 8, 128)
    return [TextBatch(t, c, d) for (t, c, _), d in zip(batches, documents, strict=True)]


def test_a_report_has_intervals_around_its_numbers_and_rows_that_add_up_to_them(
    tiny: LanguageModel, text: list[TextBatch]
) -> None:
    report = evaluate(ReLUConfig(d_sae=64).build(192, seed=0), tiny, text, SITE)
    documents = torch.cat([batch.documents[batch.counted] for batch in text])
    assert report.n_documents == len(documents.unique()) >= FEWEST_DOCUMENTS
    for name in ("fvu", "cosine", "l0", "ce_clean", "delta_ce", "kl", "ce_recovered_mean"):
        low, high = report.intervals[name]
        assert low < getattr(report, name) < high, name
    for rows in report.breakdown.values():
        assert sum(row["n_tokens"] for row in rows) == report.n_tokens
        l0 = sum(row["l0"] * row["n_tokens"] for row in rows) / report.n_tokens
        assert l0 == pytest.approx(report.l0)
    positions = [(row["first"], row["last"]) for row in report.breakdown["position"]]
    assert positions == [(1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63), (64, 127)]
    shares = [row["n_tokens"] / report.n_tokens for row in report.breakdown["frequency"]]
    assert len(shares) == 4 and all(0.15 < share < 0.35 for share in shares)


def test_the_rows_of_a_position_are_those_of_its_tokens_alone(
    tiny: LanguageModel, text: list[TextBatch]
) -> None:
    dictionary = ReLUConfig(d_sae=64).build(192, seed=0)
    (row, *_) = evaluate(dictionary, tiny, text, SITE).breakdown["position"]
    batches = [(tokens, counted & (torch.arange(128) == 1)) for tokens, counted, _ in text]
    found = [tiny.activations(t, [SITE])[SITE][c] for t, c in batches]
    x = torch.cat(found).double()
    with torch.no_grad():
        x_hat = dictionary.reconstruct(x.float())[0].double()
    everything = torch.cat([tiny.activations(t, [SITE])[SITE][c] for t, c, _ in text]).double()
    fvu = (x - x_hat).square().sum() / (x - everything.mean(dim=0)).square().sum()
    assert row["fvu"] == pytest.approx(fvu.item()) and row["n_tokens"] == len(x)


def test_sites_that_are_evaluated_together_have_the_numbers_of_each_alone(
    tiny: LanguageModel, text: list[TextBatch]
) -> None:
    saes = {
        site: [ReLUConfig(d_sae=64).build(192, seed=i)] for i, site in enumerate((SITE, EARLIER))
    }
    together = evaluate_sites(saes, tiny, text)
    for site, (sae,) in saes.items():
        alone = evaluate(sae, tiny, text, site)
        assert together[site][0].metrics() == alone.metrics()
        assert together[site][0].intervals == alone.intervals


def test_the_text_is_read_once_for_the_mean_and_once_for_all_dictionaries_of_all_sites(
    tiny: LanguageModel, text: list[TextBatch]
) -> None:
    first: list[Tensor] = []
    seen = tiny.blocks[0].mlp.register_forward_hook(lambda _m, _a, y: first.append(y))
    saes = [ReLUConfig(d_sae=64).build(192, seed=i) for i in range(3)]
    evaluate_sites({SITE: saes, EARLIER: saes[:1]}, tiny, text)  # finds out where passes can begin
    first.clear()
    evaluate_sites({SITE: saes, EARLIER: saes[:1]}, tiny, text)
    seen.remove()
    assert len(first) == 2 * len(text)
