"""What is logged of dictionaries that are trained together: to files, the console and W&B."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from rich.console import Console

from activation_cache.common.errors import InputError
from sae.pages.run_files import METRICS_FILE, THROUGHPUT_FILE
from sae.runs.member import Member
from sae.runs.sinks.console import ConsoleSink
from sae.runs.sinks.jsonl import JsonLinesSink
from sae.runs.sinks.sink import Row, Sink
from sae.runs.sinks.wandb_sink import WandBSink, mode_of
from sae.training import StepRecord

Positions = Mapping[str, int]
"""Bytes of each log file of a member at some moment."""


@dataclass(frozen=True)
class _MemberLog:
    files: Mapping[str, JsonLinesSink]
    mirrors: Sequence[Sink]

    def log(self, row: Row, tokens_per_s: float) -> None:
        self.files[METRICS_FILE].log(row)
        speed = {"tokens_per_s": tokens_per_s}
        self.files[THROUGHPUT_FILE].log({"n_tokens": row["n_tokens"], **speed})
        for mirror in self.mirrors:
            mirror.log({**row, **speed})


class Logs:
    """The logs of all members of a pass; a context manager, which closes them."""

    def __init__(
        self,
        members: Sequence[Member],
        positions: Mapping[str, Positions],
        console: Console,
        n_tokens: int,
    ) -> None:
        """`positions` are, by member, where logs that are resumed were."""
        self._members = members
        self._console = console
        self._warned: set[str] = set()
        self._warn_lock = Lock()
        self._closing = ExitStack()
        self.live = ConsoleSink(console, [member.name for member in members], n_tokens)
        """What shows the training while it lasts: a context manager."""
        self._since, self._tokens_then, self._tokens_per_s = time.perf_counter(), 0, 0.0
        self._logs: list[_MemberLog] = []
        try:
            for member in members:
                self._logs.append(self._open(member, positions.get(member.name, {})))
        except BaseException:
            self._closing.close()
            raise

    def _open(self, member: Member, positions: Positions) -> _MemberLog:
        _refuse_gap(member.folder / METRICS_FILE, positions.get(METRICS_FILE, 0))
        mirrored = last_tokens(member.folder / METRICS_FILE)
        files = {
            name: JsonLinesSink(member.folder / name, positions.get(name, 0))
            for name in (METRICS_FILE, THROUGHPUT_FILE)
        }
        mirrors: list[Sink] = []
        for file in files.values():
            self._closing.callback(file.close)
        if mode_of(member.settings.wandb) != "off":
            mirrors.append(WandBSink(member, mirrored, self._warn))
            self._closing.callback(mirrors[-1].close)
        return _MemberLog(files, mirrors)

    def _warn(self, message: str) -> None:
        """Once, from whichever thread and for however many members."""
        with self._warn_lock:
            if message not in self._warned:
                self._warned.add(message)
                line = f"warning: {message}"
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.close()

    def log(self, records: Sequence[StepRecord], *, pass_rows: int | None) -> None:
        """Log every `log_every`-th step; only then are its tensors read. `epochs` is 1 in
        the first pass over the text, whose rows are `pass_rows`, and then the passes so far."""
        for record in records:
            member = self._members[record.dictionary]
            last = record.n_tokens >= member.n_tokens
            if (record.step + 1) % member.settings.log_every and not last:
                continue
            if record.n_tokens > self._tokens_then:  # the first member to get so far
                now = time.perf_counter()
                self._tokens_per_s = (record.n_tokens - self._tokens_then) / (now - self._since)
                self._since, self._tokens_then = now, record.n_tokens
            passes = record.n_tokens / pass_rows if pass_rows else 1.0
            row = {**record.row(), "epochs": max(1.0, round(passes, 3))}
            self.live.show(member.name, {**row, "tokens_per_s": self._tokens_per_s})
            self._logs[record.dictionary].log(row, self._tokens_per_s)

    def measure_from(self, n_tokens: int) -> None:
        """Measure the throughput from here."""
        self._since, self._tokens_then = time.perf_counter(), n_tokens

    def positions(self) -> dict[str, dict[str, int]]:
        """Where the logs of each member are; what is before that is on the disk."""
        return {
            member.name: {name: file.position() for name, file in log.files.items()}
            for member, log in zip(self._members, self._logs, strict=True)
        }

    def finish(self, dictionary: int, metrics: Row) -> None:
        """Log what the evaluation of a dictionary found."""
        for mirror in self._logs[dictionary].mirrors:
            mirror.finish(metrics)


def _refuse_gap(path: Path, n_bytes: int) -> None:
    """`InputError` where a log has lost rows that a checkpoint counts on."""
    found = path.stat().st_size if path.exists() else 0
    if found < n_bytes:
        raise InputError(
            f"{path} has lost rows since its checkpoint was written ({found:,} of {n_bytes:,} "
            f"bytes are there): bring them back, or train into another --out"
        )


def last_tokens(path: Path) -> int:
    """The token count of the last row that the file holds whole; 0 where it holds none."""
    if not path.is_file():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    return json.loads(whole[-1])["n_tokens"] if whole else 0
