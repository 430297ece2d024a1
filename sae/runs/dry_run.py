"""What a run would take, found without training anything or writing a file."""

import time
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from activation_cache.common.numbers import format_number
from sae.runs.inputs import Inputs
from sae.runs.plan import prepare
from sae.runs.run import members_of
from sae.runs.settings import RunSettings

PROBE_BATCHES = 4
"""Steps that are timed, after one that is not."""


def dry_run(settings: RunSettings, console: Console) -> Table:
    """A table of tokens, steps, memory and disk, and of the time that a short probe foretells."""
    inputs = Inputs.open(settings, console)
    settings = inputs.settings
    members = members_of(settings)
    n_tokens = max(member.n_tokens for member in members)
    batch_tokens = settings.harvest.batch_tokens
    widths = [inputs.width(member.hook_name) for member in members]
    d_sae, tied = settings.dictionary.d_sae, settings.dictionary.tied
    weights = sum(4 * d_sae * d_in * (1 if tied else 2) for d_in in widths)
    itemsize = inputs.itemsize
    buffer = settings.harvest.buffer_tokens * sum(widths) * itemsize
    checkpoint = 2 * weights + (buffer if inputs.cache is None else 0)
    table = Table(title="what this run would take", title_justify="left", show_header=False)
    for what, much in {
        "dictionaries": f"{len(members)} of {d_sae:,} features, {settings.dictionary.architecture}",
        "sites": ", ".join(member.hook_name for member in members),
        "tokens": f"{n_tokens:,}",
        "steps": f"{-(-n_tokens // batch_tokens):,} of {batch_tokens:,} tokens",
        "memory": f"{_mb(3 * weights + buffer)}: weights, gradients, optimiser, and the buffer",
        "disk": f"{_mb(weights + settings.keep_checkpoints * checkpoint)}: dictionaries, and "
        f"{settings.keep_checkpoints} checkpoints",
        "training": f"about {_duration(n_tokens * seconds_per_token(inputs))}, by a short probe",
        "features": _features(settings.feature_tokens),
        "folder": str(settings.out),
    }.items():
        table.add_row(what, much)
    return table


def _features(n_tokens: int) -> str:
    return f"from {n_tokens:,} tokens, after the evaluation" if n_tokens else "none"


def seconds_per_token(inputs: Inputs) -> float:
    """Of text, model and all dictionaries together, by a few steps on a small buffer."""
    settings = inputs.settings
    batch_tokens = settings.harvest.batch_tokens
    small = settings.but(buffer_tokens=batch_tokens, init_tokens=batch_tokens)
    small = replace(small, eval_tokens=1)
    probe = replace(inputs, settings=small)
    plan = prepare(members_of(small), probe)
    with plan.begun():
        next(plan.training)
        begun = time.perf_counter()
        for _ in range(PROBE_BATCHES):
            next(plan.training)
        return (time.perf_counter() - begun) / (PROBE_BATCHES * batch_tokens)


def _mb(n_bytes: int) -> str:
    return f"{format_number(round(n_bytes / 1e6))} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
