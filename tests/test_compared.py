"""Each project's number is what the formula that the project publishes gives, here written out
slowly, in float64, batch by batch."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import called
from torch import Tensor

from activation_cache import LanguageModel
from activation_cache.common.types import TextBatch
from sae.codes import Codes
from sae.commands import evaluate as evaluate_script
from sae.commands import train as train_script
from sae.evaluation import evaluate_reconstruction, evaluate_sites
from sae.evaluation.compared import COMPARED
from sae.evaluation.metrics import METRICS
from sae.provenance import Provenance

SITE = "blocks.2.hook_resid_pre"
D_IN, OFFSET = 6, 0.7
SIZES = (5, 40, 17)
"""Tokens of the batches: a mean over batches is not one over tokens."""

Pair = tuple[np.ndarray, np.ndarray, np.ndarray]
"""x, x_hat and features of a batch, in float64."""


class Biased:
    """Shrinks, and adds the same to every component. Its features are signed."""

    provenance = Provenance()

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor | Codes]:
        return 0.8 * x + OFFSET, x.where(x.abs() > 0.5, torch.zeros_like(x))


class BiasedInCodes(Biased):
    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor | Codes]:
        x_hat, acts = super().reconstruct(x)
        assert isinstance(acts, Tensor)
        return x_hat, Codes.from_dense(acts)


def rows() -> Tensor:
    """Around another mean than 0, the first of them far longer than the rest."""
    x = torch.randn(sum(SIZES), D_IN, generator=torch.Generator().manual_seed(0)) + 0.4
    x[0] *= 300
    return x


def pairs() -> Iterator[Pair]:
    for x in rows().split(SIZES):
        x_hat, acts = Biased().reconstruct(x)
        assert isinstance(acts, Tensor)
        yield x.double().numpy(), x_hat.double().numpy(), acts.double().numpy()


# The formulas, as they stand in each project's file ----------------------------------------------


def sae_lens_explained_variance() -> float:
    n, squares, inputs, error = 0, 0.0, np.zeros(D_IN), 0.0
    for x, x_hat, _ in pairs():
        n += len(x)
        squares += (x**2).sum()
        inputs += x.sum(axis=0)
        error += ((x - x_hat) ** 2).sum()
    return 1 - (error / n) / (squares / n - ((inputs / n) ** 2).sum())


def explained_variance_legacy() -> float:
    each: list[float] = []
    for x, x_hat, _ in pairs():
        total = ((x - x.mean(axis=0)) ** 2).sum(axis=-1)
        each += [*(1 - ((x - x_hat) ** 2).sum(axis=-1) / total)]
    return float(np.mean(each))


def mistaken_explained_variance() -> float:
    squares, per_dimension, residual = [], [], []
    for x, x_hat, _ in pairs():
        squares.append((x**2).sum(axis=-1).mean(axis=0))
        per_dimension.append((x**2).mean(axis=0))  # the square is taken too early
        residual.append(((x - x_hat) ** 2).sum(axis=-1).mean(axis=0))
    total = np.mean(squares) - np.concatenate(per_dimension).mean(axis=0) ** 2
    return float(1 - np.mean(residual) / total)


def mse() -> float:
    return float(
        np.concatenate([((x - x_hat) ** 2).sum(axis=-1) for x, x_hat, _ in pairs()]).mean()
    )


def mse_divided_twice() -> float:
    each = [((x - x_hat) ** 2).sum(axis=-1) / len(x) for x, x_hat, _ in pairs()]
    return float(np.concatenate(each).mean())


def over_batches(of: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> float:
    return float(np.mean([of(*pair) for pair in pairs()]))


def over_tokens(of: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> float:
    return float(np.concatenate([of(*pair) for pair in pairs()]).mean())


BIAS = over_batches(
    lambda x, x_hat, _: (
        (np.linalg.norm(x_hat, axis=-1) ** 2).mean() / (x * x_hat).sum(axis=-1).mean()
    )
)
NOT_0 = over_tokens(lambda x, x_hat, f: (f != 0).sum(axis=-1))
EXPECTED: dict[str, dict[str, float]] = {
    "SAELens": {
        "explained_variance": sae_lens_explained_variance(),
        "explained_variance_legacy": explained_variance_legacy(),
        "mse": mse(),
        "relative_reconstruction_bias": BIAS,
        "l0": NOT_0,
    },
    "SAELens before July 2026": {
        "explained_variance": mistaken_explained_variance(),
        "explained_variance_legacy": explained_variance_legacy(),
        "mse": mse_divided_twice(),
        "l0": over_tokens(lambda x, x_hat, f: (f > 0).sum(axis=-1)),
    },
    "SAEBench 0.6": {
        "explained_variance": mistaken_explained_variance(),
        "explained_variance_legacy": explained_variance_legacy(),
        "mse": mse_divided_twice(),
        "relative_reconstruction_bias": BIAS,
        "l0": NOT_0,
    },
    "dictionary_learning": {
        "frac_variance_explained": over_batches(
            lambda x, x_hat, _: 1 - (x - x_hat).var(axis=0, ddof=1).sum() / x.var(0, ddof=1).sum()
        ),
        "l2_loss": over_batches(lambda x, x_hat, _: np.linalg.norm(x - x_hat, axis=-1).mean()),
        "l0": over_batches(lambda x, x_hat, f: (f != 0).sum(axis=-1).mean()),
        "relative_reconstruction_bias": BIAS,
    },
    "sparsify": {
        "fvu": over_batches(
            lambda x, x_hat, _: ((x - x_hat) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
        ),
    },
    "OpenAI sparse_autoencoder": {
        "normalized_mean_squared_error": over_tokens(
            lambda x, x_hat, _: ((x_hat - x) ** 2).mean(axis=1) / (x**2).mean(axis=1)
        ),
    },
    "all positions": {},
}


@pytest.mark.parametrize("dictionary", [Biased(), BiasedInCodes()], ids=["dense", "codes"])
@pytest.mark.parametrize("project", EXPECTED)
def test_a_projects_numbers_are_those_of_its_formulas(project: str, dictionary: Biased) -> None:
    report = evaluate_reconstruction(dictionary, [*rows().split(SIZES)], compare=True)
    assert report.compared[project] == pytest.approx(EXPECTED[project], rel=1e-6)


def test_the_same_reconstruction_is_poor_or_perfect_by_convention() -> None:
    """x_hat = x + 5 in each of 6 components: 150 of squared error beside a variance of about 6."""

    class Shifted(Biased):
        def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x + 5, x

    x = torch.randn(4000, D_IN, generator=torch.Generator().manual_seed(1)).double()
    of = evaluate_reconstruction(Shifted(), [x], compare=True).compared
    assert of["dictionary_learning"]["frac_variance_explained"] == pytest.approx(1.0)
    assert of["SAELens"]["explained_variance"] == pytest.approx(1 - 150 / 6, rel=0.05)
    assert of["SAELens"]["mse"] == pytest.approx(150)
    assert of["SAEBench 0.6"]["mse"] == pytest.approx(150 / 4000)
    assert of["dictionary_learning"]["l2_loss"] == pytest.approx(math.sqrt(150))


def test_only_some_numbers_depend_on_the_batches() -> None:
    """Those that divide once are the same in batches of 31; a mean of ratios is another."""
    one, two = (
        evaluate_reconstruction(Biased(), [*rows().split(sizes)], compare=True).compared
        for sizes in (SIZES, (31, 31))
    )
    assert two["SAELens"]["explained_variance"] == pytest.approx(
        one["SAELens"]["explained_variance"]
    )
    assert two["SAELens"]["mse"] == pytest.approx(one["SAELens"]["mse"])
    assert two["sparsify"]["fvu"] != pytest.approx(one["sparsify"]["fvu"], rel=0.01)
    legacy = "explained_variance_legacy"
    assert two["SAELens"][legacy] != pytest.approx(one["SAELens"][legacy], rel=0.01)


def test_a_batch_in_which_nothing_counts_changes_nothing() -> None:
    x = rows()
    batches = [*x.split(SIZES)]
    with_empty = evaluate_reconstruction(Biased(), [*batches, x[:0]], compare=True)
    assert with_empty.compared == evaluate_reconstruction(Biased(), batches, compare=True).compared


# With a model ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tiny: LanguageModel) -> list[TextBatch]:
    """Two batches of unequal size; position 0 and one token besides do not count."""
    generator = torch.Generator().manual_seed(0)
    batches: list[TextBatch] = []
    for n in (3, 1):
        tokens = torch.randint(10, 4000, (n, 9), generator=generator)
        counted = torch.ones_like(tokens, dtype=torch.bool)
        counted[:, 0], counted[0, 4] = False, False
        batches.append(TextBatch(tokens, counted))
    return batches


Each = dict[str, np.ndarray]


def by_hand(model: LanguageModel, batch: TextBatch) -> Each:
    """Cross-entropies and divergences [batch, pos - 1] of whole edited passes."""
    counted = batch.counted[..., None]
    edits: dict[str, Callable[[Tensor], Tensor]] = {
        "clean": lambda x: x,
        "spliced": lambda x: torch.where(counted, 0.8 * x + OFFSET, x),
        "spliced everywhere": lambda x: 0.8 * x + OFFSET,
        "zero everywhere": torch.zeros_like,
    }
    found: Each = {}
    clean = np.zeros(())
    for name, edit in edits.items():
        with torch.no_grad():
            logits = model.logits(batch.tokens, {SITE: edit})
        log_probs = logits.double().log_softmax(dim=-1)[:, :-1]
        targets = batch.tokens[:, 1:, None]
        found[name] = -log_probs.gather(2, targets)[..., 0].numpy()
        log_probs = log_probs.numpy()
        clean = log_probs if name == "clean" else clean
        found[f"kl {name}"] = (np.exp(clean) * (clean - log_probs)).sum(axis=-1)
    found["counted"] = batch.counted[:, :-1].numpy()
    return found


def test_scores_replace_the_positions_that_each_project_replaces(
    tiny: LanguageModel, text: list[TextBatch]
) -> None:
    (report,) = evaluate_sites({SITE: [Biased()]}, tiny, text, compare=True)[SITE]
    batches = [by_hand(tiny, batch) for batch in text]

    def mean(name: str) -> float:
        return float(np.concatenate([of[name][of["counted"]] for of in batches]).mean())

    clean, spliced, zero = mean("clean"), mean("spliced"), mean("zero everywhere")
    kl, kl_zero = mean("kl spliced"), mean("kl zero everywhere")
    sae_lens = report.compared["SAELens"]
    assert sae_lens["ce_loss_score"] == pytest.approx((zero - spliced) / (zero - clean), rel=1e-4)
    assert sae_lens["kl_div_with_sae"] == pytest.approx(kl, rel=1e-4)
    assert sae_lens["kl_div_score"] == pytest.approx((kl_zero - kl) / kl_zero, rel=1e-4)

    spliced, kl = mean("spliced everywhere"), mean("kl spliced everywhere")
    saebench = report.compared["SAEBench 0.6"]
    assert saebench["ce_loss_score"] == pytest.approx((zero - spliced) / (zero - clean), rel=1e-4)
    assert saebench["kl_div_with_sae"] == pytest.approx(kl, rel=1e-4)
    assert saebench["kl_div_score"] == pytest.approx((kl_zero - kl) / kl_zero, rel=1e-4)

    ratios = [
        (of["spliced everywhere"].mean() - of["zero everywhere"].mean())
        / (of["clean"].mean() - of["zero everywhere"].mean())
        for of in batches
    ]
    theirs = report.compared["dictionary_learning"]
    assert theirs["frac_recovered"] == pytest.approx(np.mean(ratios), rel=1e-4)


class Sink:
    """The model with activations at position 0 that are 50 times as long, as in GPT-2."""

    def __init__(self, model: LanguageModel) -> None:
        self.device, self.logits, self._model = model.device, model.logits, model

    def activations(self, tokens: Tensor, hook_names: list[str]) -> dict[str, Tensor]:
        found = dict(self._model.activations(tokens, hook_names))
        for x in found.values():
            x[:, 0] *= 50
        return found


def test_explained_variance_is_told_of_every_position_too(
    tiny: LanguageModel, text: list[TextBatch]
) -> None:
    sink = Sink(tiny)
    (report,) = evaluate_sites({SITE: [Biased()]}, sink, text, compare=True)[SITE]
    every = torch.cat([sink.activations(of.tokens, [SITE])[SITE].flatten(0, 1) for of in text])
    expected = evaluate_reconstruction(Biased(), [every]).explained_variance
    found = report.compared["all positions"]["explained_variance"]
    assert found == pytest.approx(expected, rel=1e-6)
    assert found > 0.95 > report.explained_variance + 0.05


def test_with_a_model_every_number_is_there_and_ours_are_unmoved(
    tiny: LanguageModel, text: list[TextBatch]
) -> None:
    (report,) = evaluate_sites({SITE: [Biased()]}, tiny, text, compare=True)[SITE]
    names = {project: {of.name for of in its} for project, its in COMPARED.items()}
    assert {project: {*its} for project, its in report.compared.items()} == names
    (plain,) = evaluate_sites({SITE: [Biased()]}, tiny, text)[SITE]
    assert plain.metrics() == report.metrics() and not plain.compared
    assert "compared" not in json.loads(plain.to_json())
    assert json.loads(report.to_json())["compared"] == report.compared


def test_what_is_not_asked_for_costs_no_pass(
    tiny: LanguageModel, text: list[TextBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero, mean and one splice for a batch; twice as many where projects are compared."""
    passes: list[str] = []

    class Counting:
        device = tiny.device

        def activations(self, tokens: Tensor, hook_names: list[str]) -> dict[str, Tensor]:
            return tiny.activations(tokens, hook_names)

        def logits(self, tokens: Tensor, edits: object = None) -> Tensor:
            passes.append("edited" if edits else "clean")
            return tiny.logits(tokens, edits)  # pyright: ignore[reportArgumentType]

    for compare, edited in ((False, 3), (True, 6)):
        passes.clear()
        evaluate_sites({SITE: [Biased()]}, Counting(), text, compare=compare)
        assert (passes.count("clean"), passes.count("edited")) == (2, 2 * edited)


def test_a_convention_that_is_beside_a_number_of_ours_names_one_that_there_is() -> None:
    for project, its in COMPARED.items():
        assert len({of.name for of in its}) == len(its), project
        assert {of.ours for of in its} <= {"", *METRICS}


# The command -------------------------------------------------------------------------------------


def test_activations_from_files_have_the_part_that_needs_no_model(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", generator.normal(size=(3000, 8)).astype(np.float32))
    flags = [
        "--architecture",
        "relu",
        "--d-sae",
        16,
        "--n-tokens",
        512,
        "--batch-tokens",
        128,
        "--wandb",
        "off",
    ]
    of = ["--activations", tmp_path / "rows.npy", "--out", tmp_path / "run"]
    done = called(train_script.main, *of, *flags)
    assert done.code == 0, done.err
    out = tmp_path / "eval.json"
    done = called(evaluate_script.main, tmp_path / "run", "--compare", "--out", out)
    assert done.code == 0, done.err
    (line,) = (line for line in done.out.splitlines() if line.startswith("not available"))
    assert "activations from files have no model" in line and "SAELens ce_loss_score" in line
    assert "E|x_hat|^2" in done.out and "[x . x_hat]" in done.out  # which is no markup
    assert "normalized_mean_squared_error" in done.out  # no name is cut
    compared = json.loads(out.read_text())["compared"]
    assert compared["sparsify"].keys() == {"fvu"} and "ce_loss_score" not in compared["SAELens"]
