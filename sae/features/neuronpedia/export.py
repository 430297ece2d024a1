"""Write the features of a folder as Neuronpedia takes them, some hundred at a time."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from activation_cache.common.errors import InputError
from activation_cache.common.files import replacing
from sae.base import SAE
from sae.features.folder import Features
from sae.features.neuronpedia.dashboard import Dashboards, pieces_of
from sae.features.neuronpedia.rows import activations, neuron, tables
from sae.features.neuronpedia.source import SourceName
from sae.features.weights import direct_logits_of

FEATURES_IN_FILE = 256
"""They are in memory together, with their contexts: some MB."""


def to_neuronpedia(
    features: Features,
    dictionary: SAE[Any],
    name: str,
    out: str | Path,
    *,
    model: Any = None,
    progress: bool = True,
) -> Path:
    """Write what Neuronpedia shows of every feature, and return the folder of its bulk import.

    `name` is what the dictionary is called there: MODEL_ID/SOURCE, as in gpt2-small/4-res-mine.
    The folders are out/exports/MODEL_ID/SOURCE, with a row for each feature and each context, and
    out/batches/MODEL_ID/SOURCE, with the same in the form that SAEDashboard writes. Those of an
    earlier export under this name are replaced, at the end. With a model, tokens are the pieces of
    its tokenizer, as in all of Neuronpedia, and there are histograms of logits.

    `InputError` for a name of another form, and for a dictionary that the features are not of.
    """
    its = SourceName.parse(name)
    _refuse_another(features, dictionary)
    words = pieces_of(features, getattr(model, "tokenizer", None))
    dashboards = Dashboards(features, dictionary, words, direct_logits_of(dictionary, model))
    exports, batches = (
        Path(out) / kind / its.model_id / its.source_id for kind in ("exports", "batches")
    )
    with replacing(exports) as rows, replacing(batches) as files:
        for folder in (files, rows / "features", rows / "activations"):
            folder.mkdir(parents=True)
        n_layers = getattr(model, "n_layers", 0)
        for table, row in tables(its, features.facts, dashboards.prompts, n_layers).items():
            (rows / f"{table}.jsonl").write_text(_line(row))
        _write_features(features, dictionary, its, dashboards, rows, files, progress=progress)
    return exports


def _write_features(
    features: Features,
    dictionary: SAE[Any],
    its: SourceName,
    dashboards: Dashboards,
    rows: Path,
    files: Path,
    *,
    progress: bool,
) -> None:
    hook_name = dictionary.provenance.hook_name_out or dictionary.hook_name
    starts = range(0, len(features), FEATURES_IN_FILE)
    bar = Progress(console=Console(stderr=True), disable=not progress)
    with bar:
        for number, start in enumerate(bar.track(starts, description="writing for Neuronpedia")):
            made = dashboards.of(range(start, min(start + FEATURES_IN_FILE, len(features))))
            batch = {
                "model_id": its.model_id,
                "layer": its.layer,
                "sae_set": its.set_name,
                "sae_id_suffix": its.suffix,
                "features": made,
            }
            (files / f"batch-{number}.json").write_text(_line(batch))
            path = f"batch-{number}.jsonl.gz"
            neurons = (neuron(its, features[d["feature_index"]], d, hook_name) for d in made)
            _write_lines(rows / "features" / path, neurons)
            contexts = [row for dashboard in made for row in activations(its, dashboard)]
            if contexts:  # the import cannot read a file without a line
                _write_lines(rows / "activations" / path, contexts)


def _refuse_another(features: Features, dictionary: SAE[Any]) -> None:
    norms, its_norms = features.numbers("decoder_norm"), dictionary.W_dec.norm(dim=1).cpu()
    same_size = len(norms) == len(its_norms)
    if not same_size or not torch.allclose(norms.float(), its_norms.float(), rtol=1e-2):
        raise InputError(
            f"{features.folder} holds the features of another dictionary: collect those of this "
            f"one into another folder"
        )


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Compressed, without the time, so that the same rows are the same bytes."""
    with path.open("wb") as file, gzip.GzipFile("", "wb", 5, file, mtime=0) as lines:
        lines.writelines(_line(row).encode() for row in rows)


def _line(row: Mapping[str, Any]) -> str:
    """In ASCII, whatever the tokens are, and on one line."""
    return json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n"
