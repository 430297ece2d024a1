"""Every setting of a run in the groups of `--help` and docs/settings.md."""

from collections.abc import Iterator
from dataclasses import MISSING, replace
from typing import Any, Literal

from activation_cache import HarvestConfig
from sae.architectures import ARCHITECTURES
from sae.runs.settings.fields import Setting, settings_of
from sae.runs.settings.run_settings import DEFAULT_ARCHITECTURE, SHARED, RunSettings
from sae.training import TrainConfig

OF_THE_MODEL = ("model", "dtype", "device", "cache", "activations", "epochs")
ARCHITECTURE = "Architecture. It is what keeps the features sparse."
OF_THE_TRAINING = ("n_tokens", "start_from", "eval_tokens", "feature_tokens")


def setting_groups() -> dict[str, list[Setting]]:
    """Every setting once, by its flat name; those of architectures say of which they are."""
    names: Any = Literal[tuple(ARCHITECTURES)]  # type: ignore[valid-type]
    own = settings_of(RunSettings)
    groups = {
        "model and text": [
            *(s for s in own if s.name in OF_THE_MODEL),
            *settings_of(HarvestConfig),
        ],
        "dictionary": [
            Setting("architecture", "", names, DEFAULT_ARCHITECTURE, ARCHITECTURE),
            *_of_architectures(),
        ],
        "training": [
            *(s for s in own if s.name in OF_THE_TRAINING),
            *settings_of(TrainConfig),
        ],
        "run folder": [s for s in own if s.name not in OF_THE_MODEL + OF_THE_TRAINING],
    }
    defaults, seen = RunSettings().to_dict(), set[str]()
    for group, its_settings in groups.items():
        its_settings = [s for s in its_settings if s.name not in seen]
        seen |= {s.name for s in its_settings}
        groups[group] = [
            replace(s, field=s.name, default=None if s.default is None else defaults[s.name])
            for s in its_settings
        ]
    return groups


def _of_architectures() -> Iterator[Setting]:
    """The settings of all architectures, each once; those that not all have are None at first."""
    having: dict[str, dict[str, list[str]]] = {}
    first: dict[str, Setting] = {}
    for name, cls in ARCHITECTURES.items():
        for setting in settings_of(cls):
            default = "" if setting.default in (MISSING, (), None) else f": {setting.default}"
            having.setdefault(setting.name, {}).setdefault(default, []).append(name)
            first.setdefault(setting.name, setting)
    for name, setting in first.items():
        if name in SHARED:
            yield setting
            continue
        about, *more = setting.text.rstrip(".").split(". ")
        by_default = having[name]
        names = [architecture for its in by_default.values() for architecture in its]
        whose = "all" if len(names) == len(ARCHITECTURES) else ", ".join(names)
        if len(by_default) == 1:
            sentences = [f"{about} ({whose}{next(iter(by_default))})", *more]
        else:
            each = "; ".join(f"{', '.join(its)}{of}" for of, its in by_default.items())
            sentences = [f"{about} ({whose})", *more, f"Defaults: {each}"]
        yield replace(setting, default=None, text=f"{'. '.join(sentences)}.")
