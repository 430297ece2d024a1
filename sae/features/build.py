"""The folder of a dictionary's features, from what was gathered of the text."""

import json
from dataclasses import asdict
from itertools import pairwise
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
from activation_cache.common.weights import hash_of
from sae.base import SAE
from sae.features.config import CollectConfig
from sae.features.contexts import SCHEMA, contexts
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
from sae.features.summary import Group, by_feature, statistics
from sae.features.together import Together
from sae.features.weights import direct_logits_of, of_logits, of_weights
from sae.features.words import words_of


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
    tensors = {name: torch.from_numpy(of_all) for name, of_all in numbers.items()}
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
        dictionary=hash_of(sae.state_dict()),
    )
    write_json(folder / FACTS, facts.to_dict())


def _summed_up(
    gathered: Gathered, sae: SAE[Any], path: Path, cfg: CollectConfig, *, progress: bool
) -> dict[str, Array]:
    """Numbers of each feature; their contexts are written to the table at `path`."""
    tokens, n_counted = gathered.array("tokens"), int(gathered.array("counted").sum())
    context_size = gathered.state["context_size"]
    together = Together(gathered, sae.d_sae, cfg)
    found: list[dict[str, Array]] = []
    rows = SCHEMA.empty_table()
    console = Console(stderr=True)
    with (
        Progress(console=console, disable=not progress) as bar,
        replacing(path) as written,
        ParquetWriter(written, SCHEMA) as table,
    ):
        task = bar.add_task("summing up", total=sae.d_sae)
        for group in by_feature(gathered, sae.d_sae):
            found.append(statistics(group, tokens, n_counted, cfg) | together.of(group))
            rows = pyarrow.concat_tables([rows, contexts(group, tokens, context_size, cfg)])
            rows = _write_whole(table, rows.combine_chunks(), group, sae.d_sae)
            bar.advance(task, len(group))
    return {name: np.concatenate([its[name] for its in found]) for name in found[0]}


def _write_whole(
    table: ParquetWriter, rows: pyarrow.Table, last: Group, d_sae: int
) -> pyarrow.Table:
    """Write the row groups whose features are all there; what is left for the next ones."""
    done = last.first + len(last)
    begin = last.first - last.first % FEATURES_IN_GROUP
    ends = list(range(begin, done + 1, FEATURES_IN_GROUP))
    if done == d_sae and done % FEATURES_IN_GROUP:
        ends.append(done)
    at = np.searchsorted(rows.column("feature").to_numpy(), ends)
    for start, end in pairwise(at.tolist()):
        table.write_table(rows.slice(start, end - start))
    return rows.slice(at[-1])
