"""Train the embedded language model: GPT-2's architecture on installed documentation strings.

The result is what `load_model("tiny")` loads. Figures of the run are in docs/log.md.
"""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from activation_cache.common.errors import InputError, refuse_below, refuse_not_positive
from activation_cache.text.docstrings import docstring_documents
from sae.commands.exits import run_command
from sae.commands.flags import parse

SEPARATOR = "<|endoftext|>"
LEAST_VOCABULARY = 257
PACKAGE_DATA = Path(__file__).parents[1] / "activation_cache" / "data" / "tiny_lm"


@dataclass(frozen=True, kw_only=True)
class TinyLMConfig:
    """Train the embedded language model from scratch on the documentation strings at hand."""

    out: Path = PACKAGE_DATA
    """Folder for the tokenizer, the config and the float16 weights."""
    n_tokens: int = 20_000_000
    """Tokens trained on; the corpus holds about 7.5 million."""
    batch_blocks: int = 16
    """Blocks of `context_size` tokens in each step."""
    context_size: int = 128
    """Tokens in each block, the separator in front included."""
    d_vocab: int = 4096
    """Entries in the byte-level BPE vocabulary, the separator included."""
    muon_lr: float = 0.02
    """Peak learning rate of the matrices inside the blocks (Muon)."""
    adam_lr: float = 3e-3
    """Peak learning rate of embeddings, biases and norms (AdamW)."""
    warmup_steps: int = 200
    """Steps over which the learning rates rise."""
    seed: int = 0
    """Seeds the weights and the order of the blocks."""

    def __post_init__(self) -> None:
        refuse_below(1, n_tokens=self.n_tokens, batch_blocks=self.batch_blocks)
        refuse_below(1, warmup_steps=self.warmup_steps)
        refuse_below(2, context_size=self.context_size)
        refuse_below(0, seed=self.seed)
        if self.n_tokens < self.batch_blocks * self.context_size:
            raise InputError(f"n_tokens {self.n_tokens} are fewer than one step takes")
        if not LEAST_VOCABULARY <= self.d_vocab <= 2**16:
            raise InputError(
                f"d_vocab must be in {LEAST_VOCABULARY}..{2**16}, got {self.d_vocab}: the bytes "
                f"and the separator need that many, and ids have two bytes"
            )
        refuse_not_positive(muon_lr=self.muon_lr, adam_lr=self.adam_lr)
        if os.path.lexists(self.out) and not self.out.is_dir():
            raise InputError(f"{self.out} is no folder: name another one with --out")


def train_tokenizer(texts: list[str], d_vocab: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose separator, as in GPT-2, is also BOS and EOS."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=d_vocab, special_tokens=[SEPARATOR])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token=SEPARATOR,
        eos_token=SEPARATOR,
        unk_token=SEPARATOR,
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    """All documents as one array of ids, a separator in front of each."""
    separator = tokenizer.bos_token_id
    ids = [i for text in tokenizer(texts)["input_ids"] for i in (separator, *text)]
    return np.array(ids, dtype=np.uint16)


def blocks(tokens: np.ndarray, cfg: TinyLMConfig, generator: np.random.Generator) -> Tensor:
    """Random blocks [batch, pos], each opened by the separator as in use."""
    width = cfg.context_size - 1
    starts = generator.integers(0, len(tokens) - width, cfg.batch_blocks)
    rows = np.zeros((cfg.batch_blocks, cfg.context_size), dtype=np.int64)
    for row, start in zip(rows, starts, strict=True):
        row[1:] = tokens[start : start + width]
    return torch.from_numpy(rows)  # the separator has id 0


def bigram_cross_entropy(train: np.ndarray, held_out: np.ndarray, d_vocab: int) -> float:
    """Nats per token of the Witten-Bell smoothed bigram model, the yardstick to beat."""
    unigrams = (np.bincount(train, minlength=d_vocab) + 1.0) / (len(train) + d_vocab)
    pairs = Counter(zip(train[:-1].tolist(), train[1:].tolist(), strict=True))
    totals = np.bincount(train[:-1], minlength=d_vocab)
    kinds = np.zeros(d_vocab)
    for first, _ in pairs:
        kinds[first] += 1
    loss = 0.0
    for first, second in zip(held_out[:-1].tolist(), held_out[1:].tolist(), strict=True):
        backed_off = pairs[first, second] + max(kinds[first], 1) * unigrams[second]
        loss -= math.log(backed_off / (totals[first] + max(kinds[first], 1)))
    return loss / (len(held_out) - 1)


def build_model(cfg: TinyLMConfig) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=cfg.d_vocab,
            n_positions=cfg.context_size,
            n_embd=192,
            n_layer=4,
            n_head=6,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def build_optimizers(model: GPT2LMHeadModel, cfg: TinyLMConfig) -> list[torch.optim.Optimizer]:
    matrices = [p for p in model.transformer.h.parameters() if p.ndim == 2]
    held = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in held]
    return [
        torch.optim.Muon(matrices, lr=cfg.muon_lr, weight_decay=0.01),
        torch.optim.AdamW(others, lr=cfg.adam_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]


@torch.no_grad()
def held_out_cross_entropy(model: GPT2LMHeadModel, tokens: np.ndarray, context_size: int) -> float:
    """Nats per token over the whole held-out split in consecutive blocks."""
    width = context_size - 1
    rows = torch.from_numpy(tokens[: len(tokens) // width * width].astype(np.int64)).view(-1, width)
    rows = torch.cat([torch.zeros(len(rows), 1, dtype=torch.int64), rows], dim=1)
    losses = [model(chunk, labels=chunk).loss.item() * len(chunk) for chunk in rows.split(64)]
    return sum(losses) / len(rows)


def training_steps(
    model: GPT2LMHeadModel, train: np.ndarray, cfg: TinyLMConfig
) -> Iterator[tuple[int, float]]:
    """Yield (step, loss); warm-up, then a linear decay to zero."""
    optimizers = build_optimizers(model, cfg)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    generator = np.random.default_rng(cfg.seed)
    n_steps = cfg.n_tokens // (cfg.batch_blocks * cfg.context_size)
    for step in range(n_steps):
        factor = min((step + 1) / cfg.warmup_steps, 1.0 - step / n_steps)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * factor
        batch = blocks(train, cfg, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        yield step, loss.item()


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot write to {path} ({reason}): name another folder with --out"
        ) from error


def main(arguments: list[str]) -> None:
    cfg = parse(TinyLMConfig, arguments)
    make_folder(cfg.out)
    torch.manual_seed(cfg.seed)
    texts = {split: list(docstring_documents(split)) for split in ("train", "held_out")}
    tokenizer = train_tokenizer(texts["train"], cfg.d_vocab)
    train, held_out = (tokenize(tokenizer, texts[split]) for split in ("train", "held_out"))
    bigram = bigram_cross_entropy(train, held_out, cfg.d_vocab)
    print(f"{len(train):,} training tokens, {len(held_out):,} held out; bigram {bigram:.3f} nats")

    model = build_model(cfg)
    began = time.perf_counter()
    for step, loss in training_steps(model, train, cfg):
        if step % 250 == 0:
            done = step * cfg.batch_blocks * cfg.context_size
            minutes = (time.perf_counter() - began) / 60
            print(f"{done:>12,} tokens {minutes:6.1f} min  loss {loss:.3f}", flush=True)
        if step and step % 2500 == 0:
            ce = held_out_cross_entropy(model, held_out, cfg.context_size)
            print(f"{'held out':>12} {ce:.3f} nats", flush=True)

    half = model.half()
    half.save_pretrained(cfg.out)
    tokenizer.save_pretrained(cfg.out)
    ce = held_out_cross_entropy(half.float(), held_out, cfg.context_size)
    figures = {"held_out_ce": ce, "held_out_bigram_ce": bigram, "n_train_tokens": cfg.n_tokens}
    print(json.dumps(figures))


if __name__ == "__main__":
    run_command(main)
