"""What a hook name promises is proven before it is used, on architectures of every kind."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import called
from small_models import assert_close, saved, small_ctrl, small_gpt2
from torch import Tensor
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from activation_cache import HarvestConfig, InputError, LanguageModel, harvest, load_model
from activation_cache.model import language_model
from activation_cache.model.proof import Finding
from activation_cache.model.sites import SITES
from activation_cache.model.small import small_model
from sae.commands import models as models_script
from sae.commands import train as train_script

POST, Z, MID = "mlp.hook_post", "attn.hook_z", "hook_resid_mid"
HEADS = ("attn.hook_q", "attn.hook_k", "attn.hook_v")
NORMS = ("ln1.hook_normalized", "ln2.hook_normalized")
PARALLEL = (MID, "ln2.hook_normalized")
ADDED = ("hook_attn_out", "hook_mlp_out")

Sites = tuple[str, ...]

# Sites of the last layer that there are not, and sites that are refused; all others can be used.
EXPECTED: dict[str, tuple[Sites, Sites]] = {
    **dict.fromkeys(("llama", "gemma2", "opt", "mpt", "bloom", "olmo", "nanochat"), ((), ())),
    **dict.fromkeys(("falcon", "gptj"), (PARALLEL, ())),
    "gpt_neox": ((MID,), ()),
    "mixtral": ((), (POST,)),
    "granite": (ADDED, ()),
    "openai-gpt": ((), (MID, *ADDED)),
    "mamba": ((MID, *ADDED, POST, Z, *HEADS, *NORMS), ()),
}
# The same things again, in other families.
MORE: dict[str, tuple[Sites, Sites]] = {
    **dict.fromkeys(("gpt2", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text"), ((), ())),
    **dict.fromkeys(("vaultgemma", "phi3", "stablelm", "smollm3", "xglm", "glm4"), ((), ())),
    **dict.fromkeys(("nemotron", "bitnet", "gpt_bigcode", "starcoder2", "seed_oss"), ((), ())),
    **dict.fromkeys(("codegen", "cohere", "phi"), (PARALLEL, ())),
    **dict.fromkeys(("qwen3_moe", "gpt_oss", "laguna"), ((), (POST,))),
    **dict.fromkeys(("olmo2", "exaone4"), (NORMS, ())),
    "olmoe": ((), (POST,)),
    "gemma4_text": (NORMS, ("hook_mlp_out",)),
    "deepseek_v3": (HEADS, (POST,)),
    "bert": ((), (MID, *ADDED, POST, Z)),
}
ARCHITECTURES = [*EXPECTED, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]


@cache
def small(architecture: str) -> LanguageModel:
    return small_model(architecture, load_model("tiny", device="cpu").tokenizer)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_sites_of_an_architecture_are_usable_missing_or_refused(
    tokens: Tensor, architecture: str
) -> None:
    model = small(architecture)
    missing, refused = (EXPECTED | MORE)[architecture]
    layer = model.n_layers - 1
    for site in SITES:
        name = f"blocks.{layer}.{site}"
        if site in (*missing, *refused):
            problem = "has no" if site in missing else "is not what its name says"
            with pytest.raises(InputError, match=problem):
                model.activations(tokens, [name])
        else:
            x = model.activations(tokens, [name])[name]
            assert x.shape == (*tokens.shape, model.width(name))
            assert x.abs().mean() > 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_streamed_rows_are_the_hidden_states_that_the_model_itself_gives(
    tokens: Tensor, architecture: str
) -> None:
    model = small(architecture)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.n_layers)]
    read = model.activations(tokens, names)
    hf: Any = model.hf
    hidden = hf(tokens, output_hidden_states=True, use_cache=False).hidden_states
    if architecture == "mamba":  # it keeps what comes out of a block
        hidden = (read[names[0]], *hidden)
    assert all(torch.equal(read[name], hidden[layer]) for layer, name in enumerate(names))


# Read rightly ------------------------------------------------------------------------------------


def test_a_model_that_flattens_its_tokens_is_read_by_position(tokens: Tensor) -> None:
    model = small("opt")
    names = [f"blocks.1.{site}" for site in ("hook_resid_pre", "hook_attn_out", MID, POST)]
    pre, attn_out, mid, hidden = model.activations(tokens, names).values()
    assert_close(mid, pre + attn_out)
    assert hidden.shape == (2, 16, 48)
    cfg = HarvestConfig(hook_names=(names[2],), batch_tokens=64, buffer_tokens=128, context_size=16)
    assert next(harvest(model, cfg))[names[2]].shape == (64, 32)


def test_what_a_model_overwrites_later_is_copied_in_time(tokens: Tensor) -> None:
    # Falcon adds attention to the tensor that its MLP gave out: `mlp_output += attention_output`.
    model = small("falcon")
    names = [f"blocks.1.{site}" for site in ("hook_resid_pre", *ADDED, "hook_resid_post")]
    pre, attn_out, mlp_out, post = model.activations(tokens, names).values()
    assert torch.equal(mlp_out, model.activations(tokens, [names[2]])[names[2]])
    assert_close(post, pre + attn_out + mlp_out)
    assert model.finding(names[2]).is_overwritten


def test_a_block_that_returns_a_list_is_read_and_edited(tokens: Tensor) -> None:
    model = small("openai-gpt")
    name = "blocks.2.hook_resid_post"
    hf: Any = model.hf
    assert torch.equal(model.activations(tokens, [name])[name], hf.transformer(tokens)[0])
    assert_close(model.logits(tokens, {name: lambda x: 2 * x}), 2 * model.logits(tokens))


def test_what_is_normalized_is_that_of_a_norm_without_gain_and_bias(tokens: Tensor) -> None:
    for architecture, is_centred in (("gpt2", True), ("gemma", False)):
        model = small(architecture)
        names = [f"blocks.1.{site}" for site in ("hook_resid_pre", "ln1.hook_normalized")]
        x, normalized = (read.double() for read in model.activations(tokens, names).values())
        x = x - x.mean(-1, keepdim=True) if is_centred else x
        eps = 1e-5 if is_centred else 1e-6
        assert_close(normalized, x / (x.square().mean(-1, keepdim=True) + eps).sqrt())


# Refused -----------------------------------------------------------------------------------------


def refusal(model: LanguageModel, hook_name: str) -> str:
    with pytest.raises(InputError) as refused:
        model.width(hook_name)
    assert "\n" not in str(refused.value)
    return str(refused.value)


class Scaling(GPT2Block):
    """Adds half of what its MLP gives out."""

    def forward(self, x: Any, cache: Any = None, mask: Any = None, *_: Any, **__: Any) -> Any:
        mid = x + self.attn(self.ln_1(x), attention_mask=mask)[0]
        return mid + 0.5 * self.mlp(self.ln_2(mid))


class Deaf(GPT2Block):
    """Shows what its MLP gives out, and adds what it has computed apart."""

    def forward(self, x: Any, cache: Any = None, mask: Any = None, *_: Any, **__: Any) -> Any:
        mid = x + self.attn(self.ln_1(x), attention_mask=mask)[0]
        normalized = self.ln_2(mid)
        self.mlp(normalized)
        return mid + self.mlp.forward(normalized)


class Looped(GPT2Block):
    """Goes through its MLP twice."""

    def forward(self, x: Any, cache: Any = None, mask: Any = None, *_: Any, **__: Any) -> Any:
        mid = x + self.attn(self.ln_1(x), attention_mask=mask)[0]
        return mid + self.mlp(self.ln_2(mid + self.mlp(self.ln_2(mid))))


def gpt2_with(block: type[GPT2Block], tiny: LanguageModel) -> LanguageModel:
    """A small GPT-2 whose second block is of another kind."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf: Any = small_gpt2()
    hf.transformer.h[1].__class__ = block
    return LanguageModel("changed", hf, tiny.tokenizer)


def test_post_norm_blocks_are_refused_by_the_identity_and_its_error(tiny: LanguageModel) -> None:
    model = small_model("opt", tiny.tokenizer, do_layer_norm_before=False)
    message = refusal(model, "blocks.1.hook_attn_out")
    assert "resid_pre + attn_out = resid_mid is wrong by 1." in message
    assert " is wrong by 1." in refusal(model, f"blocks.1.{MID}")
    assert model.width("blocks.1.hook_resid_post") == 32


def test_a_block_that_scales_what_it_adds_is_refused_with_the_figure(tiny: LanguageModel) -> None:
    model = gpt2_with(Scaling, tiny)
    message = refusal(model, "blocks.1.hook_mlp_out")
    assert "resid_mid + mlp_out = resid_post is wrong by 0." in message
    (error, *_) = model.finding("blocks.1.hook_mlp_out").identities.values()
    assert 0.05 < error < 0.5 + 1e-6  # half of the MLP's output, by the larger of the two terms
    assert "resid_pre + attn_out = resid_mid" in model.finding(f"blocks.1.{MID}").proven
    assert model.width("blocks.0.hook_mlp_out") == 24  # the first block is as it was


def test_a_site_that_can_be_read_but_not_edited_is_refused(tiny: LanguageModel) -> None:
    model = gpt2_with(Deaf, tiny)
    assert "resid_mid + mlp_out = resid_post is wrong" in refusal(model, "blocks.1.hook_mlp_out")
    assert "it is passed 2 times" in refusal(model, f"blocks.1.{POST}")
    assert model.width("blocks.1.hook_attn_out") == 24


def test_a_module_that_is_passed_several_times_is_no_site(tiny: LanguageModel) -> None:
    model = gpt2_with(Looped, tiny)
    expected = "it is passed 2 times in one forward pass"
    assert expected in refusal(model, "blocks.1.hook_mlp_out")
    assert expected in refusal(model, "module:transformer.h.1.mlp")


def test_a_proof_is_remembered_by_the_weights_and_the_code(
    tiny: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def counting(*arguments: Any) -> dict[str, Finding]:
        asked.append(arguments)
        return prove(*arguments)

    prove = language_model.prove
    monkeypatch.setattr(language_model, "prove", counting)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    hf: Any = small_gpt2()
    first = LanguageModel("first", hf, tiny.tokenizer).proof
    assert LanguageModel("again", hf, tiny.tokenizer).proof == first
    assert len(asked) == 1
    with torch.no_grad():
        hf.transformer.h[0].mlp.c_fc.weight[0, 0] += 1
    assert LanguageModel("other weights", hf, tiny.tokenizer).proof
    assert len(asked) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/no/folder")
    assert LanguageModel("no folder", hf, tiny.tokenizer).proof
    assert len(asked) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    hf.transformer.h[1].__class__ = Scaling  # the same weights, and other code
    other = LanguageModel("other code", hf, tiny.tokenizer).proof
    assert other["blocks.1.hook_mlp_out"].refusal
    assert len(asked) == 4


# Modules as sites --------------------------------------------------------------------------------


def test_a_module_is_a_site_on_either_side(tiny: LanguageModel, tokens: Tensor) -> None:
    same = {
        "module:transformer.h.1": "blocks.1.hook_resid_post",
        "module:transformer.h.1:input": "blocks.1.hook_resid_pre",
        "module:transformer.h.1.mlp.c_proj:input": f"blocks.1.{POST}",
        "module:transformer.h.1.attn:output": "blocks.1.hook_attn_out",
    }
    read = tiny.activations(tokens, [*same, *same.values()])
    for module, site in same.items():
        assert torch.equal(read[module], read[site])
        edited = tiny.logits(tokens, {module: torch.zeros_like})
        assert torch.equal(edited, tiny.logits(tokens, {site: torch.zeros_like}))


def test_a_model_that_transformer_lens_does_not_know_has_its_modules(
    tmp_path: Path, tokens: Tensor
) -> None:
    model = load_model(saved(tmp_path, small_ctrl), device="cpu")
    name = "module:transformer.h.1.ffn"
    assert model.activations(tokens, [name])[name].shape == (2, 16, 16)
    assert "name a module, as module:transformer.h." in refusal(model, "blocks.1.hook_resid_pre")


@pytest.mark.parametrize(
    ("hook_name", "expected"),
    [
        ("module:transformer.h.9.mlp", "has no module 'transformer.h.9.mlp'"),
        ("module:transformer.h.1.mlp:inside", "end it with :input or :output"),
        ("module:lm_head", "no forward pass of the model comes by it"),
        ("module:transformer.drop.x", "has no module 'transformer.drop.x'"),
    ],
)
def test_a_module_that_is_none_is_refused(
    tiny: LanguageModel, hook_name: str, expected: str
) -> None:
    assert expected in refusal(tiny, hook_name)


def test_a_dictionary_is_trained_on_a_module_by_flags(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = called(
        train_script.main,
        *("--hook-name", "module:transformer.h.1.mlp.act", "--d-sae", 32, "--k", 4),
        *("--n-tokens", 1024, "--batch-tokens", 256, "--buffer-tokens", 512),
        *("--eval-tokens", 256, "--wandb", "off", "--out", out),
    )
    assert done.code == 0, done.err
    assert '"d_in": 768' in (out / "sae/cfg.json").read_text()


# As a user sees it -------------------------------------------------------------------------------


def test_the_command_lists_sites_widths_and_what_holds() -> None:
    done = called(models_script.main, "random:mixtral")
    shown = " ".join(done.out.split())
    assert "hook_resid_mid 0-2 32 resid_pre + attn_out = resid_mid" in shown
    assert "mlp.hook_post 0-2 refused: it is what the MLP gives out" in shown
    refused = called(models_script.main, "random:nothing")
    assert refused.code == 2
    assert "no causal language model of type 'nothing'" in refused.err
