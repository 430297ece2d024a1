"""Resume a run exactly where it was: what a checkpoint holds, and whether it is of this run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from activation_cache.common.errors import InputError
from activation_cache.common.schema import parse_json
from activation_cache.common.versions import library_versions
from sae.provenance import Provenance
from sae.runs.evaluation import text_metadata, text_of
from sae.runs.member import Member
from sae.runs.plan import Plan, State
from sae.runs.settings import RunSettings
from sae.runs.settings.run_settings import changed_setting
from sae.runs.sinks.logs import Positions
from sae.trainable import TrainableSAE
from sae.training import NotFinite

FILES_OF_A_RUN = (
    "config.json",
    "eval.json",
    "report.html",
    "sae/cfg.json",
    "sae/sae_weights.safetensors",
)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json; empty where the run was killed before it was written."""
    path = folder / "config.json"
    return parse_json(path.read_bytes(), str(path)) if path.is_file() else {}


def is_evaluated(member: Member) -> bool:
    """Whether a training of it came to its end, with evaluation and report."""
    return all((member.folder / name).is_file() for name in FILES_OF_A_RUN)


def is_complete(member: Member) -> bool:
    """Whether that was a training of so many tokens; the other settings were compared."""
    then = read_config(member.folder).get("settings", {})
    return is_evaluated(member) and then["n_tokens"] == member.settings.n_tokens


def refuse_changes(settings: RunSettings, console: Console) -> None:
    """`InputError` for other settings than those of the run; a warning for other libraries.

    More tokens than it was begun with are no change: it trains for longer.
    """
    config = read_config(settings.out)
    if not config:
        return
    changed = changed_setting(config["settings"], settings)
    if changed is not None:
        raise _other_setting(f"the run in {settings.out}", *changed, settings)
    for library, version in library_versions().items():
        before = config["versions"].get(library)
        if before != version:
            console.print(
                f"warning: the run was begun with {library} {before}, and this is {version}: the "
                f"result may differ in its last digits",
                markup=False,
            )


# Checkpoints -------------------------------------------------------------------------------------


def state_of(plan: Plan, positions: Mapping[str, Positions]) -> State:
    """Everything that the rest of a pass depends on; `positions` are those of the logs."""
    failures = plan.training.failures
    return {
        "training": plan.training.state_dict(),
        "members": {
            member.key: {
                "logs": positions[member.name],
                "metadata": sae.provenance.to_metadata(),
                "settings": member.settings.to_dict(),
            }
            for member, sae in zip(plan.members, plan.saes, strict=True)
        },
        "failures": [[plan.members[i].key, str(error)] for i, error in failures.items()],
        "hook_names": plan.hook_names,
    }


def restore(plan: Plan, state: State) -> None:
    """Be where a checkpoint of these members, and perhaps of others, was written.

    `InputError` where it was with other settings or another model: nothing has been touched then.
    """
    members, training = plan.members, plan.training
    keys = list(state["members"])
    for member, sae in zip(members, plan.saes, strict=True):
        _refuse_others(plan, member, sae, state["members"].get(member.key, {}))
    trainers = [state["training"]["trainers"][keys.index(m.key)] for m in members]
    training.load_state_dict({**state["training"], "trainers": trainers})
    failed = dict(state["failures"])
    found = {i: failed[member.key] for i, member in enumerate(members) if member.key in failed}
    training.failures |= {i: NotFinite(failure) for i, failure in found.items()}
    plan.positions = {m.name: state["members"][m.key]["logs"] for m in members}


def _refuse_others(plan: Plan, member: Member, sae: TrainableSAE, then: Mapping[str, Any]) -> None:
    """`InputError` where a checkpoint is not about this member, or of other settings."""
    changed = changed_setting(then.get("settings", {}), member.settings)
    if changed is not None:
        raise _other_setting(f"the run in {member.folder}", *changed, member.settings)
    # The number of tokens may have grown, and older versions did not know all that is known now.
    now = sae.provenance.to_metadata()
    before = Provenance.from_metadata(
        now | then.get("metadata", {}) | {"n_tokens": now["n_tokens"]}
    )
    if before.dataset_path is not None:
        before = replace(before, **text_metadata(text_of(before)))  # with absolute paths
    if before.eval_text != sae.provenance.eval_text:
        plan.inputs.refuse_other_held_out(sae.provenance, before.eval_text)
    if before != sae.provenance:
        raise InputError(
            f"the model, its text or the evaluation of {member.folder} are others than when its "
            f"checkpoint was written: bring them back, or train into another --out"
        )


def _other_setting(what: str, name: str, before: Any, settings: RunSettings) -> InputError:
    return InputError(
        f"{what} was begun with {name} {before!r}, and {settings.to_dict().get(name)!r} is asked "
        f"for now: give that, or name another --out"
    )
