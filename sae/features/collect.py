"""Every feature at once, from one pass over text."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, overload, runtime_checkable

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.lock import folder_lock
from activation_cache.common.ranks import in_step, rank_and_world
from activation_cache.common.types import TextBatchLike
from activation_cache.common.weights import hash_of
from sae.base import SAE
from sae.features.build import build
from sae.features.config import CollectConfig
from sae.features.folder import FACTS, Features, open_features
from sae.features.gathered import Gatherer
from sae.features.parts import Parts, TextRead, part_of
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
    text: Iterable[TextBatchLike],
    out: str | Path,
    cfg: CollectConfig = ...,
    *,
    progress: bool = ...,
) -> Features: ...
@overload
def collect(
    model: ReadableModel,
    dictionaries: Sequence[SAE[Any]],
    text: Iterable[TextBatchLike],
    out: str | Path,
    cfg: CollectConfig = ...,
    *,
    progress: bool = ...,
) -> list[Features]: ...
def collect(
    model: ReadableModel,
    dictionaries: SAE[Any] | Sequence[SAE[Any]],
    text: Iterable[TextBatchLike],
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

    Under torch.distributed every rank does a share; rank 0 merges them and builds the folder, which
    has the same bytes. All ranks return it. Jobs that are not connected use `gather`.

    Raises `InputError` for dictionaries that do not fit the model, for another text, and on ranks
    that wait for one that has failed.
    """
    cfg = cfg or CollectConfig()
    missing, folders = _missing(model, dictionaries, Path(out))
    rank, world = rank_and_world()
    is_first, progress = rank == 0, progress and rank == 0
    with in_step() as wait_for_all:
        read = _gather(model, missing, text, (rank, world), progress=progress)
        wait_for_all()
        for sae, folder in missing if is_first else ():
            gathered = Parts(folder / COLLECTING, of=hash_of(sae.state_dict())).merged(read)
            build(gathered, sae, model, folder, cfg, progress=progress)
        wait_for_all()
    for folder in folders if is_first else ():
        shutil.rmtree(folder / COLLECTING, ignore_errors=True)
    found = [open_features(folder) for folder in folders]
    return found[0] if isinstance(dictionaries, SAE) else found


def gather(
    model: ReadableModel,
    dictionaries: SAE[Any] | Sequence[SAE[Any]],
    text: Iterable[TextBatchLike],
    out: str | Path,
    share: tuple[int, int],
    *,
    progress: bool = True,
) -> None:
    """Do a share (index, of) of the work of `collect`, where no process group connects the jobs.

    Each job gets the same text and folder, and reads every of-th batch from the index-th on. Then
    one call of `collect` merges what all have done, does what is missing, and builds the folder.

    Raises `InputError` as `collect` does.
    """
    index, n_shares = share
    if not 0 <= index < n_shares:
        raise InputError(f"share must be (index, of) with 0 <= index < of, got {share}")
    missing, _ = _missing(model, dictionaries, Path(out))
    _gather(model, missing, text, share, progress=progress)


def _missing(
    model: ReadableModel, dictionaries: SAE[Any] | Sequence[SAE[Any]], out: Path
) -> tuple[list[tuple[SAE[Any], Path]], list[Path]]:
    """The dictionaries that have no folder yet, with theirs; and the folders of all."""
    saes = [dictionaries] if isinstance(dictionaries, SAE) else list(dictionaries)
    folders = [out] if isinstance(dictionaries, SAE) else _folders(out, saes)
    for sae in saes:
        refuse_other_processing(sae.provenance, model)
    missing = [(s, f) for s, f in zip(saes, folders, strict=True) if not (f / FACTS).exists()]
    if not missing:
        raise InputError(
            f"{out} holds features: sae.features.open reads them; or give a new folder"
        )
    return missing, folders


def _folders(out: Path, saes: Sequence[SAE[Any]]) -> list[Path]:
    names = [str(sae.hook_name) for sae in saes]
    if len(set(names)) < len(names):
        raise InputError("several dictionaries of one site: collect each into a folder of its own")
    return [out / name for name in names]


class _Work:
    """A dictionary with what was gathered for it until now, and where this process writes."""

    def __init__(self, sae: SAE[Any], folder: Path, share: tuple[int, int]) -> None:
        of = hash_of(sae.state_dict())
        self.sae, self.site = sae, _site(sae)
        self.done = Parts(folder, of)
        self.gatherer = Gatherer(part_of(folder, share), of)


@torch.no_grad()
def _gather(
    model: ReadableModel,
    missing: Sequence[tuple[SAE[Any], Path]],
    text: Iterable[TextBatchLike],
    share: tuple[int, int],
    *,
    progress: bool,
) -> TextRead:
    """Run the model and the dictionaries over a share of the text, as far as that is not done."""
    index, n_shares = share
    read = TextRead()
    with ExitStack() as until_done:
        for _, folder in missing:
            until_done.enter_context(folder_lock(part_of(folder / COLLECTING, share)))
        each = [_Work(sae, folder / COLLECTING, share) for sae, folder in missing]
        for number, (tokens, counted, *_) in enumerate(_shown(text, progress=progress)):
            its_text = tokens.cpu().numpy(), counted.cpu().numpy()
            first = read.n_blocks
            read.add(*its_text)
            behind = [(work, work.done.missing(first, *its_text)) for work in each]
            behind = [(work, blocks) for work, blocks in behind if len(blocks)]
            if not behind or number % n_shares != index:
                continue
            found = model.activations(tokens, list(dict.fromkeys(w.site for w, _ in behind)))
            for work, blocks in behind:
                rows = torch.from_numpy(blocks - first).to(tokens.device)
                x, its_counted = found[work.site], counted[rows]
                codes = work.sae.encode_sparse(x[rows.to(x.device)][its_counted.to(x.device)])
                work.gatherer.append(blocks, tokens[rows], its_counted, codes)
        for work in each:
            work.gatherer.save()
    return read


def _site(sae: SAE[Any]) -> str:
    if sae.hook_name is None:
        raise InputError(
            "the dictionary does not know its site: set dictionary.provenance = "
            "sae.Provenance(hook_name=...)"
        )
    return sae.hook_name


def _shown(text: Iterable[TextBatchLike], *, progress: bool) -> Iterator[TextBatchLike]:
    """The batches, with a bar on stderr."""
    n_batches = len(text) if isinstance(text, Sequence) else None
    bar = Progress(console=Console(stderr=True), disable=not progress)
    with bar:
        yield from bar.track(text, total=n_batches, description="collecting features")
