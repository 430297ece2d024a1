"""The folder of a dictionary's features, from what was gathered of the text."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from pyarrow.parquet import ParquetWriter
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file

from activation_cache.common.errors import InputError
from activation_cache.common.files import replacing, write_file, write_json
from sae.base import SAE
from sae.features.config import CollectConfig
from sae.features.folder import (
    FACTS,
    FEATURES_IN_GROUP,
    SCHEMA_VERSION,
    TABLE,
    TENSORS,
    WORDS,
    FolderFacts,
)
from sae.features.gathered import Array, Gathered
from sae.features.summary import Active, around, by_feature, contexts, statistics
from sae.features.together import Together
from sae.features.weights import direct_logits_of, of_logits, of_weights
from sae.features.words import words_of

CONTEXT_TYPES = {
    "feature": "int32",
    "kind": "string",
    "position": "int64",
    "value": "float32",
    "at": "int32",
    "token_ids": "list<int32>",
    "values": "list<float>",
}


@torch.no_grad()
def build(
    gathered: Gathered,
    sae: SAE[Any],
    model: Any,
    folder: Path,
    cfg: CollectConfig,
    *,
    progress: bool,
) -> None:
    """Write the folder; its facts come last, so that one that has them is whole."""
    counted = gathered.array("counted")
    if not counted.any():
        raise InputError("no token of the text counts: give more text")
    numbers = _summed_up(gathered, sae, folder / TABLE, cfg, progress=progress)
    tensors = {name: torch.from_numpy(np.stack(rows)) for name, rows in numbers.items()}
    tensors |= of_weights(sae, cfg.n_neighbours)
    if (direct_logits := direct_logits_of(sae, model)) is not None:
        tensors |= of_logits(sae.W_dec, direct_logits, cfg.n_tokens)
    with replacing(folder / TENSORS) as path:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    tokenizer = getattr(model, "tokenizer", None)
    write_file(folder / WORDS, json.dumps(words_of(tokenizer) if tokenizer else []))
    facts = FolderFacts(
        schema_version=SCHEMA_VERSION,
        d_sae=sae.d_sae,
        n_tokens=int(counted.sum()),
        context_size=gathered.state["context_size"],
        hook_name=sae.hook_name,
        provenance=sae.provenance.to_metadata(),
        shown=asdict(cfg),
        dictionary=gathered.state["of"],
    )
    write_json(folder / FACTS, facts.to_dict())


def _summed_up(
    gathered: Gathered, sae: SAE[Any], path: Path, cfg: CollectConfig, *, progress: bool
) -> dict[str, list[Array]]:
    """Numbers of each feature; their contexts are written to the table at `path`."""
    tokens, n_counted = gathered.array("tokens"), int(gathered.array("counted").sum())
    context_size = gathered.state["context_size"]
    together = Together(gathered, sae.d_sae, cfg)
    numbers: dict[str, list[Array]] = {}
    schema = pyarrow.schema([(n, _arrow(kind)) for n, kind in CONTEXT_TYPES.items()])
    rows: list[dict[str, Any]] = []
    console = Console(stderr=True)
    with (
        Progress(console=console, disable=not progress) as bar,
        replacing(path) as written,
        ParquetWriter(written, schema) as table,
    ):
        each = bar.track(by_feature(gathered, sae.d_sae), sae.d_sae, description="summing up")
        for feature, active in enumerate(each):
            its = statistics(active, tokens, n_counted, cfg) | together.of(feature, active)
            for name, value in its.items():
                numbers.setdefault(name, []).append(np.asarray(value))
            rows += _contexts(feature, active, tokens, context_size, cfg)
            if feature % FEATURES_IN_GROUP == FEATURES_IN_GROUP - 1 or feature == sae.d_sae - 1:
                table.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows.clear()
    return numbers


def _arrow(kind: str) -> pyarrow.DataType:
    inner = kind.removeprefix("list<").removesuffix(">")
    plain = pyarrow.type_for_alias(inner)
    return plain if inner == kind else pyarrow.list_(plain)


def _contexts(
    feature: int, active: Active, tokens: Array, context_size: int, cfg: CollectConfig
) -> Iterator[dict[str, Any]]:
    for kind, position, value in contexts(active, context_size, cfg):
        block = position - position % context_size
        start = max(block, position - cfg.tokens_before)
        end = min(block + context_size, position + cfg.tokens_after + 1)
        yield {
            "feature": feature,
            "kind": kind,
            "position": position,
            "value": value,
            "at": position - start,
            "token_ids": tokens[start:end],
            "values": around(active, start, end),
        }
