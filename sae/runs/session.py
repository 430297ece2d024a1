"""One sitting of a training: from where the last one ended, to its end or the next interruption."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sae.base import SAE
from sae.errors import InputError
from sae.evaluation import EvalReport
from sae.runs.checkpoints import Checkpoints
from sae.runs.log import Logs
from sae.runs.member import Member
from sae.runs.signals import Interrupted, deferred
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

    def restore(self, state: State) -> None:
        """Be where a checkpoint of these members, and perhaps of others, was written."""
        names = list(state["members"])
        trainers = [state["training"]["trainers"][names.index(m.name)] for m in self.members]
        for member, sae in zip(self.members, self.saes, strict=True):
            if state["members"][member.name]["metadata"] != _plain(sae.metadata):
                raise InputError(
                    f"the model, its text or the evaluation of {member.folder} are others than "
                    f"when its checkpoint was written: bring them back, or train into another --out"
                )
        try:
            self.training.load_state_dict({**state["training"], "trainers": trainers})
            _set_random_state(state["random"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"the checkpoint in {self.checkpoints.folder} does not fit the run: {error}"
            ) from error
        self.logs.go_on_from(self.training.n_tokens)

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
                    if request.signum is not None:
                        break
                    if self.checkpoints.is_due(self.training.n_tokens):
                        self.write(settings.keep_best)
                if len(self.members) == 1:
                    for failure in self.training.failures.values():
                        raise failure
            except NotFinite as failure:
                raise NotFinite(f"{failure}; {self._last_checkpoint()}") from failure
            path = self.write(settings.keep_best and request.signum is None)
            if request.signum is not None:
                where = f"saved in {path}" if path else self._last_checkpoint()
                raise Interrupted(
                    request.signum,
                    f"after {self.training.n_tokens:,} tokens, {where}: go on with --resume",
                )

    def _last_checkpoint(self) -> str:
        paths = self.checkpoints.paths()
        return f"the last good checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"

    def write(self, with_evaluation: bool = False) -> Path | None:
        """Write a checkpoint of this moment; None where that failed."""
        positions = self.logs.positions()
        state = {
            "training": self.training.state_dict(),
            "members": {
                member.name: {"logs": positions[member.name], "metadata": _plain(sae.metadata)}
                for member, sae in zip(self.members, self.saes, strict=True)
            },
            "hook_names": self.hook_names,
            "random": _random_state(),
        }

        def save_dictionaries(folder: Path) -> None:
            saes = [_folded(sae) for sae in self.saes]
            several = len(saes) > 1
            places = [folder / m.name if several else folder for m in self.members]
            for place, sae in zip(places, saes, strict=True):
                save(sae, place / "sae")
            for i, report in self.evaluate(saes) if with_evaluation else ():
                (places[i] / "eval.json").write_text(report.to_json() + "\n")

        return self.checkpoints.write(self.training.n_tokens, state, save_dictionaries)


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
