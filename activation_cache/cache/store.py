"""ActivationCache: activations harvested once, read many times, on disk or in object storage."""

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from activation_cache.cache.codec import decoded_dtype
from activation_cache.cache.manifest import FILE, CacheConfig, Manifest, read_manifest, shard_name
from activation_cache.cache.reader import POOL_SHARDS, CacheReader, ReadingOrder, dataset_of
from activation_cache.cache.shard import Damage, Shard, find_damage, open_shard
from activation_cache.cache.storage import Storage
from activation_cache.cache.writer import OnProgress, fill, found_or_new, harvest_again
from activation_cache.common.dtypes import DTYPES
from activation_cache.common.errors import InputError, refuse_below
from activation_cache.common.ranks import of_rank_0
from activation_cache.model.language_model import LanguageModel
from activation_cache.model.loading import load_model
from activation_cache.stream.prefetch import Prefetch
from activation_cache.stream.source import ActivationSource
from activation_cache.text.config import Split

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class RowOrigin:
    """Where one row is from."""

    document: int
    """The number of the document in its split."""
    position: int
    """In the block of `context_size` tokens that the model saw."""
    token_id: int
    context: Tensor
    """The ids of the tokens of its block that are in the cache, up to its own [n]."""


class ActivationCache:
    """Activations of a model at several sites, in checksummed shards below one folder.

    Get one with `create` or `open`. The folder is a path or an fsspec URL (`s3://`, `memory://`,
    `hf://`), and holds `manifest.json` and `train/` and `held_out/` with numbered safetensors
    shards. A file is written aside, synced and renamed, a shard before the manifest that names it,
    so the folder is a valid cache at every instant.
    """

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self._storage = storage
        self.manifest = manifest

    @classmethod
    def open(cls, folder: str | Path, *, read_cache: Path | None = None) -> "ActivationCache":
        """Open a cache for reading; `InputError` where there is none or its manifest was changed.

        `read_cache` is where shards from object storage are copied to on the local disk.
        """
        storage = Storage(folder, read_cache=read_cache)
        return cls(storage, read_manifest(storage))

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model: LanguageModel,
        cfg: CacheConfig,
        *,
        on_progress: OnProgress = lambda progress: None,
    ) -> "ActivationCache":
        """Harvest a cache, or resume one that was interrupted: the shards will be the same.

        `on_progress` hears of every forward pass and every shard. Under torch.distributed all ranks
        call this together and share the work. Raises `InputError` where the folder holds a cache
        with other settings, or another process is writing to it.
        """
        storage = Storage(folder)
        source = ActivationSource(model, cfg)
        with ExitStack() as held:

            def begin() -> Manifest:
                held.enter_context(storage.only_writer())
                storage.remove_leftovers()
                return found_or_new(storage, source, replace(cfg, hook_names=source.cfg.hook_names))

            return cls(storage, fill(storage, source, of_rank_0(begin), on_progress))

    # What is in it -------------------------------------------------------------------------------

    @property
    def folder(self) -> str:
        return self._storage.url

    @property
    def config(self) -> CacheConfig:
        return self.manifest.config

    @property
    def sites(self) -> tuple[str, ...]:
        return self.config.hook_names

    def n_rows(self, split: Split = "train") -> int:
        return self.manifest.splits[split].n_rows

    def load_model(self, *, device: str = "auto") -> LanguageModel:
        """The model that the activations are of; `InputError` where its weights are others now."""
        its: Any = self.manifest.model
        model = load_model(
            its["name"],
            device=device,
            dtype=DTYPES[its["dtype"]],
            revision=its["revision"],
            processing=its["processing"],
        )
        self.refuse_other(model)
        return model

    def refuse_other(self, model: LanguageModel) -> None:
        """Raise `InputError` unless this is the very model that the activations are of."""
        its = {"model": model.description, "tokenizer": model.tokenizer_description}
        self.manifest.refuse_other(self.folder, replace(self.manifest, **its))

    # Reading -------------------------------------------------------------------------------------

    def batches(
        self,
        batch_tokens: int = 1024,
        *,
        sites: Sequence[str] | None = None,
        split: Split = "train",
        shuffle: bool = True,
        seed: int = 0,
        n_tokens: int | None = None,
        n_epochs: int = 1,
        window_tokens: int = 65_536,
        dtype: torch.dtype | None = None,
        prefetch: int = 4,
    ) -> Prefetch:
        """A stream of batches {site: [batch_tokens, width]}, as `harvest` gives one.

        Serves `n_tokens` rows, by default all of them `n_epochs` times. `ReadingOrder` says how
        they are shuffled; without `shuffle` they come in the order of the text. Memory: one window
        of `window_tokens` rows, and `prefetch` batches that a thread prepares. Rows are decoded to
        `dtype`, by default that of the codec (float32 for int8). Raises `InputError` for a site
        that is not there, more rows than there are, and before serving anything from a shard that
        is damaged. Any number of streams can be read at once.
        """
        sites = (sites,) if isinstance(sites, str) else tuple(sites or self.sites)
        self._refuse_absent(sites, split)
        available = self.n_rows(split) * n_epochs
        n_tokens = available if n_tokens is None else n_tokens
        refuse_below(1, batch_tokens=batch_tokens, window_tokens=window_tokens, prefetch=prefetch)
        refuse_below(1, n_epochs=n_epochs, n_tokens=n_tokens)
        if n_tokens > available:
            raise InputError(
                f"the cache {self.folder} holds {available} rows of {split} in {n_epochs} epochs, "
                f"not {n_tokens}: give --epochs {-(-n_tokens // self.n_rows(split))}, or fewer "
                f"tokens"
            )
        shard_rows = self.manifest.splits[split].shard_rows
        reader = CacheReader(
            ReadingOrder(shard_rows, min(window_tokens, sum(shard_rows)), seed, shuffle),
            lru_cache(maxsize=2 * POOL_SHARDS)(lambda number: self.shard(split, number)),
            {site: self.manifest.widths[site] for site in sites},
            dtype or decoded_dtype(self.config.codec),
            batch_tokens=batch_tokens,
            n_tokens=n_tokens,
        )
        return Prefetch(reader, depth=prefetch)

    def origin(self, row: int, split: Split = "train") -> RowOrigin:
        """Where a row is from, counted in the order of the text."""
        if not 0 <= row < self.n_rows(split):
            raise InputError(f"the cache {self.folder} has rows 0 to {self.n_rows(split) - 1}")
        ends = [0, *accumulate(self.manifest.splits[split].shard_rows)]
        number = bisect_right(ends, row) - 1
        row -= ends[number]
        origins = self.shard(split, number).origins()
        start = int(origins.opens_block[: row + 1].nonzero()[-1])
        return RowOrigin(
            document=int(origins.documents[row]),
            position=int(origins.positions[row]),
            token_id=int(origins.token_ids[row]),
            context=origins.token_ids[start : row + 1],
        )

    def _refuse_absent(self, sites: Sequence[str], split: Split) -> None:
        for site in sites:
            if site not in self.sites:
                raise InputError(
                    f"the cache {self.folder} has no site {site}: it holds {', '.join(self.sites)}"
                )
        if not self.n_rows(split):
            raise InputError(
                f"the cache {self.folder} holds no rows of the split {split}: harvest one with some"
            )

    def shard(self, split: Split, number: int) -> Shard:
        """One shard, as it lies on the disk; its tensors are checked as they are taken out."""
        return open_shard(self._storage, self.manifest, split, number)

    # Integrity -----------------------------------------------------------------------------------

    def verify(self) -> list[Damage]:
        """Everything that is not as it was written, down to a flipped bit; empty if all is well."""
        return find_damage(self._storage, self.manifest)

    def repair(
        self, model: LanguageModel, *, on_progress: OnProgress = lambda progress: None
    ) -> list[Damage]:
        """Harvest the damaged shards again, and nothing else; what is damaged still comes back.

        On other hardware or with other library versions activations may differ in their last bits;
        then the manifest takes the new checksums. The text must be the same.
        """
        self.refuse_other(model)
        with self._storage.only_writer():
            self.manifest = read_manifest(self._storage)  # a harvest may have gone on since
            source = ActivationSource(model, self.config)
            for damage in self.verify():
                if damage.shard is not None:
                    self.manifest = harvest_again(
                        self._storage, source, self.manifest, *damage.shard, on_progress
                    )
            return self.verify()

    # Elsewhere -----------------------------------------------------------------------------------

    def copy_to(self, folder: str | Path) -> "ActivationCache":
        """Copy the cache to another folder or fsspec URL, such as `hf://datasets/user/name`.

        Every shard is checked on the way. `open` reads the copy from there.
        """
        target = Storage(folder)
        if target.exists(FILE):
            raise InputError(f"{folder} holds a cache already: name another folder")
        for split, number in self.manifest.shards():
            shard = self.shard(split, number)
            shard.check()
            target.write(shard_name(split, number), shard.path.read_bytes())
        target.write(FILE, self.manifest.to_bytes())
        return ActivationCache(target, self.manifest)

    def to_dataset(self, site: str, split: Split = "train") -> "datasets.Dataset":
        """One site as a Hugging Face dataset: activation (float32), token_id, position, document.

        The rows come in the order of the text; `datasets` keeps them in its own cache on disk.
        """
        self._refuse_absent([site], split)
        return dataset_of(self._storage, self.manifest, site, split)
