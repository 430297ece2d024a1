"""Reading and editing activations, against TransformerLens' own cache and hooks.

The weights of the embedded model are not tested here: no number below depends on them.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CTRLConfig,
    CTRLLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from activation_cache.errors import InputError
from activation_cache.models import SITES, TINY_FOLDER, LanguageModel, load_model, resolve_device

LAYER = 1
NAMES = [f"blocks.{LAYER}.{site}" for site in SITES]
RESID_MID = f"blocks.{LAYER}.hook_resid_mid"
RESID_POST = f"blocks.{LAYER}.hook_resid_post"
MLP_OUT = f"blocks.{LAYER}.hook_mlp_out"

# The usual 0.02 gives activations near zero, on which every tolerance passes.
LIVELY = 0.2


def small_gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=4096,
            n_embd=24,
            n_head=3,
            n_layer=2,
            n_positions=32,
            initializer_range=LIVELY,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def small_llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=LIVELY,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def small_neox() -> PreTrainedModel:
    """Attention and MLP in parallel: there is nothing between them."""
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=4096,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=32,
        )
    )


def small_ctrl() -> PreTrainedModel:
    """An architecture that TransformerLens does not know."""
    return CTRLLMHeadModel(
        CTRLConfig(vocab_size=4096, n_embd=16, n_head=2, n_layer=2, dff=16, n_positions=32)
    )


def saved(folder: Path, build: Callable[[], PreTrainedModel]) -> str:
    """A folder in the Hugging Face layout with random weights and the embedded tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = build()
        with torch.no_grad():
            for name, parameter in hf.named_parameters():
                if name.endswith("bias"):  # zero at first: a forgotten bias would go unseen
                    parameter.normal_(std=LIVELY)
    hf.save_pretrained(folder)
    for path in TINY_FOLDER.glob("tokenizer*"):
        shutil.copy(path, folder)
    return str(folder)


def copy_of_tiny(folder: Path) -> Path:
    """A writable copy of the embedded model's folder."""
    return Path(shutil.copytree(TINY_FOLDER, folder))


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    return load_model("tiny", device="cpu")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_model(saved(tmp_path_factory.mktemp("gpt2"), small_gpt2), device="cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_model(saved(tmp_path_factory.mktemp("llama"), small_llama), device="cpu")


@pytest.fixture(scope="module", params=["tiny", "gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 4096, (2, 16), generator=generator)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this the hub client retries for most of a minute before it gives up."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def flat(x: Tensor) -> Tensor:
    """[batch, pos, width], the heads of hook_z beside each other."""
    return x.flatten(2)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    # Position 0 may be large: 1e-6 of the largest component is what float32 can promise.
    atol = max(1e-4, 1e-6 * expected.abs().max().item())
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-4)


def activations_under(
    model: LanguageModel,
    tokens: Tensor,
    edits: dict[str, Callable[[Tensor], Tensor]],
    hook_names: list[str],
) -> dict[str, Tensor]:
    """What passes the sites while the edits are in force."""
    found: dict[str, Tensor] = {}

    def reader(hook_name: str) -> Callable[[Tensor], Tensor]:
        def read(x: Tensor) -> Tensor:
            found[hook_name] = x.clone()
            return x

        return read

    model.logits(tokens, edits | {hook_name: reader(hook_name) for hook_name in hook_names})
    return found


# Reading -----------------------------------------------------------------------------------------


def test_every_site_holds_what_transformer_lens_has_in_its_cache(
    model: LanguageModel, tokens: Tensor
) -> None:
    names = [f"blocks.{layer}.{site}" for layer in range(model.n_layers) for site in SITES]
    found = model.activations(tokens, names)
    _, cache = model.bridge.run_with_cache(tokens)
    assert list(found) == names
    for name in names:
        assert found[name].abs().mean() > 1e-3
        assert_close(found[name], flat(cache[name]))


def test_the_residual_stream_is_a_sum(model: LanguageModel, tokens: Tensor) -> None:
    pre, mid, post, attn_out, mlp_out = model.activations(tokens, NAMES[:5]).values()
    assert_close(mid, pre + attn_out)
    assert_close(post, mid + mlp_out)


def test_the_stream_leaves_one_block_as_it_enters_the_next(
    model: LanguageModel, tokens: Tensor
) -> None:
    names = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"]
    post, pre = model.activations(tokens, names).values()
    assert torch.equal(post, pre)


def test_several_sites_in_one_pass_hold_what_single_passes_hold(
    model: LanguageModel, tokens: Tensor
) -> None:
    together = model.activations(tokens, NAMES)
    for name in NAMES:
        assert torch.equal(together[name], model.activations(tokens, [name])[name])


def test_sites_come_back_in_the_order_they_were_asked_for(
    tiny: LanguageModel, tokens: Tensor
) -> None:
    backwards = [*reversed(NAMES), NAMES[0]]  # one of them twice
    assert list(tiny.activations(tokens, backwards)) == list(reversed(NAMES))


@pytest.mark.parametrize(
    ("site", "modules_run"),
    [
        ("hook_resid_pre", []),
        ("attn.hook_z", []),
        ("hook_attn_out", ["attn"]),
        ("hook_resid_mid", ["attn"]),
        ("mlp.hook_post", ["attn"]),
        ("hook_mlp_out", ["attn", "mlp"]),
        ("hook_resid_post", ["attn", "mlp", "block 1"]),
    ],
)
def test_the_forward_pass_ends_at_the_last_site(
    tiny: LanguageModel, tokens: Tensor, site: str, modules_run: list[str]
) -> None:
    hf: Any = tiny.hf
    blocks = hf.transformer.h
    watched: dict[str, nn.Module] = {
        "attn": blocks[1].attn,
        "mlp": blocks[1].mlp,
        "block 1": blocks[1],
        "block 2": blocks[2],
        "block 3": blocks[3],
        "final norm": hf.transformer.ln_f,
        "unembedding": hf.lm_head,
    }
    finished: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: finished.append(name), prepend=True)
        for name, module in watched.items()
    ]
    try:
        tiny.activations(tokens, ["blocks.0.hook_resid_post", f"blocks.1.{site}"])
        assert finished == modules_run
        tiny.logits(tokens)
        assert set(finished) == set(watched)  # all of them do run where nothing stops them
    finally:
        for handle in handles:
            handle.remove()


def test_reading_leaves_no_hook_behind(tiny: LanguageModel, tokens: Tensor) -> None:
    before = tiny.logits(tokens)
    tiny.activations(tokens, NAMES)
    tiny.logits(tokens, dict.fromkeys(NAMES, torch.zeros_like))
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in tiny.hf.modules()
    )
    assert torch.equal(tiny.logits(tokens), before)


def test_an_edit_that_fails_leaves_no_hook_behind(tiny: LanguageModel, tokens: Tensor) -> None:
    def fail(x: Tensor) -> Tensor:
        raise ZeroDivisionError

    before = tiny.logits(tokens)
    for name in NAMES:
        with pytest.raises(ZeroDivisionError):
            tiny.logits(tokens, {name: fail})
    assert torch.equal(tiny.logits(tokens), before)


def test_activations_carry_no_gradient(tiny: LanguageModel, tokens: Tensor) -> None:
    assert not any(x.requires_grad for x in tiny.activations(tokens, NAMES).values())
    assert not any(parameter.requires_grad for parameter in tiny.hf.parameters())
    assert not tiny.hf.training


@pytest.mark.parametrize(
    ("fixture", "widths"),
    [
        # In the order of SITES: five residual widths, then the MLP's, then all heads together.
        ("tiny", [192, 192, 192, 192, 192, 768, 192]),
        ("gpt2", [24, 24, 24, 24, 24, 96, 24]),
        ("llama", [32, 32, 32, 32, 32, 48, 32]),
    ],
)
def test_the_width_of_every_site(
    request: pytest.FixtureRequest, fixture: str, widths: list[int]
) -> None:
    model = request.getfixturevalue(fixture)
    assert [model.width(name) for name in NAMES] == widths


def test_layers_and_context_are_those_of_the_config(
    tiny: LanguageModel, gpt2: LanguageModel, llama: LanguageModel
) -> None:
    assert [model.n_layers for model in (tiny, gpt2, llama)] == [4, 2, 2]
    assert [model.max_context_size for model in (tiny, gpt2, llama)] == [128, 32, 64]


def test_bfloat16_is_respected(tokens: Tensor) -> None:
    model = load_model("tiny", device="cpu", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert {x.dtype for x in model.activations(tokens, NAMES).values()} == {torch.bfloat16}
    assert model.logits(tokens).dtype == torch.bfloat16
    # A dictionary is float32: what it returns is cast to what the model uses.
    edited = model.logits(tokens, dict.fromkeys(NAMES, lambda x: x.float()))
    assert edited.dtype == torch.bfloat16
    assert torch.equal(edited, model.logits(tokens))


def test_the_embedded_weights_are_loaded_in_float32_unless_asked_otherwise(
    tiny: LanguageModel,
) -> None:
    assert tiny.dtype == torch.float32
    assert tiny.device.type == "cpu"
    assert tiny.name == "tiny"


def test_the_bridge_leaves_the_model_as_it_was_and_does_not_copy_its_large_weights(
    tokens: Tensor,
) -> None:
    model = load_model("tiny", device="cpu")
    before = model.logits(tokens)
    assert_close(model.bridge(tokens), before)
    assert torch.equal(model.logits(tokens), before)
    transformer: Any = model.hf.transformer
    shared = {parameter.data_ptr() for parameter in model.bridge.parameters()}
    assert transformer.wte.weight.data_ptr() in shared
    assert transformer.h[1].mlp.c_fc.weight.data_ptr() in shared


# Editing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_the_identity_edit_changes_nothing(model: LanguageModel, tokens: Tensor, site: str) -> None:
    edited = model.logits(tokens, {f"blocks.{LAYER}.{site}": lambda x: x})
    assert torch.equal(edited, model.logits(tokens))


def test_without_edits_the_logits_are_those_of_the_bare_model(
    model: LanguageModel, tokens: Tensor
) -> None:
    assert torch.equal(model.logits(tokens), model.hf(tokens).logits)
    assert torch.equal(model.logits(tokens, {}), model.hf(tokens).logits)


@pytest.mark.parametrize("site", [site for site in SITES if site != "hook_resid_mid"])
def test_edits_do_what_the_same_hooks_of_transformer_lens_do(
    model: LanguageModel, tokens: Tensor, site: str
) -> None:
    name = f"blocks.{LAYER}.{site}"
    # Elementwise, for the heads are apart there; bent, for a norm undoes any scale and offset.
    edited = model.logits(tokens, {name: lambda x: 0.3 - x.tanh()})
    expected = model.bridge.run_with_hooks(
        tokens, fwd_hooks=[(name, lambda x, hook: 0.3 - x.tanh())]
    )
    assert (edited - model.logits(tokens)).abs().max() > 1e-2
    assert_close(edited, expected)


@pytest.mark.parametrize("site", SITES)
def test_an_edit_sees_what_reading_the_site_returns(
    model: LanguageModel, tokens: Tensor, site: str
) -> None:
    name = f"blocks.{LAYER}.{site}"
    seen = activations_under(model, tokens, {}, [name])
    assert torch.equal(seen[name], model.activations(tokens, [name])[name])


# TransformerLens' bridge hooks the input of the second norm only, so that an edit of
# hook_resid_mid reaches the MLP and is then lost: the block adds the unedited stream. The next
# tests pin down that ours is carried.


def test_a_vector_added_between_attention_and_mlp_stays_in_the_residual_stream(
    model: LanguageModel, tokens: Tensor
) -> None:
    v = torch.linspace(-1.0, 1.0, model.width(RESID_MID))
    clean = activations_under(model, tokens, {}, [MLP_OUT, RESID_POST])
    moved = activations_under(model, tokens, {RESID_MID: lambda x: x + v}, [MLP_OUT, RESID_POST])
    mlp_change = moved[MLP_OUT] - clean[MLP_OUT]
    assert mlp_change.abs().max() > 1e-3
    assert_close(moved[RESID_POST] - clean[RESID_POST], v + mlp_change)


def test_with_the_stream_zeroed_before_the_mlp_only_the_mlp_output_is_left(
    model: LanguageModel, tokens: Tensor
) -> None:
    seen = activations_under(model, tokens, {RESID_MID: torch.zeros_like}, [MLP_OUT, RESID_POST])
    assert_close(seen[RESID_POST], seen[MLP_OUT])


def test_an_edit_in_place_between_attention_and_mlp_is_carried_too(
    model: LanguageModel, tokens: Tensor
) -> None:
    in_place = model.logits(tokens, {RESID_MID: lambda x: x.mul_(0.5)})
    assert_close(in_place, model.logits(tokens, {RESID_MID: lambda x: 0.5 * x}))


def test_edits_in_two_layers_act_together(model: LanguageModel, tokens: Tensor) -> None:
    # Zeroed behind block 1, nothing of the edit in block 0 is left.
    both = model.logits(
        tokens,
        {"blocks.0.hook_resid_mid": lambda x: x + 1.0, RESID_POST: torch.zeros_like},
    )
    one = model.logits(tokens, {RESID_POST: torch.zeros_like})
    assert torch.equal(both, one)


def test_edits_of_one_block_do_not_depend_on_the_order_they_are_named_in(
    model: LanguageModel, tokens: Tensor
) -> None:
    edits: dict[str, Callable[[Tensor], Tensor]] = {
        RESID_MID: lambda x: x + 1.0,
        RESID_POST: torch.zeros_like,
    }
    forwards = model.logits(tokens, edits)
    backwards = model.logits(tokens, dict(reversed(edits.items())))
    assert torch.equal(forwards, model.logits(tokens, {RESID_POST: torch.zeros_like}))
    assert torch.equal(backwards, forwards)


def test_gradients_flow_through_an_edit(tiny: LanguageModel, tokens: Tensor) -> None:
    v = torch.zeros(192, requires_grad=True)
    tiny.logits(tokens, {RESID_MID: lambda x: x + v})[0, -1, 0].backward()
    assert v.grad is not None
    assert v.grad.abs().max() > 0


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
        "hook_embed",
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
    expected = f"unknown hook name {hook_name!r}: use blocks.<layer>. followed by one of "
    for act in (
        lambda: tiny.activations(tokens, [hook_name]),
        lambda: tiny.logits(tokens, {hook_name: lambda x: x}),
        lambda: tiny.width(hook_name),
    ):
        assert refusal(act) == expected + ", ".join(SITES)


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
