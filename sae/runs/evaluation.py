"""Evaluate dictionaries on held-out text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import xxhash

from activation_cache import LanguageModel, SourceConfig, load_model
from activation_cache.common.dtypes import DTYPES
from activation_cache.common.errors import InputError
from activation_cache.common.schema import convert
from activation_cache.common.types import TextBatch
from activation_cache.model.loading import resolve_device
from activation_cache.stream.arrays import ActivationFiles
from activation_cache.stream.source import ActivationSource
from activation_cache.text.config import TextConfig
from activation_cache.text.record import TextHasChanged
from sae.base import SAE
from sae.evaluation import EvalReport, evaluate_reconstruction, evaluate_sites
from sae.provenance import Provenance

NEEDED = ("model_name", "hook_name", "dataset_path", "context_size", "eval_tokens")
"""What must be known of a dictionary for it to be evaluated."""

EVAL_ROWS = 65_536
"""Held-out activations that a dictionary is evaluated on, where it does not say."""

N_MARKS = 32
"""Hashes of documents that a dictionary is saved with."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out text or activations, and what tells them from any others."""

    batches: Sequence[Any]
    """Tokens, and which of them count; or rows of activations."""
    fingerprint: Mapping[str, Any]
    source: str


def evaluate_dictionary(
    sae: SAE, *, device: str = "auto", other_text: bool = False, compare: bool = False
) -> EvalReport:
    """Load the model that a saved dictionary names, and measure the dictionary on held-out text.

    On the same device this gives the numbers of the run that made it, to the last digit.
    `InputError` where the text is another than then, unless `other_text` says that it may be.
    With `compare`, the report has the numbers in other projects' conventions too.
    """
    known = sae.provenance
    if known.activations_path is not None:
        return _evaluated_on_files(sae, device, other_text=other_text, compare=compare)
    model = model_of(known, device)
    text = text_to_evaluate_on(model, known, other_text=other_text)
    (report,) = evaluate_on_held_out_text([sae.to(model.device)], model, text, compare=compare)
    return replace(report, text={**report.text, "is_other": other_text})


def text_to_evaluate_on(model: LanguageModel, known: Provenance, *, other_text: bool) -> HeldOut:
    """The held-out text of a dictionary; `InputError` where it is another than then, unless it may
    be."""
    try:
        return held_out_text(model, known, None if other_text else known.eval_text)
    except TextHasChanged as error:
        remedy = "evaluate on it as it is with --other-text"
        raise TextHasChanged(error.source, error.what, remedy=remedy) from error


def model_of(known: Provenance, device: str = "auto") -> LanguageModel:
    """The model that a dictionary names; `InputError` where it does not, or that has changed."""
    values = ((name, getattr(known, name)) for name in NEEDED)
    unusable = [(n, v) for n, v in values if not v or (isinstance(v, int) and v < 0)]
    if unusable:
        found = ", ".join(f"{name} ({value!r})" for name, value in unusable)
        raise InputError(f"the dictionary has no usable {found}: give it as a flag")
    model = load_model(
        str(known.model_name),
        device=device,
        dtype=DTYPES[known.model_dtype or "float32"],
        processing=known.processing or "raw",
    )
    if known.model_weights not in (None, model.description["weights"]):
        raise InputError(
            f"the dictionary is for another model than what {model.name} names now: its weights "
            f"have changed since"
        )
    return model


def evaluate_on_held_out_text(
    saes: Sequence[SAE], model: LanguageModel, text: HeldOut, *, compare: bool = False
) -> list[EvalReport]:
    """Reports of dictionaries, in order; those of all sites share the passes of the model."""
    by_site: dict[str, list[SAE]] = {}
    for sae in saes:
        hook_name = str(sae.hook_name)
        if model.width(hook_name) != sae.d_in:
            raise InputError(
                f"the dictionary takes activations of width {sae.d_in}, but {hook_name} of "
                f"{model.name} has width {model.width(hook_name)}: choose the site it was "
                f"trained on"
            )
        by_site.setdefault(hook_name, []).append(sae)
    found = evaluate_sites(by_site, model, text.batches, compare=compare)
    about = {"dataset": text.source, "tokens": text.fingerprint["tokens"], "is_other": False}
    in_order = {site: iter(reports) for site, reports in found.items()}
    return [replace(next(in_order[str(sae.hook_name)]), text=about) for sae in saes]


def held_out_text(
    model: LanguageModel, of: Provenance, expected: Mapping[str, Any] | None = None
) -> HeldOut:
    """The first `eval_tokens` tokens of the held-out text, with the positions that count.

    Where they are not what is `expected`, `TextHasChanged` names the first document that differs.
    """
    assert of.eval_tokens  # NEEDED
    cfg = source_of(of)
    source = ActivationSource(model, cfg)
    blocks = source.token_blocks("held_out", repeat=False)
    if expected is not None:
        blocks.record.load_state_dict(expected)
    batches: list[TextBatch] = []
    tokens_hash = xxhash.xxh3_64()
    for batch in source.text(blocks, of.eval_tokens):
        batches.append(batch)
        tokens_hash.update(batch.tokens.numpy().tobytes())
    fingerprint = {"tokens": tokens_hash.hexdigest(), **blocks.record.state_dict(N_MARKS)}
    if expected is not None and expected.get("tokens") not in (None, fingerprint["tokens"]):
        what = "its documents make other tokens than before, so the tokenizer is another"
        raise TextHasChanged(f"{cfg.source} (held out)", what)
    return HeldOut(batches, fingerprint, cfg.source)


def source_of(of: Provenance) -> SourceConfig:
    """How a dictionary's activations are read, and which text."""
    assert of.hook_name and of.context_size  # NEEDED
    return SourceConfig(
        **asdict(text_of(of)),
        hook_names=(of.hook_name,),
        context_size=of.context_size,
        prepend_bos=of.prepend_bos is not False,
        all_positions=bool(of.all_positions),
    )


# Without a model ---------------------------------------------------------------------------------


def _evaluated_on_files(sae: SAE, device: str, *, other_text: bool, compare: bool) -> EvalReport:
    """Measure a dictionary on held-out activations of the files that it names."""
    known = sae.provenance
    files = ActivationFiles.open(str(known.activations_path), resolve_device(device))
    held_out = held_out_rows(files, known.eval_tokens or EVAL_ROWS)
    if not other_text and known.eval_text and known.eval_text != held_out.fingerprint:
        what, remedy = "its held-out activations are others", "say --other-text"
        raise TextHasChanged(files.source, what, remedy=remedy)
    (report,) = evaluate_on_held_out_rows([sae.to(files.device)], held_out, compare=compare)
    return replace(report, text={**report.text, "is_other": other_text})


def held_out_rows(files: ActivationFiles, n_rows: int) -> HeldOut:
    """The first held-out rows of files."""
    batches = files.held_out(n_rows)
    found = xxhash.xxh3_64()
    for rows in batches:
        found.update(rows.cpu().numpy().tobytes())
    return HeldOut(batches, {"tokens": found.hexdigest()}, files.source)


def evaluate_on_held_out_rows(
    saes: Sequence[SAE], held_out: HeldOut, *, compare: bool = False
) -> list[EvalReport]:
    """Reports of dictionaries, in order: reconstruction and sparsity."""
    about = {"activations": held_out.source, **held_out.fingerprint, "is_other": False}
    reports = (evaluate_reconstruction(sae, held_out.batches, compare=compare) for sae in saes)
    return [replace(report, text=about) for report in reports]


# The text in a dictionary's provenance -----------------------------------------------------------


def text_of(of: Provenance) -> TextConfig:
    """How the text of a dictionary is read; `InputError` where its files say nonsense."""
    plain = {"dataset": of.dataset_path, "text_column": of.text_column}
    given = {name: value for name, value in plain.items() if value is not None}
    settings = {**given, **(of.text_options or {})}
    if isinstance(settings.get("dataset"), str):
        settings["dataset"] = [settings["dataset"]]
    return convert(TextConfig, settings, "text_options")


def text_metadata(cfg: TextConfig) -> dict[str, Any]:
    """The same for the provenance of a dictionary."""
    options = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in ((name, getattr(cfg, name)) for name in asdict(TextConfig()))
        if value != getattr(TextConfig(), name) and name != "text_column"
    }
    if len(cfg.dataset) == 1:
        options.pop("dataset", None)
    return {
        "dataset_path": cfg.dataset[0],
        "text_column": cfg.text_column,
        "text_options": options or None,
    }
