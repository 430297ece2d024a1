"""What a run reads: a model, and text or a cache of its activations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

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
from activation_cache.model.loading import TINY
from activation_cache.stream.prefetch import Prefetch
from activation_cache.stream.source import of_other_text
from sae.base import SAE, refuse_more_than_memory
from sae.loading import load
from sae.provenance import Provenance
from sae.runs.evaluation import HeldOut, held_out_text, text_metadata
from sae.runs.settings import RunSettings
from sae.trainable import TrainableSAE


@dataclass(frozen=True)
class Inputs:
    """A loaded model, the cache where there is one, and the settings that these complete."""

    settings: RunSettings
    model: LanguageModel
    cache: ActivationCache | None

    @classmethod
    def open(cls, settings: RunSettings, console: Console) -> "Inputs":
        """Load what the settings name; what they leave to the model or the cache is filled in."""
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

    def build(self, settings: RunSettings) -> TrainableSAE:
        """A dictionary for the one site of these settings: fresh, or as another was left."""
        (hook_name,) = settings.hook_names
        sae = settings.dictionary.build(self.model.width(hook_name), seed=settings.seed)
        if (start := _start_of(settings, sae.d_in)) is not None:
            sae.load_state_dict(start.state_dict())
            sae.is_fresh = False
        sae.provenance = self.provenance(settings)
        return sae.to(self.model.device)

    def refuse_unfit(self, settings: RunSettings) -> None:
        """`InputError` for what cannot be trained, without building a dictionary."""
        (hook_name,) = settings.hook_names
        refuse_more_than_memory(settings.dictionary.d_sae, self.model.width(hook_name))
        _start_of(settings, self.model.width(hook_name))
        close(self.stream((hook_name,), settings.training.n_tokens))

    @cached_property
    def held_out(self) -> HeldOut:
        """The text that dictionaries of any site are evaluated on."""
        first = self.settings.but(hook_name=self.settings.hook_names[:1])
        return held_out_text(self.model, self._provenance(first))

    def stream(self, hook_names: Sequence[str], n_tokens: int) -> ActivationStream | Prefetch:
        """Shuffled batches {hook name: [batch_tokens, width]} for at least `n_tokens` tokens."""
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

    def provenance(self, settings: RunSettings) -> Provenance:
        """Where a dictionary of these settings belongs."""
        return replace(self._provenance(settings), eval_text=dict(self.held_out.fingerprint))

    def _provenance(self, settings: RunSettings) -> Provenance:
        """The same without what tells its held-out text from others."""
        (hook_name,) = settings.hook_names
        source: SourceConfig = self.settings.harvest if self.cache is None else self.cache.config
        units = settings.training.coefficient_units
        return Provenance(
            model_name=self.model.name,
            hook_name=hook_name,
            **text_metadata(source),
            context_size=source.context_size,
            prepend_bos=source.prepend_bos,
            all_positions=source.all_positions,
            processing=self.model.processing,
            model_dtype=settings.dtype,
            model_weights=self.model.description["weights"],
            site_proof=self.model.finding(hook_name).proven,
            n_tokens=settings.training.n_tokens,
            eval_tokens=settings.eval_tokens,
            loss_reduction=settings.training.loss_reduction,
            coefficient_units=None if units == "absolute" else units,
            seed=settings.seed,
        )


def close(stream: ActivationStream | Prefetch) -> None:
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
