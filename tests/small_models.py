"""Small models with random weights, saved as Hugging Face folders, and how to compare with them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
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

from activation_cache.model.loading import TINY_FOLDER
from activation_cache.model.sites import SITES

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


def flat(x: Tensor) -> Tensor:
    """[batch, pos, width], the heads of hook_z beside each other."""
    return x.flatten(2)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    # Position 0 may be large: 1e-6 of the largest component is what float32 can promise.
    atol = max(1e-4, 1e-6 * expected.abs().max().item())
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-4)
