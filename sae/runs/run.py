"""From settings to run folders: model, stream, dictionaries, training, evaluation, report."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from activation_cache import (
    ActivationCache,
    ActivationStream,
    LanguageModel,
    SourceConfig,
    harvest,
    load_model,
)
from activation_cache.models import TINY
from activation_cache.prefetch import Prefetch
from sae.base import SAE
from sae.errors import InputError
from sae.evaluation import EvalReport
from sae.evaluation.evaluate import TextBatch
from sae.runs.errors import BAD_INPUT
from sae.runs.evaluation import evaluate_on_held_out_text, held_out_batches
from sae.runs.report import write_report
from sae.runs.settings import DTYPES, RunSettings, describe
from sae.runs.sinks import ConsoleSink, JsonLinesSink, Row, Sink
from sae.serialization import save
from sae.training import StepRecord, train


@dataclass(frozen=True)
class RunResult:
    """One trained dictionary and the folder that holds everything about it."""

    hook_name: str
    folder: Path
    sae: SAE
    report: EvalReport


def run(settings: RunSettings, console: Console | None = None) -> list[RunResult]:
    """Train a dictionary at every site, evaluate each on held-out text, and write the run folders.

    One site is written to `settings.out` itself, several to a folder each below it. An interrupted
    run (KeyboardInterrupt) keeps the dictionaries as they are; a run that is refused
    (`InputError`) leaves no folder behind.
    """
    console = console or Console(quiet=True)
    if settings.out.exists():
        raise InputError(f"the run folder {settings.out} exists: name another one with --out")
    cache = None if settings.cache is None else ActivationCache.open(settings.cache)
    if cache is not None:
        settings = settings.of_cache(cache)
    model = _load_model(settings, cache, console)
    hook_names = settings.hook_names(model)
    source = cache.config if cache is not None else settings.harvest_config(hook_names)
    saes = [_build(settings, model, hook_name, source) for hook_name in hook_names]
    stream = _stream(settings, model, cache, hook_names)
    console.print(f"reading text from {settings.dataset}")
    held_out = held_out_batches(model, saes[0].metadata)
    folders = [settings.out / name if len(saes) > 1 else settings.out for name in hook_names]
    with _fresh_folders(settings.out, folders), ExitStack() as closing:
        sinks: list[list[Sink]] = []
        for folder, hook_name in zip(folders, hook_names, strict=True):
            (folder / "config.json").write_text(describe(settings, hook_name) + "\n")
            sinks.append(_sinks(settings, folder, hook_name))
            for sink in sinks[-1]:
                closing.callback(sink.close)
        if isinstance(stream, Prefetch):
            closing.callback(stream.close)
        records = train(saes, stream, settings.train_config())
        try:
            _log(records, settings, hook_names, sinks, console)
        finally:
            records.close()  # folds the scale of the input into the weights
            for sae, folder in zip(saes, folders, strict=True):
                save(sae, folder / "sae")
        console.print("evaluating on held-out text")
        return [
            _evaluate(sae, model, held_out, folder, its_sinks)
            for sae, folder, its_sinks in zip(saes, folders, sinks, strict=True)
        ]


def _evaluate(
    sae: SAE,
    model: LanguageModel,
    held_out: Sequence[TextBatch],
    folder: Path,
    sinks: Sequence[Sink],
) -> RunResult:
    report = evaluate_on_held_out_text(sae, model, held_out)
    (folder / "eval.json").write_text(report.to_json() + "\n")
    for sink in sinks:
        sink.finish(report.metrics())
    write_report(folder)
    return RunResult(str(sae.hook_name), folder, sae, report)


def _load_model(
    settings: RunSettings, cache: ActivationCache | None, console: Console
) -> LanguageModel:
    name = settings.model or TINY
    console.print(f"loading the model {name}")
    if cache is not None:
        return cache.load_model(device=settings.device)
    return load_model(name, device=settings.device, dtype=DTYPES[settings.dtype])


def _stream(
    settings: RunSettings,
    model: LanguageModel,
    cache: ActivationCache | None,
    hook_names: tuple[str, ...],
) -> ActivationStream | Prefetch:
    if cache is None:
        return harvest(model, settings.harvest_config(hook_names))
    return cache.batches(
        settings.batch_tokens,
        sites=hook_names,
        seed=settings.seed,
        n_tokens=settings.n_tokens,
        n_epochs=settings.epochs,
        window_tokens=settings.buffer_tokens,
    )


def _build(
    settings: RunSettings, model: LanguageModel, hook_name: str, source: SourceConfig
) -> SAE:
    sae = settings.sae_config().build(model.width(hook_name), seed=settings.seed)
    sae.metadata = settings.metadata(model, hook_name, source)
    return sae.to(model.device)


@contextmanager
def _fresh_folders(out: Path, folders: Sequence[Path]) -> Iterator[None]:
    for folder in folders:
        folder.mkdir(parents=True)
    try:
        yield
    except BAD_INPUT:
        shutil.rmtree(out)
        raise


def _sinks(settings: RunSettings, folder: Path, hook_name: str) -> list[Sink]:
    sinks: list[Sink] = [JsonLinesSink(folder / "metrics.jsonl")]
    if settings.wandb != "off":
        from sae.runs.wandb_sink import WandBSink, default_mode

        several = len(settings.hook_name) > 1
        name = f"{settings.out.name}/{hook_name}" if several else settings.out.name
        group = settings.out.name if several else None
        mode = settings.wandb or default_mode()
        sinks.append(WandBSink(folder, mode, settings.to_dict(), name, group))
    return sinks


def _log(
    records: Iterator[StepRecord],
    settings: RunSettings,
    hook_names: Sequence[str],
    sinks: Sequence[Sequence[Sink]],
    console: Console,
) -> None:
    """Send every `log_every`-th record to the sinks; only then are its tensors read."""
    n_tokens = settings.train_config().n_tokens
    with ConsoleSink(console, list(hook_names), n_tokens) as live:
        since, tokens_then = time.perf_counter(), 0
        tokens_per_s = 0.0
        for record in records:
            last = record.n_tokens >= n_tokens
            if (record.step + 1) % settings.log_every and not last:
                continue
            if record.dictionary == 0:
                now = time.perf_counter()
                tokens_per_s = (record.n_tokens - tokens_then) / (now - since)
                since, tokens_then = now, record.n_tokens
            row = to_row(record, tokens_per_s)
            live.show(hook_names[record.dictionary], row)
            for sink in sinks[record.dictionary]:
                sink.log(row)


def to_row(record: StepRecord, tokens_per_s: float) -> Row:
    """A row of metrics.jsonl. The JumpReLU penalty, which is an L0 too, is told apart by name."""
    parts = {"l0_penalty" if name == "l0" else name: v for name, v in record.parts.items()}
    return {
        "step": record.step,
        "n_tokens": record.n_tokens,
        "loss": record.loss.item(),
        **{name: value.item() for name, value in parts.items()},
        "fvu": record.fvu.item(),
        "l0": record.l0.item(),
        "dead": record.n_dead,
        "lr": record.lr,
        "grad_norm": record.grad_norm.item(),
        "tokens_per_s": tokens_per_s,
    }
