"""Settings by name for what people train most, and what to expect of them: docs/recipes.md."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sae.runs.settings.files import read_settings_file

PresetName = Literal["tiny", "smollm2", "gpt2-small-resid", "gpt2-small-mlp"]
"""Each is a file beside this one."""
PRESETS: tuple[PresetName, ...] = get_args(PresetName)


@dataclass(frozen=True)
class Preset:
    about: str
    settings: Mapping[str, Any]
    """By the names of the flags."""
    expected: Mapping[str, str]
    """What came of it, or is known of others' dictionaries, as text: `source` says which."""

    @classmethod
    def named(cls, name: PresetName) -> "Preset":
        return cls(**read_settings_file(Path(__file__).with_name(f"{name}.yaml")))
