"""The sanity that any evaluator must pass, on the embedded model and on tensors."""

import math
from collections.abc import Sequence
from itertools import islice

import pytest
import torch
from torch import Tensor

from activation_cache import LanguageModel, SourceConfig
from activation_cache.common.errors import InputError
from activation_cache.common.types import TextBatchLike
from activation_cache.model.small import small_model
from activation_cache.stream.source import ActivationSource
from activation_cache.text.blocks import counted_positions, special_ids
from sae.architectures import ReLUConfig
from sae.evaluation import METRICS, evaluate, evaluate_reconstruction
from sae.evaluation import splice as splice_module
from sae.evaluation.metric import Accumulator
from sae.evaluation.seen import Seen
from sae.evaluation.splice import Splice
from sae.interop.pretrained import PretrainedConfig, PretrainedSAE
from sae.provenance import Provenance
from sae.runs.evaluation import held_out_text

SITE = "blocks.2.hook_resid_pre"
Batches = Sequence[TextBatchLike]


class Identity:
    """One feature per component, signed."""

    provenance = Provenance()

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.decode(x), x

    def decode(self, x: Tensor) -> Tensor:
        return x


class Constant(Identity):
    """Whatever goes in, the same vector comes out."""

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.vector.to(torch.float32).expand(len(x), -1), torch.zeros(len(x), 1)


@pytest.fixture(scope="module")
def text(tiny: LanguageModel) -> Batches:
    source = ActivationSource(tiny, SourceConfig(hook_names=(SITE,), forward_tokens=4 * 128))
    batches = islice(source.token_blocks("held_out", repeat=False), 2)
    return [(tokens, source.counted(tokens)) for tokens in batches]


def _rows(model: LanguageModel, text: Batches) -> Tensor:
    return torch.cat([model.activations(t, [SITE])[SITE][counted] for t, counted in text])


def test_the_identity_costs_the_model_nothing(tiny: LanguageModel, text: Batches) -> None:
    report = evaluate(Identity(), tiny, text, SITE)
    assert report.fvu == 0.0
    assert report.delta_ce == 0.0
    assert report.kl == 0.0
    assert report.ce_recovered == 1.0
    assert report.cosine == pytest.approx(1.0) and report.l2_ratio == pytest.approx(1.0)


def test_a_dictionary_that_returns_zero_recovers_nothing(
    tiny: LanguageModel, text: Batches
) -> None:
    report = evaluate(Constant(torch.zeros(192)), tiny, text, SITE)
    assert report.ce_spliced == report.ce_zero
    assert report.ce_recovered == 0.0
    assert report.l0 == 0.0 and report.dead == 1
    assert report.ce_zero > report.ce_clean + 1.0


def test_a_dictionary_that_returns_the_mean_explains_nothing(
    tiny: LanguageModel, text: Batches
) -> None:
    mean = _rows(tiny, text).to(torch.float64).mean(dim=0)
    report = evaluate(Constant(mean), tiny, text, SITE)
    assert report.fvu == pytest.approx(1.0, abs=1e-6)
    assert report.explained_variance == pytest.approx(0.0, abs=1e-6)
    assert report.explained_variance_legacy == pytest.approx(0.0, abs=1e-6)
    assert report.ce_spliced == pytest.approx(report.ce_mean, abs=1e-6)
    assert report.ce_recovered_mean == pytest.approx(0.0, abs=1e-5)


def test_the_result_does_not_depend_on_how_the_text_is_batched(
    tiny: LanguageModel, text: Batches
) -> None:
    dictionary = ReLUConfig(d_sae=64).build(192, seed=0)
    tokens, counted = (torch.cat(parts) for parts in zip(*text, strict=True))
    one_by_one = list(zip(tokens.split(3), counted.split(3), strict=True))
    whole = evaluate(dictionary, tiny, [(tokens, counted)], SITE)
    parts = evaluate(dictionary, tiny, one_by_one, SITE)
    assert whole.metrics().keys() == parts.metrics().keys()
    for name, value in whole.metrics().items():
        assert parts.metrics()[name] == pytest.approx(value, rel=1e-4), name


def test_what_is_counted_twice_does_not_change_a_mean(tiny: LanguageModel, text: Batches) -> None:
    dictionary = ReLUConfig(d_sae=64).build(192, seed=0)
    once, twice = (evaluate(dictionary, tiny, text[:1] * n, SITE) for n in (1, 2))
    assert twice.n_tokens == 2 * once.n_tokens
    assert twice.mse == pytest.approx(once.mse) and twice.fvu == pytest.approx(once.fvu)


def test_a_ratio_is_taken_once_and_never_averaged_over_batches() -> None:
    """64 outliers in 4,096 tokens: a mean of ratios per batch would be three times the truth."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, 16, generator=generator)
    x[:64] *= 100
    error = 0.1 * torch.randn(4096, 16, generator=generator)

    class Noisy(Identity):
        def decode(self, acts: Tensor) -> Tensor:
            rows = (x[:, None, :2] == acts[None, :, :2]).all(dim=2).nonzero()
            return acts + error[rows[rows[:, 1].argsort(), 0]]

    truth = (error.square().sum() / (x - x.mean(dim=0)).square().sum()).item()
    for batch in (32, 256, 1024):
        report = evaluate_reconstruction(Noisy(), list(x.split(batch)))
        assert report.fvu == pytest.approx(truth, rel=1e-4)
    per_batch = torch.stack(
        [
            e.square().sum() / (b - b.mean(dim=0)).square().sum()
            for b, e in zip(x.split(32), error.split(32), strict=True)
        ]
    )
    assert per_batch.mean().item() > 3 * truth


def test_each_metric_by_hand() -> None:
    """x = (3, 4) and (1, 0), reconstructed as (3, 0) and (1, 1); the mean of x is (2, 2)."""

    class Fixed(Identity):
        def decode(self, x: Tensor) -> Tensor:
            return torch.tensor([[3.0, 0.0], [1.0, 1.0]])

    report = evaluate_reconstruction(Fixed(), [torch.tensor([[3.0, 4.0], [1.0, 0.0]])])
    assert report.mse == (16 + 1) / 2
    assert report.fvu == (16 + 1) / (1 + 4 + 1 + 4)
    assert report.explained_variance_legacy == pytest.approx(((1 - 16 / 5) + (1 - 1 / 5)) / 2)
    assert report.cosine == pytest.approx((3 / 5 + 1 / math.sqrt(2)) / 2)
    assert report.l2_ratio == pytest.approx((3 / 5 + math.sqrt(2)) / 2)
    assert report.relative_reconstruction_bias == pytest.approx((9 + 2) / (9 + 1))
    assert report.l0 == 1.5 and report.l1 == (7 + 1) / 2
    assert report.density.tolist() == [1.0, 0.5]


def test_parts_of_an_evaluation_that_are_merged_are_the_whole() -> None:
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    dictionary = ReLUConfig(d_sae=16).build(8, seed=0)
    mean = x.mean(dim=0).double()

    def of(rows: Tensor) -> Accumulator:
        totals = Accumulator(METRICS.values())
        with torch.no_grad():
            totals.update(Seen(rows, *dictionary.reconstruct(rows), mean))
        return totals

    merged = of(x[:7])
    merged.merge(of(x[7:]))
    assert merged.results() == pytest.approx(of(x).results())


def test_an_evaluation_has_the_metrics_that_there_are_and_no_other() -> None:
    report = evaluate_reconstruction(Identity(), [torch.randn(8, 4)])
    assert math.isnan(report.delta_ce)  # it needs a model
    with pytest.raises(AttributeError, match="an evaluation has no magic"):
        _ = report.magic


def test_only_the_counted_positions_are_replaced_and_predicted_from(
    tiny: LanguageModel, text: Batches
) -> None:
    tokens, counted = text[0]
    splice = Splice(tiny, [SITE], tokens, counted)
    rows = splice.rows(SITE)
    assert torch.equal(rows, _rows(tiny, [(tokens, counted)]))
    log_probs = splice.log_probs(splice.last_layer(SITE, -rows))
    assert len(log_probs) == int(counted[:, :-1].sum())
    by_hand = tiny.logits(tokens, {SITE: lambda x: torch.where(counted[..., None], -x, x)})
    expected = by_hand[:, :-1][counted[:, :-1]].log_softmax(dim=-1)
    torch.testing.assert_close(log_probs, expected)


def test_the_clean_cross_entropy_is_the_models_own(tiny: LanguageModel, text: Batches) -> None:
    tokens, counted = text[0]
    with torch.no_grad():
        log_probs = tiny.logits(tokens).log_softmax(dim=-1)
    total, n = 0.0, 0
    for block, position in counted[:, :-1].nonzero().tolist():
        total -= log_probs[block, position, tokens[block, position + 1]].item()
        n += 1
    report = evaluate(Identity(), tiny, [text[0]], SITE)
    assert report.ce_clean == pytest.approx(total / n, rel=1e-5)


def test_every_number_says_how_it_is_defined(tiny: LanguageModel, text: Batches) -> None:
    report = evaluate(Identity(), tiny, text[:1], SITE)
    assert report.conventions.keys() == report.metrics().keys() == METRICS.keys()


def test_without_a_model_there_are_no_cross_entropies() -> None:
    report = evaluate_reconstruction(Identity(), [torch.randn(8, 4)])
    assert not {name for name in report.metrics() if name.startswith("ce_")}


def test_text_in_which_nothing_counts_is_refused(tiny: LanguageModel) -> None:
    separators = torch.zeros(2, 8, dtype=torch.int64)
    nothing = counted_positions(separators, special_ids(tiny.tokenizer))
    with pytest.raises(InputError, match="no token counts"):
        evaluate(Identity(), tiny, [(separators, nothing)], SITE)


@pytest.mark.parametrize(
    ("asked", "contexts"), [(1, [1]), (32, [1]), (33, [2]), (4096, [128]), (4097, [128, 1])]
)
def test_held_out_text_is_as_long_as_asked_for_in_whole_contexts(
    asked: int, contexts: list[int], tiny: LanguageModel
) -> None:
    of = Provenance(hook_name=SITE, dataset_path="docstrings", context_size=32, eval_tokens=asked)
    batches = held_out_text(tiny, of).batches
    assert [batch.tokens.shape for batch in batches] == [(n, 32) for n in contexts]
    assert all(len({of.shape for of in batch}) == 1 for batch in batches)


def test_a_large_vocabulary_is_gone_through_in_parts_to_the_same_digits(
    tiny: LanguageModel, text: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    dictionary = ReLUConfig(d_sae=64, l1_coeff=1.0).build(192)
    whole = evaluate(dictionary, tiny, text[:1], SITE)
    monkeypatch.setattr(splice_module, "CHUNK_NUMBERS", 7 * 4096)  # seven predictions at a time
    in_parts = evaluate(dictionary, tiny, text[:1], SITE)
    assert in_parts.metrics() == pytest.approx(whole.metrics(), rel=1e-6)


@pytest.mark.parametrize("architecture", ["gemma2", "granite", "cohere", "opt", "bloom", "mamba"])
def test_logits_are_unembedded_rows_whatever_follows_the_product(
    tiny: LanguageModel, tokens: Tensor, architecture: str
) -> None:
    """Gemma 2 caps its logits, Granite and Cohere scale them."""
    model = small_model(architecture, tiny.tokenizer)
    assert model._unembedding.is_known
    rows = model.before_unembedding(tokens).flatten(0, 1)
    expected = model.logits(tokens).flatten(0, 1)
    torch.testing.assert_close(model.unembed(rows), expected, rtol=1e-5, atol=1e-5)


def test_l1_counts_features_by_the_norms_that_the_decoder_has() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    weights = {"W_enc": torch.eye(2), "W_dec": torch.diag(torch.tensor([2.0, 5.0]))}
    weights |= {"b_enc": torch.zeros(2), "b_dec": torch.zeros(2)}
    dictionary = PretrainedSAE(PretrainedConfig(d_sae=2, activation="relu"), weights)
    report = evaluate_reconstruction(dictionary, [x])
    assert report.l1 == pytest.approx((1 * 2 + 2 * 5 + 3 * 2) / 2)
