"""From settings to run folders: prepare, train, evaluate, report. Reads from top to bottom."""

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from activation_cache.common.dtypes import DTYPES, emulation_warning
from activation_cache.common.errors import InputError
from activation_cache.common.files import write_file
from sae.base import SAE
from sae.evaluation import EvalReport
from sae.features.folder import FACTS
from sae.loading import load, save
from sae.pages.run_report import write_report
from sae.pages.telling_features import FEATURES
from sae.runs.checkpoints import Checkpoints, refuse_gone
from sae.runs.features import collect_features, forget_features
from sae.runs.folder import claimed
from sae.runs.inputs import Inputs, ModelInputs
from sae.runs.member import Member
from sae.runs.plan import Plan, prepare
from sae.runs.resume import is_complete, refuse_changes, restore, state_of
from sae.runs.settings import RunSettings
from sae.runs.settings.run_settings import describe
from sae.runs.signals import Interrupted, deferred
from sae.runs.sinks.logs import Logs
from sae.training import NotFinite


@dataclass(frozen=True)
class RunResult:
    """One trained dictionary and the folder that holds everything about it."""

    hook_name: str
    folder: Path
    sae: SAE
    report: EvalReport


def run(
    settings: RunSettings, console: Console | None = None, *, resume: bool = False
) -> list[RunResult]:
    """Train a dictionary at every site, evaluate each on held-out text, and write the run folders.

    One site is written to `settings.out` itself, several to a folder each below it. A signal ends
    it with a checkpoint (`Interrupted`); a run that is refused (`InputError`) before it has trained
    leaves no folder behind. With `resume` it resumes the run in the folder, to the same
    result as if it had not been interrupted, or begins it where there is none.
    """
    console = console or Console(quiet=True)
    with claimed(settings.out, resume=resume, stop_signal=settings.stop_signal):
        inputs = Inputs.open(settings, console)
        settings = inputs.settings
        refuse_changes(settings, console)
        members = members_of(settings)
        if all(is_complete(member) for member in members):
            console.print(f"the run in {settings.out} is complete: evaluating it", markup=False)
            return [_evaluated_again(member, inputs, console) for member in members]
        checkpoints = Checkpoints(settings.out, settings, console)
        state = checkpoints.newest()
        if state is None and any((member.folder / "eval.json").exists() for member in members):
            raise InputError(
                f"the run in {settings.out} was complete and has no checkpoint to resume from: "
                f"train on with --start-from {settings.out} into another --out"
            )
        plan = prepare(members, inputs)
        if state is None:  # so that --resume knows of it, whatever comes now
            write_file(settings.out / "config.json", describe(settings) + "\n")
        else:
            restore(plan, state)
        for member in members:
            member.folder.mkdir(parents=True, exist_ok=True)
        return list(carry_out(plan, checkpoints, console, also={settings.out: settings}))


def carry_out(
    plan: Plan,
    checkpoints: Checkpoints,
    console: Console,
    also: Mapping[Path, RunSettings] | None = None,
) -> Iterator[RunResult]:
    """Train, save, evaluate and report the members of a plan; yield each once that is done.

    Their folders exist. `also` are folders beside theirs to describe.
    """
    _warn_of_emulation(plan, console)
    if plan.settings.activations is None:
        console.print(f"reading text from {plan.settings.harvest.source}", markup=False)
    if plan.positions:
        console.print(f"resuming after {plan.training.n_tokens:,} tokens")
    with (
        plan.begun(),
        Logs(plan.members, plan.positions, console, plan.n_tokens) as logs,
    ):
        logs.measure_from(plan.training.n_tokens)
        if plan.training.n_tokens < plan.n_tokens:  # the dictionaries will be others
            for member in plan.members:
                forget_features(member.folder / FEATURES)
        _describe(plan.members, also or {})
        try:
            train(plan, logs, checkpoints)
        except Interrupted:
            with suppress(OSError):  # of a full disk; the message names the last checkpoint
                _save(plan)
            raise
        for position, failure in plan.training.failures.items():
            console.print(f"warning: {plan.members[position].name}: {failure}", markup=False)
        _save(plan)
        console.print(
            f"evaluating on held-out {'text' if plan.settings.activations is None else 'rows'}"
        )
        for i, report in plan.evaluate(plan.saes):
            member = plan.members[i]
            write_file(member.folder / "eval.json", report.to_json() + "\n")
            _collect_features(member, plan.inputs, console)
            logs.finish(i, report.metrics())
            write_report(member.folder)
            yield RunResult(member.hook_name, member.folder, plan.saes[i], report)


def train(plan: Plan, logs: Logs, checkpoints: Checkpoints) -> None:
    """Train to the end, with checkpoints on the way and one after it.

    `Interrupted` where a signal asked for the end: the step is finished then and a checkpoint is
    written. `NotFinite`, naming the last checkpoint, where the only dictionary diverges.
    """
    settings = plan.settings
    with deferred(settings.stop_signal) as request, logs.live:
        try:
            for records in plan.training:
                logs.log(records, pass_rows=plan.pass_rows)
                is_asked = request.signum is not None or plan.is_over
                if not is_asked and checkpoints.is_due(plan.training.n_tokens):
                    write_checkpoint(plan, logs, checkpoints, evaluated=settings.keep_best)
                if request.signum is not None or plan.is_over:  # meanwhile, perhaps
                    break
            if plan.is_over:
                raise plan.training.failures[0]
        except NotFinite as failure:
            raise NotFinite(f"{failure}; {checkpoints.last}") from failure
        is_evaluated = settings.keep_best and request.signum is None
        path = write_checkpoint(plan, logs, checkpoints, evaluated=is_evaluated)
        if request.signum is not None:
            where = f"saved in {path}" if path else checkpoints.last
            raise Interrupted(
                request.signum,
                f"after {plan.training.n_tokens:,} tokens, {where}: resume with --resume",
            )


def write_checkpoint(
    plan: Plan, logs: Logs, checkpoints: Checkpoints, *, evaluated: bool
) -> Path | None:
    """Write a checkpoint of this moment, with the dictionaries as they are; None where that failed.

    `evaluated` measures them too.
    """
    state = state_of(plan, logs.positions())

    def save_dictionaries(folder: Path) -> None:
        saes = [trainer.dictionary() for trainer in plan.training.trainers]
        several = len(saes) > 1
        places = [folder / m.name if several else folder for m in plan.members]
        if not folder.is_dir():  # moved away meanwhile: saving would make it again
            raise FileNotFoundError(errno.ENOENT, "it has gone", str(folder))
        for place, sae in zip(places, saes, strict=True):
            save(sae, place / "sae")
        for i, report in plan.evaluate(saes) if evaluated else ():
            (places[i] / "eval.json").write_text(report.to_json() + "\n")

    return checkpoints.write(plan.training.n_tokens, state, save_dictionaries)


# The members -------------------------------------------------------------------------------------


def members_of(settings: RunSettings) -> list[Member]:
    """A dictionary at each site, with its folder."""
    several = len(settings.hook_names) > 1
    out = settings.out
    return [
        Member(
            name=site if several else out.name,
            settings=settings.but(hook_name=(site,)),
            folder=out / site if several else out,
            group=out.name if several else None,
        )
        for site in settings.hook_names
    ]


def _describe(members: Sequence[Member], also: Mapping[Path, RunSettings]) -> None:
    """Describe what is trained now; no folder counts as complete any longer."""
    for member in members:
        for name in ("report.html", "eval.json"):  # of a run that trains for longer
            (member.folder / name).unlink(missing_ok=True)
    for folder, settings in {**also, **{m.folder: m.settings for m in members}}.items():
        write_file(folder / "config.json", describe(settings) + "\n")


def _save(plan: Plan) -> None:
    plan.training.close()  # which finishes the dictionaries
    for sae, member in zip(plan.saes, plan.members, strict=True):
        refuse_gone(member.folder)
        save(sae, member.folder / "sae")


def _collect_features(member: Member, inputs: Inputs, console: Console) -> None:
    n_tokens = member.settings.feature_tokens
    if not n_tokens:
        return
    assert isinstance(inputs, ModelInputs)  # for others, the settings refuse it
    console.print(f"collecting features from {n_tokens:,} tokens")
    sae = load(member.folder, device=inputs.device)
    out = member.folder / FEATURES
    collect_features(sae, inputs.model, out, n_tokens, progress=not console.quiet)


def features_asked_for_later(member: Member, inputs: Inputs, console: Console) -> None:
    """Collect and report the features of a member that was complete without them."""
    if member.settings.feature_tokens and not (member.folder / FEATURES / FACTS).exists():
        _collect_features(member, inputs, console)
        write_report(member.folder)


def _evaluated_again(member: Member, inputs: Inputs, console: Console) -> RunResult:
    sae = load(member.folder, device=inputs.device)
    (report,) = inputs.evaluate([sae])
    features_asked_for_later(member, inputs, console)
    return RunResult(member.hook_name, member.folder, sae, report)


def _warn_of_emulation(plan: Plan, console: Console) -> None:
    """Warn where the model, or the products of a member, are in a data type that is slow here.

    Of a cache, the data type is what it was harvested in, and no flag changes it.
    """
    inputs = plan.inputs
    of_model = inputs.cache is None and inputs.settings.activations is None
    asked = [("--dtype", DTYPES[inputs.settings.dtype])] if of_model else []
    if any(member.settings.training.products != "float32" for member in plan.members):
        asked.append(("--products", torch.bfloat16))
    for flag, dtype in asked:
        line = emulation_warning(flag, dtype, inputs.device)
        if line is not None:
            console.print(line, markup=False, soft_wrap=True)
