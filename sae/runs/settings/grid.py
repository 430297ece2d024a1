"""The members of a sweep: what all share, and what varies, by its YAML file or by seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from activation_cache.common.errors import InputError
from activation_cache.common.schema import listed
from sae.architectures import ARCHITECTURES
from sae.runs.settings.fields import settings_of
from sae.runs.settings.files import read_settings_file
from sae.runs.settings.run_settings import RunSettings, settings_from
from sae.training import TrainConfig
from sae.training.config import Frozen

SHARED = ("on_nan",)
"""Of the settings of trainings, what concerns the stream too."""

MAY_VARY = (
    *("hook_name", "n_tokens", "start_from", "architecture"),
    *dict.fromkeys(s.name for cls in ARCHITECTURES.values() for s in settings_of(cls)),
    *(s.name for s in settings_of(TrainConfig) if s.name not in SHARED),
)
"""Settings of the dictionary and its training. What concerns the stream is shared."""


@dataclass(frozen=True)
class Grid:
    """What a grid file asks for, or flags do."""

    shared: Mapping[str, Any]
    """Settings of all members, by the names of the flags."""
    points: Sequence[Mapping[str, Any]]
    """What is particular to each member."""
    names: Sequence[str] = ()
    """Of the members; by default made of their points."""


TWINS: tuple[Frozen, ...] = ("decoder", "encoder")
TWIN_SEEDS = 1_000_000
"""What the first twin's seed is above the first dictionary's: a twin that started where one of them
did would be nearer to that one than to the others, and however many there are, it is the same."""


def seeds_grid(settings: RunSettings, n_seeds: int, *, twins: bool) -> Grid:
    """Dictionaries that differ in the seed alone, `seed0` and so on from that of the settings, and
    with `twins` one with a frozen decoder and one with a frozen encoder.

    Raises `InputError` for settings under which seeds cannot be compared.
    """
    frozen = settings.training.frozen
    if len(settings.hook_names) > 1:
        raise InputError(
            f"seeds are compared at one site, and hook_name has {listed(settings.hook_names)}: "
            f"give one"
        )
    if settings.start_from is not None:
        raise InputError("start_from gives every seed the same weights: leave it out, or --seeds")
    if twins and frozen != "none":
        raise InputError(f"frozen {frozen!r} makes a twin of every seed: leave it out, or --twins")
    if twins and settings.dictionary.tied:
        raise InputError(
            "the encoder of a tied dictionary is its decoder, so neither is frozen alone: leave "
            "out --twins or tied"
        )
    points: dict[str, dict[str, Any]] = {
        f"seed{seed}": {"seed": seed} for seed in range(settings.seed, settings.seed + n_seeds)
    }
    if twins:
        for seed, part in enumerate(TWINS, settings.seed + TWIN_SEEDS):
            points[f"twin-{part}"] = {"seed": seed, "frozen": part}
    particular = ("seed", "frozen", "out") if twins else ("seed", "out")
    shared = {name: v for name, v in settings.to_dict().items() if name not in particular}
    return Grid(shared, [*points.values()], [*points])


def read_grid(path: Path) -> Grid:
    """A grid file: settings at its top, and under `grid` a list of mappings.

    Each mapping stands for all combinations of its values, where a value may be a list. Raises
    `InputError` for a file that is no such thing.
    """
    content = read_settings_file(path)
    blocks = content.pop("grid", None)
    if not isinstance(blocks, list) or not blocks:
        raise InputError(f"the grid file {path} needs a list under `grid`, one entry at least")
    points: list[dict[str, Any]] = []
    for block in blocks:
        if not isinstance(block, Mapping) or [] in block.values():
            raise InputError(f"the grid file {path} has {block} under `grid`: map names to values")
        fixed = [name for name in block if name not in MAY_VARY]
        if fixed:
            raise InputError(
                f"the grid file {path} varies {listed(fixed)}: members share one stream, only "
                f"{', '.join(MAY_VARY)} may differ"
            )
        points += combinations(block)
    return Grid(content, points)


def combinations(block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every choice of one value for each name."""
    choices = [value if isinstance(value, list) else [value] for value in block.values()]
    for values in product(*choices):
        yield dict(zip(block, values, strict=True))


def member_settings(grid: Grid, given: Mapping[str, Any], where: str) -> dict[str, RunSettings]:
    """The settings of each member by its name; `given` are flags, which go before the file's.

    Raises `InputError` where two members are the same.
    """
    members: dict[str, RunSettings] = {}
    trained_by: set[tuple[Any, ...]] = set()
    for number, point in enumerate(grid.points):
        settings = settings_from({**grid.shared, **point, **given}, where=where)
        name = grid.names[number] if grid.names else member_name(settings, tuple(point))
        if name in members or _trained_by(settings) in trained_by:
            raise InputError(f"{where} has the member {name} twice: leave one of them out")
        members[name] = settings
        trained_by.add(_trained_by(settings))
    return members


def _trained_by(settings: RunSettings) -> tuple[Any, ...]:
    """What decides which dictionary comes out, however it was written."""
    return settings.dictionary, settings.training, settings.hook_names, settings.start_from


def member_name(settings: RunSettings, names: Sequence[str]) -> str:
    """A folder name made of what is particular to a member, such as topk-k32-seed1."""
    values = settings.to_dict()
    parts = [_part(name, values[name]) for name in names]
    return "-".join(parts) or "member"


def _part(name: str, value: Any) -> str:
    if name == "hook_name":
        return value if isinstance(value, str) else "+".join(value)
    if name in ("architecture", "products"):
        return value
    if name == "frozen":
        return f"frozen_{value}"
    if name == "start_from":
        return "fresh" if value is None else f"from_{Path(value).name}"
    if isinstance(value, bool):
        return name if value else f"not_{name}"
    return f"{name}{value:g}" if isinstance(value, float) else f"{name}{value}"
