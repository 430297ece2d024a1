"""Weights & Biases: a mirror of metrics.jsonl that a run does not need. Imported here, and in
`wandb_results`."""

import json
import os
import secrets
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, ClassVar, Literal

from activation_cache.common.errors import described
from activation_cache.common.files import write_file
from sae.evaluation import METRICS
from sae.pages.curves import section_of
from sae.runs.member import Member
from sae.runs.sinks.sink import Row
from sae.runs.sinks.wandb_results import log_results

Mode = Literal["offline", "online"]
MODES: dict[str, Mode | Literal["off"]] = {
    "disabled": "off",
    "offline": "offline",
    "online": "online",
}
"""What values of WANDB_MODE mean."""

QUIET = {
    "WANDB_ERROR_REPORTING": "false",  # the process would not end before W&B has its reports
    "WANDB_DEBUG": "false",  # logs that are in the run folder would hold the API key
    "WANDB_CORE_DEBUG": "false",
}

INIT_TIMEOUT = 8.0
"""Seconds to open a run on it."""
FINISH_TIMEOUT = 20.0
"""Seconds to upload what is left at the end."""
CLOSE_TIMEOUT = 25.0
"""Seconds that a training which is over waits for all of these."""

Values = tuple[int | None, Row]
"""A step of the training, None for the evaluation; and numbers by the names of W&B's panels."""


def mode_of(flag: Mode | Literal["off"] | None) -> Mode | Literal["off"]:
    """The flag, or else WANDB_MODE, or else online where an API key is set."""
    default = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    return flag or MODES.get(os.environ.get("WANDB_MODE", ""), default)


class WandBSink:
    """One W&B run. The x-axis of every panel is the number of tokens seen.

    The variables of W&B hold (WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME, WANDB_RUN_GROUP, WANDB_TAGS
    and so on), but for WANDB_DIR and WANDB_RUN_ID: a run folder is one W&B run, and holds its
    files.

    All that W&B does is done by a thread, so that training never waits for it: `log` hands the row
    over, `close` waits for at most `CLOSE_TIMEOUT`. Where the server cannot be used, the rows are
    kept in W&B's files, and `warn` gets one line that says why and how to upload them: from that
    thread, and the same line from all dictionaries of a group.

    Sinks of one folder, of a run that was interrupted and resumed, are one W&B run. For these,
    `mirrored_until` is the `n_tokens` of the last row that metrics.jsonl held when the run was
    interrupted. Online, the server says what it has: of the rows in metrics.jsonl and of those
    that are logged it gets what it lacks. Offline there is nobody to ask: rows up to
    `mirrored_until` count as mirrored. So what a kill kept from W&B's files (the last second) or
    from the server (the last 15) is missing unless the run is resumed online; and `wandb sync` of a
    run that the server has in part sends those rows a second time.
    """

    _patience: ClassVar[float] = CLOSE_TIMEOUT
    """Short once a server has let a run down: a sweep closes one sink after the other."""

    def __init__(self, member: Member, mirrored_until: int, warn: Callable[[str], None]) -> None:
        WandBSink._patience = CLOSE_TIMEOUT
        self._member = member
        folder, group = member.folder, member.group
        mode = mode_of(member.settings.wandb)
        self._folder = folder
        self._mirrored_until = mirrored_until
        self._on_fault: Callable[[str], None] | None = warn
        self._group = None if group is None else folder.parent
        self._upload = f"wandb sync {shlex.quote(str(folder / 'wandb'))}"
        self._n_tokens: int | float = mirrored_until
        self._waiting: SimpleQueue[Values | None] = SimpleQueue()
        name = os.environ.get("WANDB_NAME") or member.name
        about = {"name": name, "config": member.settings.to_dict(), "dir": str(folder)}
        if group is not None:
            about |= {"name": f"{group}/{member.name}", "group": group}
        self._thread = Thread(target=self._mirror, args=(mode, about), daemon=True)
        self._thread.start()

    def log(self, row: Row) -> None:
        self._n_tokens = row["n_tokens"]
        if self._thread.is_alive():
            self._waiting.put(_by_panel(row))

    def finish(self, metrics: Row) -> None:
        """Log the last row. W&B may finish while other dictionaries are evaluated."""
        named = {f"eval/{key}": value for key, value in metrics.items()}
        self._waiting.put((None, {**named, "train/tokens": self._n_tokens}))
        self._waiting.put(None)

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join(WandBSink._patience)
        if self._thread.is_alive():
            WandBSink._patience = 1.0
            self._warn("it was not done in time")

    def _mirror(self, mode: Mode, about: dict[str, Any]) -> None:
        """The thread's work. Whatever W&B raises, the training continues."""
        try:
            run, fault = self._open(mode, about)
            if fault:
                self._warn(fault)
            fault = self._log_what_is_missing(run)
            run.finish()
            if not run.offline:
                _mark_as_uploaded(self._folder)
            if fault:
                self._warn(fault, "every row is logged, and the run folder has all results")
        except TimeoutError:
            WandBSink._patience = 1.0
            self._warn(f"the server did not take all rows within {FINISH_TIMEOUT:.0f} s")
        except Exception as error:
            self._warn(f"its client failed ({described(error)}), metrics.jsonl alone continues")
            _forget_dead_client(error)

    def _open(self, mode: Mode, about: dict[str, Any]) -> tuple[Any, str | None]:
        """The W&B run that this folder is, and why it is offline if it was to be online."""
        file = self._folder / "wandb" / "run_id.txt"
        if not file.exists():
            write_file(file, secrets.token_hex(8))
        run, fault = _open(mode, file.read_text(), about)
        if not self._mirrored_until:
            write_file(file, run.id)  # W&B has nothing by another
        self._upload = _upload_command(run, file.read_text(), self._group)
        return run, fault

    def _log_what_is_missing(self, run: Any) -> str | None:
        """Rows of metrics.jsonl, then those that are handed over until the sink is closed. The last
        one, of an evaluation, has the results with it; what W&B has against these is returned."""
        fault = None
        earlier = _rows_until(self._mirrored_until, self._folder / "metrics.jsonl")
        for step, values in chain(earlier, iter(self._waiting.get, None)):
            mirrored = run.offline and values["train/tokens"] <= self._mirrored_until
            if step is None:
                fault = log_results(run, self._member, values)
            elif not mirrored:
                run.log(values, step=step, commit=True)  # W&B passes over steps that it has
        return fault

    def _warn(self, fault: str, remedy: str | None = None) -> None:
        remedy = remedy or f"the rows are kept, upload them later with: {self._upload}"
        warn, self._on_fault = self._on_fault, None
        if warn is not None:
            warn(f"W&B: {fault}; {remedy}")


def _open(mode: Mode, run_id: str, about: dict[str, Any]) -> tuple[Any, str | None]:
    """A W&B run, offline where the server cannot be used; and why, if it was to be online."""
    os.environ.update(QUIET)
    import wandb

    url = wandb.setup(wandb.Settings(silent=True)).settings.base_url  # silent: prompts for nothing
    if mode == "offline":
        return _init("offline", id=run_id, **about), None
    try:
        return _init("online", id=run_id, **about), None
    except wandb.Error as error:
        reason = described(error).replace(f" for run {run_id}", "")  # the same for all of a group
        fault = f"cannot open a run on {url} ({reason})"
        if "error 401" in str(error):
            fault = f"{url} refuses the API key"
    other_id = secrets.token_hex(8)  # W&B holds the first until the process ends
    return _init("offline", id=other_id, **about), fault


def _init(mode: Mode, **about: Any) -> Any:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "featureloom"),
        mode=mode,
        resume="allow",
        reinit="create_new",  # the runs of other dictionaries stay open beside it
        settings=wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            x_transaction_log_flush_interval=1.0,
            init_timeout=INIT_TIMEOUT,
            finish_timeout=FINISH_TIMEOUT,
            finish_timeout_raises=True,
        ),
        **about,
    )
    run.define_metric("train/tokens")
    run.define_metric("*", step_metric="train/tokens")
    for metric in METRICS.values():
        if metric.better != "neither":
            best = "min" if metric.better == "lower" else "max"
            run.define_metric(f"eval/{metric.name}", step_metric="train/tokens", summary=best)
    return run


def _upload_command(run: Any, run_id: str, group: Path | None) -> str:
    """For this run; with the folder of a group for all of it, so that it is the same for each."""
    where = shlex.quote(run.sync_dir)
    if run.id != run_id:
        return f"wandb sync --id {run_id} {where}"
    if group is not None:
        files = "offline-run-*" if run.offline else "run-*"
        where = f"{shlex.quote(str(group))}/*/wandb/{files}"
    return f"wandb sync {where}" if run.offline else f"wandb sync --include-online {where}"


def _mark_as_uploaded(folder: Path) -> None:
    """The server has every row: `wandb sync` passes over earlier files with this mark."""
    for file in folder.glob("wandb/*run-*/run-*.wandb"):
        file.with_suffix(".wandb.synced").touch()


def _forget_dead_client(error: Exception) -> None:
    """Without W&B's own process, the hook that ends it at exit would print a traceback."""
    import wandb
    from wandb.sdk.mailbox import HandleAbandonedError

    if isinstance(error, ConnectionError | HandleAbandonedError):
        with suppress(Exception):
            wandb.teardown()


def _rows_until(n_tokens: int, path: Path) -> Iterator[Values]:
    """The rows of an interrupted run; none if there was no interruption."""
    lines = path.read_text().splitlines() if n_tokens else []
    rows = [json.loads(line) for line in lines]
    yield from (_by_panel(row) for row in rows if row["n_tokens"] <= n_tokens)


def _by_panel(row: Row) -> Values:
    named = {f"{section_of(k)}/{k}": value for k, value in row.items() if k != "n_tokens"}
    return int(row["step"]), {**named, "train/tokens": row["n_tokens"]}
