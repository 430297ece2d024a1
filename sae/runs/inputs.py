"""What a run reads: a model with text or a cache of its activations, or activations in files."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from rich.console import Console

from activation_cache import (
    ActivationCache,
    ActivationStream,
    LanguageModel,
    SourceConfig,
    harvest,
    load_model,
)
from activation_cache.common.dtypes import DTYPES
from activation_cache.common.errors import InputError
from activation_cache.model.loading import TINY, resolve_device
from activation_cache.stream.arrays import SITE, ActivationFiles, ArrayStream
from activation_cache.stream.prefetch import Prefetch
from activation_cache.stream.source import of_other_text
from activation_cache.text.record import TextHasChanged
from sae.base import SAE, refuse_more_than_memory
from sae.evaluation import EvalReport
from sae.loading import load
from sae.provenance import Provenance
from sae.runs.evaluation import (
    HeldOut,
    evaluate_on_held_out_rows,
    evaluate_on_held_out_text,
    held_out_rows,
    held_out_text,
    text_metadata,
)
from sae.runs.settings import RunSettings
from sae.trainable import TrainableSAE

Stream = ActivationStream | ArrayStream | Prefetch


@dataclass(frozen=True)
class Inputs(ABC):
    """What dictionaries are trained and evaluated on, and the settings that it completes."""

    settings: RunSettings

    @staticmethod
    def open(settings: RunSettings, console: Console) -> "Inputs":
        """Load what the settings name; what they leave open is filled in."""
        if settings.activations is not None:
            return FileInputs.of(settings, console)
        return ModelInputs.of(settings, console)

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @property
    @abstractmethod
    def itemsize(self) -> int:
        """Bytes of a component in the shuffle buffer."""

    @property
    def cache(self) -> ActivationCache | None:
        return None

    @property
    @abstractmethod
    def default_site(self) -> str: ...

    @abstractmethod
    def width(self, hook_name: str) -> int: ...

    @cached_property
    @abstractmethod
    def held_out(self) -> HeldOut:
        """What dictionaries of any site are evaluated on."""

    @abstractmethod
    def evaluate(self, saes: Sequence[SAE]) -> list[EvalReport]:
        """Reports of dictionaries of one site, in order."""

    @abstractmethod
    def refuse_other_held_out(self, now: Provenance, expected: Mapping[str, Any] | None) -> None:
        """`InputError` where what was held out is no longer the same; it says where."""

    @abstractmethod
    def stream(self, hook_names: Sequence[str], n_tokens: int) -> Stream:
        """Shuffled batches {hook name: [batch_tokens, width]} for at least `n_tokens` tokens."""

    @abstractmethod
    def origin(self, settings: RunSettings) -> dict[str, Any]:
        """Where the activations of a dictionary are from, for its provenance."""

    def build(self, settings: RunSettings) -> TrainableSAE:
        """A dictionary for the one site of these settings: fresh, or as another was left."""
        (hook_name,) = settings.hook_names
        sae = settings.dictionary.build(self.width(hook_name), seed=settings.seed)
        if (start := _start_of(settings, sae.d_in)) is not None:
            sae.load_state_dict(start.state_dict())
            sae.is_fresh = False
        sae.provenance = self.provenance(settings)
        return sae.to(self.device)

    def refuse_unfit(self, settings: RunSettings) -> None:
        """`InputError` for what cannot be trained, without building a dictionary."""
        (hook_name,) = settings.hook_names
        refuse_more_than_memory(settings.dictionary.d_sae, self.width(hook_name))
        _start_of(settings, self.width(hook_name))
        close(self.stream((hook_name,), settings.training.n_tokens))

    def provenance(self, settings: RunSettings) -> Provenance:
        """Where a dictionary of these settings belongs."""
        (hook_name,) = settings.hook_names
        units = settings.training.coefficient_units
        return Provenance(
            hook_name=hook_name,
            **self.origin(settings),
            n_tokens=settings.training.n_tokens,
            eval_tokens=settings.eval_tokens,
            eval_text=dict(self.held_out.fingerprint),
            loss_reduction=settings.training.loss_reduction,
            coefficient_units=None if units == "absolute" else units,
            seed=settings.seed,
        )


@dataclass(frozen=True)
class ModelInputs(Inputs):
    """A language model, and text or a cache of its activations."""

    model: LanguageModel
    its_cache: ActivationCache | None

    @classmethod
    def of(cls, settings: RunSettings, console: Console) -> "ModelInputs":
        cache = None if settings.cache is None else ActivationCache.open(settings.cache)
        if cache is not None:
            settings = settings.of_cache(cache)
        name = settings.model or TINY
        console.print(f"loading the model {name}", markup=False)
        if cache is not None:
            model = cache.load_model(device=settings.device)
        else:
            model = load_model(name, device=settings.device, dtype=DTYPES[settings.dtype])
            if (warning := of_other_text(name, settings.harvest)) is not None:
                console.print(warning, markup=False, soft_wrap=True)
        hook_names = settings.hook_names or (model.middle_site,)
        return cls(settings.but(model=name, hook_name=hook_names), model, cache)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def itemsize(self) -> int:
        return self.model.dtype.itemsize

    @property
    def cache(self) -> ActivationCache | None:
        return self.its_cache

    @property
    def default_site(self) -> str:
        return self.model.middle_site

    def width(self, hook_name: str) -> int:
        return self.model.width(hook_name)

    @cached_property
    def held_out(self) -> HeldOut:
        first = self.settings.but(hook_name=self.settings.hook_names[:1])
        (hook_name,) = first.hook_names
        origin = self.origin(first)
        of = Provenance(hook_name=hook_name, eval_tokens=first.eval_tokens, **origin)
        return held_out_text(self.model, of)

    def evaluate(self, saes: Sequence[SAE]) -> list[EvalReport]:
        return evaluate_on_held_out_text(saes, self.model, self.held_out)

    def refuse_other_held_out(self, now: Provenance, expected: Mapping[str, Any] | None) -> None:
        held_out_text(self.model, now, expected)

    def stream(self, hook_names: Sequence[str], n_tokens: int) -> Stream:
        cfg = self.settings.harvest
        if self.cache is None:
            return harvest(self.model, replace(cfg, hook_names=tuple(hook_names)))
        return self.cache.batches(
            cfg.batch_tokens,
            sites=hook_names,
            seed=cfg.seed,
            n_tokens=n_tokens,
            n_epochs=self.settings.epochs,
            window_tokens=cfg.buffer_tokens,
        )

    def origin(self, settings: RunSettings) -> dict[str, Any]:
        (hook_name,) = settings.hook_names
        source: SourceConfig = self.settings.harvest if self.cache is None else self.cache.config
        return {
            "model_name": self.model.name,
            **text_metadata(source),
            "context_size": source.context_size,
            "prepend_bos": source.prepend_bos,
            "all_positions": source.all_positions,
            "processing": self.model.processing,
            "model_dtype": settings.dtype,
            "model_weights": self.model.description["weights"],
            "site_proof": self.model.finding(hook_name).proven,
        }


@dataclass(frozen=True)
class FileInputs(Inputs):
    """Activations in files, and no language model."""

    files: ActivationFiles

    @classmethod
    def of(cls, settings: RunSettings, console: Console) -> "FileInputs":
        assert settings.activations is not None
        console.print(f"opening {settings.activations}", markup=False, soft_wrap=True)
        files = ActivationFiles.open(settings.activations, resolve_device(settings.device))
        hook_names = settings.hook_names or (SITE,)
        if len(hook_names) > 1:
            raise InputError("activations of a file are of one site: name one --hook-name, or none")
        n_tokens = settings.n_tokens or files.n_train
        return cls(settings.but(n_tokens=n_tokens, hook_name=hook_names), files)

    @property
    def device(self) -> torch.device:
        return self.files.device

    @property
    def itemsize(self) -> int:
        return torch.float32.itemsize

    @property
    def default_site(self) -> str:
        return SITE

    def width(self, hook_name: str) -> int:
        return self.files.width

    @cached_property
    def held_out(self) -> HeldOut:
        return held_out_rows(self.files, self.settings.eval_tokens)

    def evaluate(self, saes: Sequence[SAE]) -> list[EvalReport]:
        return evaluate_on_held_out_rows(saes, self.held_out)

    def refuse_other_held_out(self, now: Provenance, expected: Mapping[str, Any] | None) -> None:
        raise TextHasChanged(self.files.source, "its held-out activations are others")

    def stream(self, hook_names: Sequence[str], n_tokens: int) -> Stream:
        cfg, (site,) = self.settings.harvest, hook_names
        sizes = {"batch_tokens": cfg.batch_tokens, "buffer_tokens": cfg.buffer_tokens}
        return ArrayStream(self.files, site, **sizes, seed=cfg.seed)

    def origin(self, settings: RunSettings) -> dict[str, Any]:
        return {"activations_path": self.files.source}


def close(stream: Stream) -> None:
    """Let go of a stream that nobody reads any more."""
    if isinstance(stream, Prefetch):
        stream.close()


def _start_of(settings: RunSettings, d_in: int) -> SAE | None:
    """The dictionary whose weights are the start; `InputError` where it is of another kind."""
    if settings.start_from is None:
        return None
    start = load(settings.start_from)
    ours, theirs = (
        f"{of.architecture}{', tied' if of.tied else ''}, {width} to {of.d_sae}"
        for of, width in ((settings.dictionary, d_in), (start.cfg, start.d_in))
    )
    if ours != theirs:
        raise InputError(
            f"start_from {settings.start_from} is a dictionary of another kind ({theirs}) than "
            f"what is to be trained ({ours}): start from one of the same architecture and size"
        )
    return start
