"""Dictionaries that are trained on one stream: logged, saved, evaluated and reported one by one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from activation_cache.common.dtypes import emulation_warning
from activation_cache.common.files import write_file
from activation_cache.stream.prefetch import Prefetch
from sae.base import SAE
from sae.evaluation import EvalReport
from sae.pages.run_report import write_report
from sae.runs.checkpoints import CheckpointPolicy, Checkpoints, refuse_gone
from sae.runs.evaluation import evaluate_on_held_out_text
from sae.runs.member import Member
from sae.runs.origin import Origin
from sae.runs.session import Evaluate, Session, State, refuse_other_form, restore
from sae.runs.settings.run_settings import DTYPES, RunSettings, describe
from sae.runs.signals import Interrupted
from sae.runs.sinks.logs import Logs, Positions
from sae.serialization import save
from sae.training import Training


@dataclass(frozen=True)
class RunResult:
    """One trained dictionary and the folder that holds everything about it."""

    hook_name: str
    folder: Path
    sae: SAE
    report: EvalReport


def checkpoints_of(settings: RunSettings, folder: Path, console: Console) -> Checkpoints:
    """The checkpoints of a run or a sweep, in its folder."""
    policy = CheckpointPolicy(
        every_tokens=settings.checkpoint_tokens,
        every_minutes=settings.checkpoint_minutes,
        keep=settings.keep_checkpoints,
        keep_every_tokens=settings.keep_every_tokens,
    )

    def tell(message: str) -> None:
        console.print(f"warning: {message}", markup=False, soft_wrap=True)

    return Checkpoints(folder / "checkpoints", policy, tell)


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
    members: Sequence[Member],
    origin: Origin,
    console: Console,
    checkpoints: Checkpoints,
    state: State | None = None,
    also: Mapping[Path, RunSettings] | None = None,
) -> Iterator[RunResult]:
    """Train all on one stream into their folders, which exist; yield each once it is evaluated.

    `state` is that of a checkpoint to go on from, of these members and perhaps of others. Where it
    does not fit, nothing is touched. `also` are folders beside the members' to describe.
    """
    hook_names = tuple(dict.fromkeys(member.hook_name for member in members))
    if state is not None:  # the stream is of all the sites that it was of
        refuse_other_form(state, members[0].folder)
        hook_names = tuple(state["hook_names"])
    n_tokens = max(member.n_tokens for member in members)
    saes = [origin.build(member.settings) for member in members]
    stream = origin.stream(hook_names, n_tokens)
    _warn_of_emulation(members, origin, console)
    console.print(f"reading text from {origin.settings.dataset}", markup=False)
    _ = origin.held_out
    with ExitStack() as closing:
        if isinstance(stream, Prefetch):
            closing.callback(stream.close)
        cfgs = [member.settings.train_config() for member in members]
        training = closing.enter_context(Training(saes, stream, cfgs))
        positions: dict[str, Positions] = {}
        if state is not None:
            restore(members, training, state)
            positions = {m.name: state["members"][m.key]["logs"] for m in members}
            console.print(f"going on behind {training.n_tokens:,} tokens")
        logs = closing.enter_context(Logs(members, positions, console, n_tokens))
        logs.go_on_from(training.n_tokens)
        _begin(members, also or {})
        evaluate = _evaluator(members, origin)
        session = Session(members, training, logs, checkpoints, hook_names, evaluate)
        try:
            session.run()
        except Interrupted:
            with suppress(OSError):  # of a full disk; the last checkpoint has been told
                _save(members, training)
            raise
        for dictionary, failure in training.failures.items():
            console.print(f"warning: {members[dictionary].name}: {failure}", markup=False)
        _save(members, training)
        console.print("evaluating on held-out text")
        for i, report in evaluate(saes):
            member = members[i]
            write_file(member.folder / "eval.json", report.to_json() + "\n")
            logs.finish(i, report.metrics())
            write_report(member.folder)
            yield RunResult(member.hook_name, member.folder, saes[i], report)


def _warn_of_emulation(members: Sequence[Member], origin: Origin, console: Console) -> None:
    """Tell where the model, or the products of a member, are in a data type that is slow here.

    Of a cache, the data type is what it was harvested in, and no flag changes it.
    """
    asked = [("--dtype", DTYPES[origin.settings.dtype])] if origin.cache is None else []
    if any(member.settings.products != "float32" for member in members):
        asked.append(("--products", torch.bfloat16))
    for flag, dtype in asked:
        line = emulation_warning(flag, dtype, origin.model.device)
        if line is not None:
            console.print(line, markup=False, soft_wrap=True)


def _begin(members: Sequence[Member], also: Mapping[Path, RunSettings]) -> None:
    """Describe what is trained now; no folder says of itself any longer that it is complete."""
    for member in members:
        for name in ("report.html", "eval.json"):  # of a run that goes on for longer
            (member.folder / name).unlink(missing_ok=True)
    for folder, settings in {**also, **{m.folder: m.settings for m in members}}.items():
        write_file(folder / "config.json", describe(settings) + "\n")


def _save(members: Sequence[Member], training: Training) -> None:
    training.close()  # folds the scale of the input into the weights
    for trainer, member in zip(training.trainers, members, strict=True):
        refuse_gone(member.folder)
        save(trainer.sae, member.folder / "sae")


def _evaluator(members: Sequence[Member], origin: Origin) -> Evaluate:
    """Measures dictionaries of these members, with one pass of the model for each site."""

    def evaluate(saes: Sequence[SAE]) -> Iterator[tuple[int, EvalReport]]:
        for hook_name in dict.fromkeys(member.hook_name for member in members):
            at_site = [i for i, member in enumerate(members) if member.hook_name == hook_name]
            its_saes = [saes[i] for i in at_site]
            reports = evaluate_on_held_out_text(its_saes, origin.model, origin.held_out)
            yield from zip(at_site, reports, strict=True)

    return evaluate
