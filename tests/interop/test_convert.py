"""`scripts/convert.py`, and the exchange with the real packages."""

import json
from pathlib import Path

import interop as interop_script
import pytest
import torch
from in_process import called

import sae
from sae.architectures import ARCHITECTURES, TopKConfig
from sae.commands import convert as convert_script
from sae.interop import PretrainedConfig, PretrainedSAE, export
from sae.interop.compare import compare

SITE = "blocks.2.hook_resid_pre"


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    made = TopKConfig(d_sae=64, k=4).build(192)
    with torch.no_grad():
        made.b_enc.normal_(generator=torch.Generator().manual_seed(0))
    made.provenance = made.provenance.updated({"model_name": "tiny", "hook_name": SITE})
    sae.save(made, tmp_path / "ours")
    return tmp_path / "ours"


@pytest.mark.parametrize("layout", ["saelens", "dictionary_learning", "sparsify"])
def test_a_copy_is_written_and_its_largest_difference_printed(
    dictionary: Path, tmp_path: Path, layout: str
) -> None:
    done = called(
        convert_script.main, dictionary, tmp_path / "copy", "--to", layout, "--n-tokens", "300"
    )
    assert done.code == 0, done
    for name in ("random", "real"):
        assert f"{name}" in done.out and "300" in done.out
    assert f"written to {tmp_path / 'copy'}" in done.out
    x = torch.randn(50, 192) + 1
    found = compare(sae.load(dictionary), sae.load(tmp_path / "copy"), x)
    assert (found.n_tokens, found.support) == (50, 0)
    assert found.features < 1e-5 * found.largest_feature
    assert found.reconstruction < 1e-5 * found.largest_reconstruction


def test_without_a_model_it_is_compared_on_random_activations_alone(
    dictionary: Path, tmp_path: Path
) -> None:
    config = json.loads((dictionary / "cfg.json").read_text())
    del config["metadata"]["model_name"]
    (dictionary / "cfg.json").write_text(json.dumps(config))
    done = called(convert_script.main, dictionary, tmp_path / "copy", "--to", "sparsify")
    assert done.code == 0, done
    assert "not compared on real activations: the dictionary does not say its model" in done.out


def test_what_a_layout_cannot_express_is_refused_and_leaves_nothing(
    dictionary: Path, tmp_path: Path
) -> None:
    sae.save(ARCHITECTURES["gated"](d_sae=8).build(4), tmp_path / "gated")
    done = called(convert_script.main, tmp_path / "gated", tmp_path / "copy", "--to", "sparsify")
    assert done.code == 2 and "sparsify files cannot express the activation gated" in done.err
    assert done.err.count("\n") == 1 and not (tmp_path / "copy").exists()


def test_nothing_is_written_over(dictionary: Path, tmp_path: Path) -> None:
    done = called(convert_script.main, dictionary, dictionary, "--to", "sparsify")
    assert done.code == 2 and "exists: name a folder that does not" in done.err


def test_an_unknown_layout_is_refused(dictionary: Path, tmp_path: Path) -> None:
    with pytest.raises(
        sae.InputError, match="as 'gguf': use featureloom, saelens, dictionary_learning, spars"
    ):
        export(sae.load(dictionary), tmp_path / "copy", to="gguf")


def test_differences_are_the_largest_over_all_tokens() -> None:
    """Two dictionaries with one feature each: 2 x and 2.5 x, of x = 1, -1 and 3."""
    ours, theirs = (
        PretrainedSAE(
            PretrainedConfig(d_sae=1, activation="relu"),
            {
                "W_enc": torch.tensor([[w]]),
                "W_dec": torch.ones(1, 1),
                "b_enc": torch.tensor([b]),
                "b_dec": torch.zeros(1),
            },
        )
        for w, b in ((2.0, 0.0), (2.0, 0.5))
    )
    found = compare(ours, theirs, torch.tensor([[1.0], [-0.2], [3.0]]), batch=2)
    assert (found.n_tokens, found.features, found.largest_feature) == (3, 0.5, 6.0)
    assert (found.support, found.largest_reconstruction) == (1, 6.0)


@pytest.mark.interop
@pytest.mark.parametrize("peer", ["sae_lens", "dictionary_learning", "sparsify"])
def test_the_real_package_and_we_compute_the_same_both_ways(peer: str) -> None:
    done = called(interop_script.main, "--peer", peer, "--json")
    assert done.code == 0, done
    rows = json.loads(done.out)
    assert {row["direction"] for row in rows} == {"theirs, loaded here", "ours, loaded there"}
    assert all(row["features"] is not None or "refused" in row["note"] for row in rows)
