"""Every setting of a run. In files and flags they are flat; here each is where it belongs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from activation_cache import ActivationCache, HarvestConfig
from activation_cache.common.dtypes import DtypeName
from activation_cache.common.errors import InputError, refuse_below, refuse_not_positive
from activation_cache.common.schema import convert, listed
from activation_cache.common.versions import git_commit, library_versions
from activation_cache.model.loading import TINY
from activation_cache.text.config import TextConfig
from sae.architectures import ARCHITECTURES, BatchTopKConfig
from sae.architectures.older import dictionary_as_now
from sae.runs.settings.fields import Setting, settings_of
from sae.runs.settings.files import read_settings_file
from sae.runs.signals import signal_number
from sae.trainable import TrainableConfig
from sae.training import TrainConfig

N_TOKENS = 1_200_000
DEFAULT_ARCHITECTURE = BatchTopKConfig.architecture
"""docs/training.md says why."""
MAY_CHANGE = (
    *("out", "wandb", "device", "log_every", "stop_signal", "on_nan", "checkpoint_minutes"),
    *("checkpoint_tokens", "keep_checkpoints", "keep_every_tokens", "keep_best"),
    "feature_tokens",
)
"""Settings that may be others when a run is resumed: what it computes does not depend on them."""
CACHE_DECIDES = (
    *(field.name for field in fields(TextConfig)),
    *("context_size", "prepend_bos", "all_positions", "forward_tokens"),
)
"""Beside the model and its data type."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Train a sparse dictionary on a model's activations, evaluate it, and report.

    `RunSettings.of(k=16, hook_name=...)` makes them from flat names, which are those of the flags;
    `to_dict` gives these names back.
    """

    harvest: HarvestConfig = field(
        default=HarvestConfig(batch_tokens=512), metadata={"setting": None}
    )
    dictionary: TrainableConfig = field(
        default=BatchTopKConfig(d_sae=1536), metadata={"setting": None}
    )
    training: TrainConfig = field(
        default=TrainConfig(n_tokens=N_TOKENS), metadata={"setting": None}
    )
    model: str | None = None
    """Language model: tiny (embedded, default), hub id, folder or .gguf file."""
    dtype: DtypeName = "float32"
    """Data type of model and activations."""
    cache: str | None = None
    """Train from this activation cache (a folder or fsspec URL). It decides the model and the
    text."""
    activations: str | None = None
    """Train on activations in a .npy or .safetensors file, or a folder. There is no language model
    then: the report has reconstruction and sparsity. One chunk of 1,024 rows in twenty is held
    out."""
    epochs: int = 1
    """Passes over the cache."""
    n_tokens: int | None = None
    """Activation vectors to train on (1.2 million, or all of the cache). 300k, 50M and 1e6 are
    understood."""
    start_from: str | None = None
    """Start with the weights of this trained dictionary. It must have the same architecture and
    size: of a neighbouring layer, say."""
    eval_tokens: int = 65_536
    """Held-out tokens for the evaluation at the end."""
    feature_tokens: int = 0
    """Tokens from which to collect features after the evaluation, for pages to look at; 0 collects
    none."""
    device: str = "auto"
    """Where to compute: auto (CUDA if there is one), cpu, cuda or cuda:N."""
    out: Path = Path("runs/run-1")
    """New folder for the run; by default the next free number."""
    log_every: int = 20
    """Training steps between two rows of metrics.jsonl."""
    wandb: Literal["off", "offline", "online"] | None = None
    """Weights & Biases (online if an API key is set, else offline). The variables of W&B hold:
    WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME, WANDB_TAGS, WANDB_MODE and others."""
    checkpoint_minutes: float = 10.0
    """Time between two checkpoints."""
    checkpoint_tokens: int | None = None
    """Write a checkpoint after every so many tokens, too."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep."""
    keep_every_tokens: int | None = None
    """Of older checkpoints, keep one for every so many tokens."""
    keep_best: bool = False
    """Evaluate each checkpoint, and keep the one with the lowest delta CE."""
    stop_signal: str | None = None
    """A signal that ends the run like Ctrl-C, with a checkpoint. Under SLURM: USR1, say."""

    def __post_init__(self) -> None:
        counts = ("n_tokens", "epochs", "eval_tokens", "log_every", "checkpoint_tokens")
        counts += ("keep_checkpoints", "keep_every_tokens")
        refuse_below(1, **{name: getattr(self, name) for name in counts})
        refuse_below(0, feature_tokens=self.feature_tokens)
        refuse_not_positive(checkpoint_minutes=self.checkpoint_minutes)
        if self.stop_signal is not None and signal_number(self.stop_signal) is None:
            raise InputError(
                f"unknown stop_signal {self.stop_signal!r}: give the name of a signal, such as USR1"
            )
        if self.activations is not None:
            object.__setattr__(self, "activations", str(Path(self.activations).absolute()))
            if self.cache is not None or self.model is not None:
                raise InputError("activations of a file need neither --model nor --cache: drop it")
            if self.feature_tokens:
                raise InputError(
                    "features need a model and text, and activations of a file have neither: "
                    "drop --feature-tokens"
                )
        if self.epochs > 1 and self.cache is None:
            raise InputError("epochs are passes over a cache: name one with --cache")
        self.training.refuse_unfit(self.dictionary)
        if self.start_from is not None and self.training.frozen != "none":
            raise InputError(
                f"frozen {self.training.frozen!r} keeps weights random, and start_from brings "
                f"trained ones: leave one of them out"
            )
        empty = [name for name, value in self.to_dict().items() if value == ""]
        if empty:
            raise InputError(f"{empty[0]} is empty: name something, or leave it out")

    # Flat names ----------------------------------------------------------------------------------

    @classmethod
    def of(cls, **flat: Any) -> "RunSettings":
        """From flat names; what is left out, or None, has its default."""
        return settings_from(flat)

    def but(self, **flat: Any) -> "RunSettings":
        """These settings with others in their place, by flat names."""
        kept = self.to_dict()
        is_other = flat.get("architecture", self.dictionary.architecture) != kept["architecture"]
        for setting in settings_of(type(self.dictionary)):
            if setting.name not in SHARED and (is_other or _is_default(self.dictionary, setting)):
                kept.pop(setting.name)  # not meant for another one, and the default may be another
        return RunSettings.of(**{**kept, **flat})

    def to_dict(self) -> dict[str, Any]:
        """By flat names, as JSON has it; a single site or dataset by its name alone."""
        flat: dict[str, Any] = {"architecture": self.dictionary.architecture}
        for part in (self.dictionary, self.harvest, self.training, self):
            flat |= {s.name: _as_json(getattr(part, s.field)) for s in settings_of(type(part))}
        return {name: _single(value) if name in NAMED else value for name, value in flat.items()}

    @property
    def hook_names(self) -> tuple[str, ...]:
        return self.harvest.hook_names

    @property
    def seed(self) -> int:
        return self.training.seed

    def of_cache(self, cache: ActivationCache) -> "RunSettings":
        """These settings with what a cache decides; `InputError` where it is of something else."""
        model = cache.manifest.model
        decided = {"model": model["name"], "dtype": model["dtype"]}
        decided |= {name: _single(_as_json(getattr(cache.config, name))) for name in CACHE_DECIDES}
        ours, defaults = self.to_dict(), RunSettings().to_dict()
        for name, value in decided.items():
            if ours[name] not in (defaults[name], value):
                raise InputError(
                    f"{name} {ours[name]!r} is not what the cache {cache.folder} was harvested "
                    f"with ({value!r}): leave it out, or harvest another cache"
                )
        n_tokens = self.n_tokens or cache.n_rows() * self.epochs
        return self.but(**decided, n_tokens=n_tokens, hook_name=self.hook_names or cache.sites)


NAMED = ("hook_name", "dataset")
"""Settings of which there may be several."""

SHARED = ("d_sae", "tied")
"""Settings that dictionaries of all architectures have."""


def settings_from(content: Mapping[str, Any], *, where: str = "") -> RunSettings:
    """Settings from flat names with values as people type them; `where` names their source."""
    given = {name: value for name, value in content.items() if value is not None}
    try:
        architecture = convert(
            Literal[tuple(ARCHITECTURES)],  # type: ignore[valid-type]
            given.pop("architecture", DEFAULT_ARCHITECTURE),
            "architecture",
            lenient=True,
        )
        its_class = ARCHITECTURES[architecture]
        classes = (its_class, HarvestConfig, TrainConfig, RunSettings)
        known = {setting.name for cls in classes for setting in settings_of(cls)}
        if unknown := set(given) - known:
            raise InputError(
                f"unknown settings for the architecture {architecture}: {listed(unknown)}; "
                f"docs/settings.md has those that there are"
            )
        return _assembled(given, its_class)
    except InputError as error:
        raise InputError(f"{error} (in {where})" if where else str(error)) from error


def settings_from_file(path: Path) -> RunSettings:
    """Settings from a JSON or YAML file of flag names, or the config.json of an earlier run."""
    return settings_from(flat_settings(path), where=f"the config file {path}")


def flat_settings(path: Path) -> Mapping[str, Any]:
    """What such a file says, by flat names."""
    content = read_settings_file(path)
    if "settings" not in content:
        return content
    if not isinstance(content["settings"], Mapping):
        raise InputError(f"the config file {path} must map flag names to values under `settings`")
    return run_as_now(content["settings"])


def run_as_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a config.json, which an older version may have written, as they are now.

    What was another by default stays what it was: so an older run resumes as it began.
    """
    now = dict(settings)
    if "coefficient_units" not in now:
        now = {**dictionary_as_now(now), "coefficient_units": "absolute"}
    if "clip_input_norm" not in now:
        now["clip_input_norm"] = None
        if now.get("dead_after_tokens") is None and now.get("n_tokens"):
            now["dead_after_tokens"] = max(1, min(10_000_000, now["n_tokens"] // 50))
    return now


def changed_setting(then: Mapping[str, Any], now: RunSettings) -> tuple[str, Any] | None:
    """A setting that may not change and is another now than in a config.json, with its value then.

    More tokens than then are no change.
    """
    then = run_as_now(then)
    before = settings_from(then, where="the config.json of the run")
    if before.model is None and before.activations is None:  # as older versions wrote it
        before = before.but(model=TINY)
    values, values_then = now.to_dict(), before.to_dict()
    for name in dict.fromkeys([*values, *values_then]):
        was, now_is = values_then.get(name), values.get(name)
        is_longer = name == "n_tokens" and now.training.n_tokens >= before.training.n_tokens
        if name not in MAY_CHANGE and was != now_is and not is_longer:
            return name, was
    return None


def _is_default(cfg: TrainableConfig, setting: Setting) -> bool:
    with suppress(InputError):
        return replace(cfg, **{setting.field: setting.default}) == cfg
    return False


def _assembled(given: Mapping[str, Any], architecture: type[TrainableConfig]) -> RunSettings:
    own = dict(_fields(RunSettings, given))
    harvest = {"batch_tokens": 512, **dict(_fields(HarvestConfig, given))}
    if harvest["batch_tokens"] > harvest.get("buffer_tokens", HarvestConfig.buffer_tokens):
        harvest["buffer_tokens"] = harvest["batch_tokens"]
    return RunSettings(
        harvest=HarvestConfig(**harvest),
        dictionary=architecture(**{"d_sae": 1536, **dict(_fields(architecture, given))}),
        training=TrainConfig(
            n_tokens=own.get("n_tokens") or N_TOKENS, **dict(_fields(TrainConfig, given))
        ),
        **own,
    )


def _fields(cls: type, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is given of a class' settings, by its own names."""
    for setting in settings_of(cls):
        if setting.name in given:
            value = convert(setting.kind, given[setting.name], setting.name, lenient=True)
            yield setting.field, value


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def describe(settings: RunSettings) -> str:
    """The contents of config.json: every setting, library versions, git commit."""
    versions, commit = library_versions(), git_commit()
    content = {"settings": settings.to_dict(), "versions": versions, "git_commit": commit}
    return json.dumps(content, indent=2)
