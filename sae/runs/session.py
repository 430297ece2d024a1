"""One sitting of a training: from where the last one ended, to its end or the next interruption."""

import copy
import errno
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from activation_cache.common.errors import InputError
from sae.base import SAE
from sae.evaluation import EvalReport
from sae.runs.checkpoints import Checkpoints
from sae.runs.member import Member
from sae.runs.settings.run_settings import changed_setting
from sae.runs.signals import Interrupted, deferred
from sae.runs.sinks.logs import Logs
from sae.serialization import save
from sae.training import NotFinite, Training

Evaluate = Callable[[Sequence[SAE]], Iterator[tuple[int, EvalReport]]]
"""Measures dictionaries, in any order; each report comes with the position of its dictionary."""
State = Mapping[str, Any]


@dataclass(frozen=True)
class Session:
    """The members of a pass, their training, and where it is logged and saved."""

    members: Sequence[Member]
    training: Training
    logs: Logs
    checkpoints: Checkpoints
    hook_names: Sequence[str]
    """The sites of the stream."""
    evaluate: Evaluate

    @property
    def saes(self) -> list[SAE]:
        return [trainer.sae for trainer in self.training.trainers]

    def run(self) -> None:
        """Train to the end, with checkpoints on the way and one behind it.

        `Interrupted` where a signal asked for the end: the step is finished then and a checkpoint
        is written. `NotFinite`, naming the last checkpoint, where the only dictionary diverges.
        """
        settings = self.members[0].settings
        with deferred(settings.stop_signal) as request, self.logs.live:
            try:
                for records in self.training:
                    self.logs.log(records)
                    is_asked = request.signum is not None or self._is_over
                    if not is_asked and self.checkpoints.is_due(self.training.n_tokens):
                        self.write(settings.keep_best)
                    if request.signum is not None or self._is_over:  # meanwhile, perhaps
                        break
                if self._is_over:
                    raise self.training.failures[0]
            except NotFinite as failure:
                raise NotFinite(f"{failure}; {self._last_checkpoint()}") from failure
            path = self.write(settings.keep_best and request.signum is None)
            if request.signum is not None:
                where = f"saved in {path}" if path else self._last_checkpoint()
                raise Interrupted(
                    request.signum,
                    f"after {self.training.n_tokens:,} tokens, {where}: go on with --resume",
                )

    @property
    def _is_over(self) -> bool:
        """Whether the only dictionary of a run has diverged; a member of a sweep stops alone."""
        return bool(self.training.failures) and self.members[0].group is None

    def _last_checkpoint(self) -> str:
        paths = self.checkpoints.paths()
        return f"the last good checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"

    def write(self, with_evaluation: bool = False) -> Path | None:
        """Write a checkpoint of this moment; None where that failed."""
        positions = self.logs.positions()
        state = {
            "training": self.training.state_dict(),
            "members": {
                member.key: {
                    "logs": positions[member.name],
                    "metadata": _plain(sae.metadata),
                    "settings": _plain(member.settings.to_dict()),
                }
                for member, sae in zip(self.members, self.saes, strict=True)
            },
            "failures": [[self.members[i].key, str(e)] for i, e in self.training.failures.items()],
            "hook_names": self.hook_names,
            "random": _random_state(),
        }

        def save_dictionaries(folder: Path) -> None:
            saes = [_folded(sae) for sae in self.saes]
            several = len(saes) > 1
            places = [folder / m.name if several else folder for m in self.members]
            if not folder.is_dir():  # moved away meanwhile: saving would make it anew
                raise FileNotFoundError(errno.ENOENT, "it has gone", str(folder))
            for place, sae in zip(places, saes, strict=True):
                save(sae, place / "sae")
            for i, report in self.evaluate(saes) if with_evaluation else ():
                (places[i] / "eval.json").write_text(report.to_json() + "\n")

        return self.checkpoints.write(self.training.n_tokens, state, save_dictionaries)


def refuse_other_form(state: State, folder: Path) -> None:
    """`InputError` for what no session writes, though the checksums of the checkpoint fit."""
    sites: Any = state.get("hook_names")
    members: Any = state.get("members")
    training: Any = state.get("training")
    fits = isinstance(sites, list) and bool(sites) and all(isinstance(s, str) for s in sites)
    fits = fits and isinstance(members, dict) and all(map(_is_of_member, members.values()))
    fits = fits and isinstance(training, dict) and isinstance(training.get("trainers"), list)
    if not fits or len(training["trainers"]) != len(members):
        raise InputError(
            f"the checkpoint of {folder} is not what a training writes: remove it, or train into "
            f"another --out"
        )


def _is_of_member(said: Any) -> bool:
    parts = ("logs", "metadata", "settings")
    fits = isinstance(said, dict) and all(isinstance(said.get(part), dict) for part in parts)
    return fits and all(isinstance(n, int) and n >= 0 for n in said["logs"].values())


def restore(members: Sequence["Member"], training: Training, state: State) -> None:
    """Be where a checkpoint of these members, and perhaps of others, was written.

    `InputError` where it is of another run: nothing has been touched then.
    """
    try:
        keys = list(state["members"])
        for member, trainer in zip(members, training.trainers, strict=True):
            _refuse_others(member, trainer.sae, state["members"].get(member.key))
        trainers = [state["training"]["trainers"][keys.index(m.key)] for m in members]
        training.load_state_dict({**state["training"], "trainers": trainers})
        _set_random_state(state["random"])
        failed = dict(state["failures"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the checkpoint of {members[0].folder} does not fit the run: "
            f"{' '.join(str(error).split())}"
        ) from error
    found = {i: failed[member.key] for i, member in enumerate(members) if member.key in failed}
    training.failures |= {i: NotFinite(failure) for i, failure in found.items()}


def _refuse_others(member: "Member", sae: SAE, said: Mapping[str, Any] | None) -> None:
    """`InputError` where what a checkpoint says is not about this member."""
    if said is None:
        raise InputError(
            f"the checkpoint of {member.folder} is of another run, without {member.key}: remove "
            f"it, or train into another --out"
        )
    name = changed_setting(said["settings"], member.settings)
    if name is not None:
        raise InputError(
            f"the run in {member.folder} was begun with {name} {said['settings'].get(name)!r}, and "
            f"{member.settings.to_dict()[name]!r} is asked for now: give that, or name another "
            f"--out"
        )
    metadata = _plain(sae.metadata)  # in which the number of tokens may have grown
    if {**said["metadata"], "n_tokens": metadata["n_tokens"]} != metadata:
        raise InputError(
            f"the model, its text or the evaluation of {member.folder} are others than when its "
            f"checkpoint was written: bring them back, or train into another --out"
        )


def _folded(sae: SAE) -> SAE:
    sae = copy.deepcopy(sae)
    sae.fold_input_scale_()
    return sae


def _plain(metadata: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(metadata))


def _random_state() -> dict[str, Any]:
    """Of torch's own generators. Nothing here draws from them, but a user's stream may."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
