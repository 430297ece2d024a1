"""Hold the seeds of a sweep against each other and against their twins, on held-out activations."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.files import replacing, write_file
from activation_cache.common.schema import listed
from activation_cache.common.weights import hash_of
from activation_cache.model.loading import resolve_device
from activation_cache.stream.arrays import ActivationFiles
from sae.analysis.stability import (
    FeatureStability,
    Stability,
    Thresholds,
    stability,
    without,
)
from sae.base import SAE
from sae.evaluation import EvalReport, evaluate_reconstruction, evaluate_sites
from sae.evaluation.metrics import METRICS
from sae.features import open as open_features
from sae.features.folder import FACTS
from sae.loading import load
from sae.pages.browser import write_browser
from sae.pages.browser.over_seeds import DICTIONARY, STABILITY
from sae.pages.telling_features import FEATURES
from sae.runs.evaluation import held_out_rows, held_out_text, model_of
from sae.runs.resume import read_config
from sae.runs.rows import SiteRows
from sae.runs.settings.fields import settings_of
from sae.runs.settings.run_settings import MAY_CHANGE, RunSettings, run_as_now, settings_from

SUMMARY = "stability.json"
MEMBERS = "members"
PARTICULAR = ("seed", "frozen")
"""Of the settings that the result of a training depends on, those in which members may differ."""
MEASURED = ("fvu", "delta_ce", "ce_spliced", "l0")
"""Of an evaluation, what is reported of each dictionary."""


@dataclass(frozen=True)
class Members:
    """The dictionaries of a sweep over seeds, by their names."""

    seeds: Mapping[str, SAE[Any]]
    twins: Mapping[str, SAE[Any]]


@dataclass(frozen=True)
class SweepStability:
    """What was found of the seeds of a sweep, by the names of members."""

    hook_name: str
    n_tokens: int
    """That count, of the held-out text."""
    text: Mapping[str, Any]
    thresholds: Thresholds
    seeds: Mapping[str, Stability]
    reports: Mapping[str, EvalReport]
    """Of seeds and twins as they are."""
    without_unstable: Mapping[str, EvalReport]
    """Of the seeds, the contributions of unstable features left out."""
    dictionaries: Mapping[str, str]
    """Hashes of the weights of the seeds."""

    def summary(self) -> dict[str, Any]:
        """The content of `stability.json`. What is not a number, or was not measured, is null."""
        seeds = {
            name: {
                **_measured(self.reports[name]),
                **{
                    f"{metric}_without_unstable": value
                    for metric, value in _measured(self.without_unstable[name]).items()
                },
                **_numbers(its),  # which has FVU too, and the same
            }
            for name, its in self.seeds.items()
        }
        twins = {n: _measured(its) for n, its in self.reports.items() if n not in self.seeds}
        return {
            "hook_name": self.hook_name,
            "n_tokens": self.n_tokens,
            "text": dict(self.text),
            "seeds": seeds,
            "twins": twins,
            "thresholds": vars(self.thresholds),
            "conventions": conventions(),
        }


def conventions() -> dict[str, str]:
    """How each number of `stability.json` and each column of the parquet files is defined."""
    declared = [s for of in (Thresholds, Stability, FeatureStability) for s in settings_of(of)]
    return {
        **{name: METRICS[name].convention for name in MEASURED},
        **{setting.name: setting.text for setting in declared if setting.text},
    }


def read_members(folder: Path) -> Members:
    """The trained members of a sweep over seeds.

    Raises `InputError` where the folder is none of a sweep, a member is not trained to its end, and
    where members differ in anything but the seed and what is frozen.
    """
    paths = sorted(path.parent for path in folder.glob(f"{MEMBERS}/*/config.json"))
    if not paths:
        raise InputError(
            f"{folder} is no sweep: it has no members; give the --out of `featureloom train "
            f"--seeds 4 --twins`"
        )
    settings = {path: settings_from(run_as_now(read_config(path)["settings"])) for path in paths}
    for path in paths:
        if not (path / "eval.json").is_file():
            raise InputError(f"the member {path} is not trained to its end: --resume the sweep")
    _refuse_what_differs(folder, settings)
    in_order = sorted(paths, key=lambda path: settings[path].seed)
    seeds = [path for path in in_order if settings[path].training.frozen == "none"]
    if len(seeds) < 2:
        raise InputError(
            f"{folder} has {len(seeds)} trained seeds, and features reappear over two at least: "
            f"train more with --seeds"
        )
    twins = [path for path in in_order if path not in seeds]
    return Members(*({path.name: load(path) for path in of} for of in (seeds, twins)))


def _refuse_what_differs(folder: Path, settings: Mapping[Path, RunSettings]) -> None:
    sites = {name for its in settings.values() for name in its.hook_names}
    if len(sites) > 1:
        raise InputError(
            f"{folder} has members of several sites, {listed(sites)}: give a sweep of one site, "
            f"which differ in the seed"
        )
    first, *others = (its.to_dict() for its in settings.values())
    for name in first:
        for other in others:
            if name not in (*PARTICULAR, *MAY_CHANGE) and other.get(name) != first[name]:
                raise InputError(
                    f"the members of {folder} differ in {name}, {first[name]!r} and "
                    f"{other.get(name)!r}: give a sweep whose members differ in the seed alone"
                )


@torch.no_grad()
def sweep_stability(
    members: Members, n_tokens: int, *, device: str = "auto", thresholds: Thresholds | None = None
) -> SweepStability:
    """Judge every feature of the seeds on the first `n_tokens` tokens of their held-out text."""
    thresholds = thresholds or Thresholds()
    known = replace(next(iter(members.seeds.values())).provenance, eval_tokens=n_tokens)
    if known.activations_path is not None:
        files = ActivationFiles.open(known.activations_path, resolve_device(device))
        model, held_out = None, held_out_rows(files, n_tokens)
        batches: Iterable[Tensor] = held_out.batches
        where = files.device
    else:
        model = model_of(known, device)
        held_out = held_out_text(model, known)
        batches, where = SiteRows(model, str(known.hook_name), held_out.batches), model.device
    seeds = {name: sae.to(where) for name, sae in members.seeds.items()}
    twins = {name: sae.to(where) for name, sae in members.twins.items()}
    found = stability([*seeds.values()], [*twins.values()], batches, thresholds=thresholds)
    judged = dict(zip(seeds, found, strict=True))
    lesser = [without(seeds[n], its.features.where("unstable")) for n, its in judged.items()]
    every = [*seeds.values(), *twins.values(), *lesser]
    if model is None:
        reports = [evaluate_reconstruction(of, held_out.batches) for of in every]
    else:
        site = str(known.hook_name)
        reports = evaluate_sites({site: every}, model, held_out.batches)[site]
    as_they_are, lessened = reports[: -len(lesser)], reports[-len(lesser) :]
    return SweepStability(
        hook_name=str(known.hook_name),
        n_tokens=int(as_they_are[0].values["n_tokens"]),
        text={"source": held_out.source, "tokens": held_out.fingerprint["tokens"]},
        thresholds=thresholds,
        seeds=judged,
        reports=dict(zip([*seeds, *twins], as_they_are, strict=True)),
        without_unstable=dict(zip(seeds, lessened, strict=True)),
        dictionaries={name: hash_of(sae.state_dict()) for name, sae in seeds.items()},
    )


def write_stability(found: SweepStability, out: Path) -> None:
    """`stability.json`, and for each seed its features as `members/NAME/stability.parquet`."""
    for name, its in found.seeds.items():
        table = feature_table(its.features)
        of = table.replace_schema_metadata({DICTIONARY: found.dictionaries[name]})
        with replacing(out / MEMBERS / name / STABILITY) as aside:
            pq.write_table(of, aside)
    write_file(out / SUMMARY, json.dumps(found.summary(), indent=2, allow_nan=False) + "\n")


def show_on_pages(members: Members, folder: Path) -> list[Path]:
    """Write the pages of members again whose features were collected."""
    found = {name: folder / MEMBERS / name / FEATURES for name in members.seeds}
    return [
        write_browser(open_features(path), members.seeds[name])
        for name, path in found.items()
        if (path / FACTS).is_file()
    ]


def feature_table(features: FeatureStability) -> pa.Table:
    """A row for each feature, and a column for each number of it."""
    columns: dict[str, Any] = {"feature": range(len(features.verdict))}
    for field in fields(features):
        of = getattr(features, field.name)
        columns[field.name] = of.cpu().numpy() if isinstance(of, Tensor) else of
    return pa.table({name: pa.array(column) for name, column in columns.items()})


def _numbers(its: Stability) -> dict[str, Any]:
    values = {f.name: getattr(its, f.name) for f in fields(its) if f.name != "features"}
    return {name: _known(value) for name, value in values.items()}


def _measured(report: EvalReport) -> dict[str, float | None]:
    return {name: _known(getattr(report, name)) for name in MEASURED}


def _known(value: Any) -> Any:
    """The number, or numbers by name, as JSON has them."""
    if isinstance(value, dict):
        return {name: _known(of) for name, of in value.items()}
    return value if math.isfinite(value) else None
