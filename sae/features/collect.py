"""Every feature at once, from one pass over text."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, overload, runtime_checkable

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.weights import hash_of
from sae.base import SAE
from sae.evaluation.evaluate import TextBatch
from sae.features.build import build
from sae.features.config import CollectConfig
from sae.features.folder import FACTS, Features, open_features
from sae.features.gathered import Gathered, Gatherer
from sae.provenance import refuse_other_processing

COLLECTING = "collecting"
"""The part of a folder that is there while its features are collected."""


@runtime_checkable
class ReadableModel(Protocol):
    """A language model whose activations can be read at hook names.

    One that has `direct_effect(hook_name)` also shows what features do to the logits, and one that
    has a `tokenizer` the text of tokens.
    """

    def activations(self, tokens: Tensor, hook_names: Sequence[str]) -> Mapping[str, Tensor]: ...


@overload
def collect(
    model: ReadableModel,
    dictionaries: SAE[Any],
    text: Iterable[TextBatch],
    out: str | Path,
    cfg: CollectConfig = ...,
    *,
    progress: bool = ...,
) -> Features: ...
@overload
def collect(
    model: ReadableModel,
    dictionaries: Sequence[SAE[Any]],
    text: Iterable[TextBatch],
    out: str | Path,
    cfg: CollectConfig = ...,
    *,
    progress: bool = ...,
) -> list[Features]: ...
def collect(
    model: ReadableModel,
    dictionaries: SAE[Any] | Sequence[SAE[Any]],
    text: Iterable[TextBatch],
    out: str | Path,
    cfg: CollectConfig | None = None,
    *,
    progress: bool = True,
) -> Features | list[Features]:
    """What every feature responds to and does, written to the folder `out`.

    `text` is batches of tokens [batch, pos] with a mask of those that count, all of the same
    length. Of several dictionaries, each has a folder in `out`, called by its site. While it runs,
    the active features of all tokens are on disk there, 8 bytes each; in memory is a part of
    them. If it is interrupted, the same call resumes it: the text is read again, the model is not
    run on what is done. Contexts are exact, whatever the batches: among equal values the earlier
    token comes first.

    Raises `InputError` for dictionaries that do not fit the model, and for another text.
    """
    cfg = cfg or CollectConfig()
    several = not isinstance(dictionaries, SAE)
    saes = list(dictionaries) if several else [dictionaries]  # type: ignore[arg-type]
    folders = _folders(Path(out), saes) if several else [Path(out)]
    for sae in saes:
        refuse_other_processing(sae.provenance, model)
    missing = [(s, f) for s, f in zip(saes, folders, strict=True) if not (f / FACTS).exists()]
    if not missing:
        raise InputError(
            f"{out} holds features: sae.features.open reads them; or give a new folder"
        )
    _gather(model, missing, text, progress=progress)
    for sae, folder in missing:
        build(Gathered(folder / COLLECTING), sae, model, folder, cfg, progress=progress)
    for folder in folders:
        shutil.rmtree(folder / COLLECTING, ignore_errors=True)
    found = [open_features(folder) for folder in folders]
    return found if several else found[0]


def _folders(out: Path, saes: Sequence[SAE[Any]]) -> list[Path]:
    names = [str(sae.hook_name) for sae in saes]
    if len(set(names)) < len(names):
        raise InputError("several dictionaries of one site: collect each into a folder of its own")
    return [out / name for name in names]


@torch.no_grad()
def _gather(
    model: ReadableModel,
    missing: Sequence[tuple[SAE[Any], Path]],
    text: Iterable[TextBatch],
    *,
    progress: bool,
) -> None:
    """Run the model and the dictionaries over the text, as far as that is not done."""
    each = [
        (sae, _site(sae), Gatherer(folder / COLLECTING, of=hash_of(sae.state_dict())))
        for sae, folder in missing
    ]
    n_seen = 0
    for tokens, counted in _shown(text, progress=progress):
        first, n_seen = n_seen, n_seen + len(tokens)
        behind = [its for its in each if not its[2].has(tokens, first)]
        if not behind:
            continue
        found = model.activations(tokens, list(dict.fromkeys(site for _, site, _ in behind)))
        for sae, site, gatherer in behind:
            rows = found[site][counted.to(found[site].device)]
            gatherer.append(tokens, counted, sae.encode_sparse(rows))
    for _, _, gatherer in each:
        gatherer.end(n_seen)


def _site(sae: SAE[Any]) -> str:
    if sae.hook_name is None:
        raise InputError(
            "the dictionary does not know its site: set dictionary.provenance = "
            "sae.Provenance(hook_name=...)"
        )
    return sae.hook_name


def _shown(text: Iterable[TextBatch], *, progress: bool) -> Iterator[TextBatch]:
    """The batches, with a bar on stderr."""
    n_batches = len(text) if isinstance(text, Sequence) else None
    bar = Progress(console=Console(stderr=True), disable=not progress)
    with bar:
        yield from bar.track(text, total=n_batches, description="collecting features")
