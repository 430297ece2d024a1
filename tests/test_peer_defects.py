"""Mistakes found in the field's other trainers, each as a test that this one does not make it."""

import ast
import itertools
import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sae
from activation_cache.text.config import TextConfig
from activation_cache.text.documents import documents
from sae.architectures import ARCHITECTURES, ReLUConfig, TopKConfig
from sae.evaluation.metric import Accumulator
from sae.evaluation.metrics import METRICS
from sae.evaluation.seen import Seen
from sae.runs.run import run
from sae.runs.settings import RunSettings
from sae.toy import Independent, SparseFeatures
from sae.training import TrainConfig, train

SOURCES = sorted(Path(sae.__file__).parent.rglob("*.py"))


def _features() -> SparseFeatures:
    return SparseFeatures(Independent(torch.full((24,), 0.1)), 12, batch_tokens=64)


def test_a_dictionary_is_of_unit_norm_after_every_step_not_before_it() -> None:
    """Elsewhere rows are normalised before the optimiser moves them, and saved as it left them."""
    dictionary = ReLUConfig(d_sae=32).build(12)
    for _ in train(dictionary, _features(), TrainConfig(n_tokens=640, lr=0.1)):
        assert torch.allclose(dictionary.W_dec.norm(dim=1), torch.ones(32), atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6))
def test_a_ratio_does_not_depend_on_the_batches_it_was_summed_over(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(sum(sizes))
    x = torch.randn(sum(sizes), 6, generator=generator).exp()
    x_hat = x + 0.1 * torch.randn(x.shape, generator=generator)
    mean = x.to(torch.float64).mean(dim=0)
    whole, parts = Accumulator(METRICS.values()), Accumulator(METRICS.values())
    whole.update(Seen(x, x_hat, x, mean))
    for rows, rows_hat in zip(x.split(sizes), x_hat.split(sizes), strict=True):
        parts.update(Seen(rows, rows_hat, rows, mean))
    for name, value in whole.results().items():
        assert abs(parts.results()[name] - value) <= 1e-9 * max(1.0, abs(value)), name


def test_every_combination_of_settings_for_normalising_and_logging_runs_to_its_end(
    tmp_path: Path,
) -> None:
    """Elsewhere saving without normalising is an unbound name, and not logging is a crash."""
    for normalise, tied in itertools.product((True, False), repeat=2):
        dictionary = ReLUConfig(d_sae=16, tied=tied).build(12)
        cfg = TrainConfig(n_tokens=320, normalise=normalise)
        assert len(list(train(dictionary, _features(), cfg))) == 5
        sae.save(dictionary, tmp_path / f"{normalise}-{tied}")


def test_settings_are_never_changed_by_what_uses_them() -> None:
    """Elsewhere the caller's config loses a key. Ours are frozen, and come out as they went in."""
    given = {"hook_name": ["blocks.0.hook_resid_pre"], "k": 4}
    before = json.dumps(given)
    settings = RunSettings.of(**given)
    assert settings.but(k=8).to_dict()["k"] == 8
    assert json.dumps(given) == before
    assert settings.to_dict()["k"] == 4


def test_no_exception_is_swallowed_unseen() -> None:
    """Elsewhere `except: pass` hides what went wrong."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path.name}:{node.lineno} catches everything"
                assert not isinstance(node.body[0], ast.Pass), f"{path.name}:{node.lineno}"


def test_evaluating_a_dictionary_does_not_count_as_training_it() -> None:
    """Elsewhere `forward` advances the counters of dead features, during evaluation too."""

    def trained(peek: bool) -> torch.Tensor:
        dictionary = TopKConfig(d_sae=32, k=2).build(12)
        for _ in train(dictionary, _features(), TrainConfig(n_tokens=1280, dead_after_tokens=256)):
            if peek:
                dictionary(torch.zeros(1000, 12))
        return dictionary.W_dec.detach()

    assert torch.equal(trained(peek=True), trained(peek=False))


def test_weights_and_biases_is_not_touched_when_it_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere a logger that is off is called past its own guard. Here it is not even imported."""
    monkeypatch.setitem(sys.modules, "wandb", None)  # whoever imports it fails
    run(
        RunSettings.of(
            n_tokens=256, batch_tokens=64, buffer_tokens=128, d_sae=32, k=4, eval_tokens=128,
            wandb="off", out=tmp_path / "run",
        )
    )  # fmt: skip
    assert not (tmp_path / "run" / "wandb").exists()


def test_no_architecture_writes_the_encoder_or_a_loss_again() -> None:
    """Elsewhere a loss is pasted into every class. Here an architecture adds only its own."""
    for name, cls in ARCHITECTURES.items():
        built = type(cls(d_sae=64).build(4))
        for method in ("encode", "encode_sparse", "decode", "forward", "reconstruct"):
            assert method not in vars(built), f"{name} has its own {method}"


def test_the_first_row_of_a_dataset_is_read(tmp_path: Path) -> None:
    """Elsewhere a check of the column takes the first row out of the stream."""
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(40)))
    read = [
        *documents(TextConfig(dataset=str(path)), "train"),
        *documents(TextConfig(dataset=str(path)), "held_out"),
    ]
    assert sorted(read) == sorted(f"document {i}" for i in range(40))
