"""One dictionary of a run or a sweep, and where it lives."""

from dataclasses import dataclass
from pathlib import Path

from sae.runs.settings import RunSettings


@dataclass(frozen=True)
class Member:
    """One dictionary to train, with the folder that will hold everything about it."""

    name: str
    settings: RunSettings
    """With exactly one site. What concerns the stream is the same for all members."""
    folder: Path
    group: str | None = None
    """What W&B groups the members by."""

    @property
    def key(self) -> str:
        """What checkpoints call it; a run of one dictionary may be moved to any name."""
        return self.hook_name if self.group is None else self.name

    @property
    def hook_name(self) -> str:
        (site,) = self.settings.hook_names
        return site

    @property
    def n_tokens(self) -> int:
        return self.settings.training.n_tokens
