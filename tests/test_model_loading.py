"""Models and sites that cannot be had are refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_models import copy_of_tiny, saved, small_ctrl, small_neox
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.model.language_model import LanguageModel
from activation_cache.model.loading import load_model, resolve_device
from activation_cache.model.sites import SITES


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this the hub client retries for most of a minute before it gives up."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


# Bad input ---------------------------------------------------------------------------------------


def refusal(act: Callable[[], object]) -> str:
    """The message with which something is refused: always one line."""
    with pytest.raises(InputError) as raised:
        act()
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "hook_name",
    [
        "hook_embedding",
        "blocks.1",
        "blocks.1.hook_resid",
        "blocks.-1.hook_resid_pre",
        "blocks.1.hook_resid_pre.x",
        "",
    ],
)
def test_an_unknown_hook_name_is_refused_with_the_known_ones(
    tiny: LanguageModel, tokens: Tensor, hook_name: str
) -> None:
    expected = (
        f"unknown hook name {hook_name!r}: use blocks.<layer>. followed by one of "
        f"{', '.join(SITES)}, or hook_embed, or module:<path of a module>"
    )
    for act in (
        lambda: tiny.activations(tokens, [hook_name]),
        lambda: tiny.logits(tokens, {hook_name: lambda x: x}),
        lambda: tiny.width(hook_name),
    ):
        assert refusal(act) == expected


def test_a_layer_out_of_range_is_refused_with_the_range(tiny: LanguageModel) -> None:
    message = refusal(lambda: tiny.width("blocks.4.hook_resid_pre"))
    assert message == "blocks.4.hook_resid_pre does not exist: tiny has layers 0 to 3"


def test_a_site_that_the_architecture_lacks_is_refused(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path, small_neox), device="cpu")
    assert model.width("blocks.1.hook_resid_post") == 16
    message = refusal(lambda: model.width("blocks.1.hook_resid_mid"))
    assert "GPTNeoXForCausalLM has no hook_resid_mid" in message


def test_an_architecture_without_hook_names_is_refused(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path, small_ctrl), device="cpu")
    message = refusal(lambda: model.width("blocks.1.hook_resid_post"))
    assert "TransformerLens has no hook names for CTRLLMHeadModel" in message


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("source", ["no-such-owner/no-such-model", "no/such/folder", "", "."])
def test_a_model_that_is_not_there_is_refused(source: str) -> None:
    message = refusal(lambda: load_model(source))
    assert f"cannot load the model {source!r}" in message
    assert "give 'tiny', a hub id while online, a folder with config.json" in message


def test_a_missing_gguf_file_is_refused() -> None:
    message = refusal(lambda: load_model("absent/model.gguf"))
    assert message == "no GGUF file at absent/model.gguf: give the path of an existing one"


def test_a_file_that_only_claims_to_be_gguf_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model")
    assert f"cannot load the model {str(path)!r}" in refusal(lambda: load_model(str(path)))


@pytest.mark.parametrize("device", ["gpu", "", "cpu:x"])
def test_an_unknown_device_is_refused(device: str) -> None:
    message = refusal(lambda: load_model("tiny", device=device))
    assert message.startswith(f"device {device!r} cannot be used here: use auto, cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_refused_where_there_is_none() -> None:
    message = refusal(lambda: resolve_device("cuda:1"))
    assert message.startswith("device 'cuda:1' cannot be used here: use auto, cpu")
    assert resolve_device("auto").type == "cpu"


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert f"cannot load the model {str(folder)!r}" in refusal(lambda: load_model(str(folder)))


def test_a_config_that_is_not_json_is_refused(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    (folder / "config.json").write_text("{")
    assert f"cannot load the model {str(folder)!r}" in refusal(lambda: load_model(str(folder)))


def test_a_truncated_weights_file_is_refused(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    assert f"cannot load the model {str(folder)!r}" in refusal(lambda: load_model(str(folder)))


def test_weights_of_another_shape_than_the_config_says_are_refused(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    rewrite_config(folder, n_embd=96)
    assert f"cannot load the model {str(folder)!r}" in refusal(lambda: load_model(str(folder)))


def test_a_model_is_refused_where_weights_are_missing_and_would_be_random(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    rewrite_config(folder, n_layer=5)  # the file holds four
    assert str(folder) in refusal(lambda: load_model(str(folder)))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    # transformers makes up an empty tokenizer, which reads every text as nothing.
    folder = copy_of_tiny(tmp_path / "model")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert str(folder) in refusal(lambda: load_model(str(folder)))


def rewrite_config(folder: Path, **changes: int) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
