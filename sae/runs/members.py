"""Dictionaries that are trained on one stream: logged, saved, evaluated and reported one by one."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from activation_cache.prefetch import Prefetch
from sae.base import SAE
from sae.evaluation import EvalReport
from sae.runs.evaluation import evaluate_on_held_out_text
from sae.runs.origin import Origin
from sae.runs.report import write_report
from sae.runs.settings import RunSettings, describe
from sae.runs.sinks import ConsoleSink, JsonLinesSink, Row, Sink
from sae.serialization import save
from sae.training import StepRecord, train


@dataclass(frozen=True)
class Member:
    """One dictionary to train, with the folder that will hold everything about it."""

    name: str
    settings: RunSettings
    """With exactly one `hook_name`. What concerns the stream is the same for all members."""
    folder: Path
    group: str | None = None
    """What W&B groups the members by."""

    @property
    def hook_name(self) -> str:
        return self.settings.hook_name[0]

    @property
    def n_tokens(self) -> int:
        return self.settings.train_config().n_tokens


@dataclass(frozen=True)
class RunResult:
    """One trained dictionary and the folder that holds everything about it."""

    hook_name: str
    folder: Path
    sae: SAE
    report: EvalReport


def check(members: Sequence[Member], origin: Origin) -> None:
    """Raise `InputError` for what the model, the text, the cache or a dictionary does not allow.

    Nothing is written and nothing trained.
    """
    for member in members:
        origin.build(member.settings)
        stream = origin.stream((member.hook_name,), member.n_tokens)
        if isinstance(stream, Prefetch):
            stream.close()
    _ = origin.held_out  # reads the text


def train_members(
    members: Sequence[Member], origin: Origin, console: Console
) -> Iterator[RunResult]:
    """Train all on one stream into their folders, which exist; yield each once it is evaluated.

    However training ends, the dictionaries are saved as they are then.
    """
    saes = [origin.build(member.settings) for member in members]
    hook_names = tuple(dict.fromkeys(member.hook_name for member in members))
    stream = origin.stream(hook_names, max(member.n_tokens for member in members))
    console.print(f"reading text from {origin.settings.dataset}")
    held_out = origin.held_out
    with ExitStack() as closing:
        sinks: list[list[Sink]] = []
        for member in members:
            config = describe(member.settings, member.hook_name)
            (member.folder / "config.json").write_text(config + "\n")
            sinks.append(_sinks(member))
            for sink in sinks[-1]:
                closing.callback(sink.close)
        if isinstance(stream, Prefetch):
            closing.callback(stream.close)
        records = train(saes, stream, [member.settings.train_config() for member in members])
        try:
            _log(records, members, sinks, console)
        finally:
            records.close()  # folds the scale of the input into the weights
            for sae, member in zip(saes, members, strict=True):
                save(sae, member.folder / "sae")
        console.print("evaluating on held-out text")
        trained = list(zip(members, saes, sinks, strict=True))
        for hook_name in hook_names:
            at_site = [of for of in trained if of[0].hook_name == hook_name]
            its_saes = [sae for _, sae, _ in at_site]
            reports = evaluate_on_held_out_text(its_saes, origin.model, held_out)
            for (member, sae, its_sinks), report in zip(at_site, reports, strict=True):
                _finish(member, report, its_sinks)
                yield RunResult(hook_name, member.folder, sae, report)


def _finish(member: Member, report: EvalReport, sinks: Sequence[Sink]) -> None:
    (member.folder / "eval.json").write_text(report.to_json() + "\n")
    for sink in sinks:
        sink.finish(report.metrics())
    write_report(member.folder)


def _sinks(member: Member) -> list[Sink]:
    sinks: list[Sink] = [JsonLinesSink(member.folder / "metrics.jsonl")]
    if member.settings.wandb != "off":
        from sae.runs.wandb_sink import WandBSink, default_mode

        mode = member.settings.wandb or default_mode()
        name = member.name if member.group is None else f"{member.group}/{member.name}"
        settings = member.settings.to_dict()
        sinks.append(WandBSink(member.folder, mode, settings, name, member.group))
    return sinks


def _log(
    records: Iterator[StepRecord],
    members: Sequence[Member],
    sinks: Sequence[Sequence[Sink]],
    console: Console,
) -> None:
    """Send every `log_every`-th record to the sinks; only then are its tensors read."""
    n_tokens = max(member.n_tokens for member in members)
    with ConsoleSink(console, [member.name for member in members], n_tokens) as live:
        since, tokens_then = time.perf_counter(), 0
        tokens_per_s = 0.0
        for record in records:
            member = members[record.dictionary]
            last = record.n_tokens >= member.n_tokens
            if (record.step + 1) % member.settings.log_every and not last:
                continue
            if record.n_tokens > tokens_then:  # the first member to get so far
                now = time.perf_counter()
                tokens_per_s = (record.n_tokens - tokens_then) / (now - since)
                since, tokens_then = now, record.n_tokens
            row = to_row(record, tokens_per_s)
            live.show(member.name, row)
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
