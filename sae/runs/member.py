"""One dictionary of a run or a sweep, and where it lives."""

from dataclasses import dataclass
from pathlib import Path

from sae.runs.settings.run_settings import RunSettings


@dataclass(frozen=True)
class Member:
    """One dictionary to train, with the folder that will hold everything about it."""

    name: str
    settings: RunSettings
    """With exactly one `hook_name`. What concerns the stream is the same for all members."""
    folder: Path
    group: str | None = None
    """What W&B groups the members by."""

    @property
    def key(self) -> str:
        """What checkpoints call it; a run of one dictionary may be moved to any name."""
        return self.hook_name if self.group is None else self.name

    @property
    def hook_name(self) -> str:
        return self.settings.hook_name[0]

    @property
    def n_tokens(self) -> int:
        return self.settings.train_config().n_tokens
