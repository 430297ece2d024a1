"""What probes are trained on: the features and the activations of texts, pooled over their tokens.

From texts to the table of a comparison:

    texts = probe_sets(["question"])[0]
    pooled = pooled_features(model, {"ours": sae, "random": twin}, texts.texts, hook_name)
    compare(pooled.features, pooled.raw, np.array(texts.labels), texts.documents)

Features are pooled by their maximum by default: what a label hangs on is often one word,
and a mean over a text drowns the one token on which its feature is active. A maximum grows with the
length of a text, so it needs classes of the same lengths, as the sets of `probe_sets` have them.
The mean is what SAEBench takes, for features and activations; sae-probes takes the last token
alone. Raw activations, of which a maximum means little, are always means.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from activation_cache import LanguageModel
from activation_cache.common.errors import InputError, refuse_below
from activation_cache.text.blocks import special_ids
from sae.base import SAE
from sae.provenance import refuse_other_processing

Pool = Literal["mean", "max"]

MAX_TOKENS = 128
"""Of a text, with the first one that is put before it: what is beyond is cut off."""

CHUNK_NUMBERS = 2**24
"""Features, active or not, of the tokens that are encoded at once: 64 MB."""


@dataclass(frozen=True)
class Pooled:
    """A row for each text, in their order."""

    features: Mapping[str, sparse.csr_array]
    """By the name of the dictionary [texts, d_sae], float32."""
    raw: Float[np.ndarray, "texts d_in"]
    """Means over tokens, float32, whatever features are pooled by."""


@torch.no_grad()
def pooled_features(
    model: LanguageModel,
    dictionaries: Mapping[str, SAE[Any]],
    texts: Sequence[str],
    hook_name: str,
    batch_size: int = 32,
    *,
    pool: Pool = "max",
    max_tokens: int = MAX_TOKENS,
) -> Pooled:
    """Features of each dictionary and activations at a site, pooled over the tokens of each text.

    Texts of about the same length are in one pass of `batch_size`. BOS (or EOS) is put in front of
    each, and is left out with every other special token, as position 0 is everywhere. Short texts
    are padded behind, where no real token attends. "max" is the value farthest from 0, for
    features that may be negative. Raises `InputError` for a dictionary that does not fit the site,
    and a text that has no token.
    """
    refuse_below(1, batch_size=batch_size)
    if not texts:
        raise InputError("no texts to pool features of: give some")
    for name, sae in dictionaries.items():
        _refuse_unfit(name, sae, model, hook_name)
    ids = _token_ids(model, texts, max_tokens)
    order = sorted(range(len(texts)), key=lambda row: len(ids[row]))
    raw: list[np.ndarray] = []
    features: dict[str, list[sparse.csr_array]] = {name: [] for name in dictionaries}
    for start in range(0, len(order), batch_size):
        tokens, counted = _padded([ids[row] for row in order[start : start + batch_size]], model)
        x = model.activations(tokens, [hook_name])[hook_name][counted]
        text_of_row = counted.nonzero()[:, 0].cpu().numpy()
        n_tokens = counted.sum(dim=1).cpu().numpy()
        raw.append(_means(x, text_of_row, n_tokens))
        for name, sae in dictionaries.items():
            features[name].append(_pooled(sae, x, text_of_row, n_tokens, pool))
    back = np.argsort(np.array(order))
    rows = {name: _stacked(parts, back) for name, parts in features.items()}
    return Pooled(rows, np.concatenate(raw)[back])


def _token_ids(model: LanguageModel, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Of each text, with the token in front."""
    tokenizer: Any = model.tokenizer
    first = tokenizer.bos_token_id
    first = tokenizer.eos_token_id if first is None else first
    head = [] if first is None else [first]
    most = min(max_tokens, model.max_context_size)
    refuse_below(2, max_tokens=most)
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    ids = [(head + of)[:most] for of in encoded]
    special = set(special_ids(tokenizer).tolist())
    for text, of in zip(texts, ids, strict=True):
        if not set(of[1:]) - special:
            raise InputError(
                f"the text {text[:40]!r} has no token that counts: the first one and special ones "
                f"do not; leave it out"
            )
    return ids


def _padded(
    ids: Sequence[Sequence[int]], model: LanguageModel
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Tokens, and which of them count: all of the texts but the first and special ones."""
    tokens = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.int64)
    counted = torch.zeros_like(tokens, dtype=torch.bool)
    for row, of in enumerate(ids):
        tokens[row, : len(of)] = torch.tensor(of)
        counted[row, 1 : len(of)] = True
    counted &= ~torch.isin(tokens, special_ids(model.tokenizer))
    return tokens.to(model.device), counted.to(model.device)


def _means(
    x: Float[Tensor, "rows d_in"], text_of_row: np.ndarray, n_tokens: np.ndarray
) -> Float[np.ndarray, "texts d_in"]:
    total = np.zeros((len(n_tokens), x.shape[1]))
    np.add.at(total, text_of_row, x.to("cpu", torch.float64).numpy())
    return (total / n_tokens[:, None]).astype(np.float32)


def _pooled(
    sae: SAE[Any],
    x: Float[Tensor, "rows d_in"],
    text_of_row: np.ndarray,
    n_tokens: np.ndarray,
    pool: Pool,
) -> sparse.csr_array:
    """Features [texts, d_sae] of a batch, of its active entries alone."""
    texts, columns, values = _active(sae, x, text_of_row)
    shape = (len(n_tokens), sae.d_sae)
    if pool == "mean":
        # The constructor adds up the tokens of a text, in float64.
        total = sparse.csr_array((values / n_tokens[texts], (texts, columns)), shape=shape)
        return sparse.csr_array(total, dtype=np.float32)
    key = texts * sae.d_sae + columns
    order = np.lexsort((np.abs(values), key))
    is_last = np.append(np.diff(key[order]) > 0, True)[: len(key)]
    kept = order[is_last]
    best = values[kept].astype(np.float32), (texts[kept], columns[kept])
    return sparse.csr_array(best, shape=shape)


def _stacked(parts: list[sparse.csr_array], order: np.ndarray) -> sparse.csr_array:
    whole: Any = sparse.csr_array(sparse.vstack(parts))
    return whole[order]


def _active(
    sae: SAE[Any], x: Float[Tensor, "rows d_in"], text_of_row: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The text, the feature and the value (float64) of each active entry."""
    found: list[tuple[np.ndarray, ...]] = []
    size = max(1, CHUNK_NUMBERS // sae.d_sae)
    for start in range(0, len(x), size):
        codes = sae.encode_sparse(x[start : start + size])
        rows, entries = (codes.values != 0).nonzero(as_tuple=True)
        columns = codes.indices[rows, entries].to("cpu", torch.int64).numpy()
        values = codes.values[rows, entries].to("cpu", torch.float64).numpy()
        found.append((text_of_row[start + rows.cpu().numpy()], columns, values))
    texts, columns, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return texts, columns, values


def _refuse_unfit(name: str, sae: SAE[Any], model: LanguageModel, hook_name: str) -> None:
    refuse_other_processing(sae.provenance, model)
    if sae.hook_name not in (None, hook_name):
        raise InputError(
            f"the dictionary {name} is for {sae.hook_name}, not {hook_name}: give that site"
        )
    width = model.width(hook_name)
    if sae.d_in != width:
        raise InputError(
            f"the dictionary {name} takes activations of width {sae.d_in}, and {hook_name} of "
            f"{model.name} has {width}: give the site and the model that it was trained on"
        )
    if sae.device.type != model.device.type:
        raise InputError(
            f"the dictionary {name} is on {sae.device} and the model on {model.device}: "
            f"dictionary.to({str(model.device)!r})"
        )
