"""A pass over a stream that is ready to begin: all is built, and nothing is written."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from activation_cache.stream.prefetch import Prefetch
from sae.base import SAE
from sae.evaluation import EvalReport
from sae.runs.inputs import Inputs, Stream, close
from sae.runs.member import Member
from sae.runs.settings import RunSettings
from sae.runs.sinks.logs import Positions
from sae.trainable import TrainableSAE
from sae.training import Training

State = Mapping[str, Any]
"""What a checkpoint holds."""


@dataclass
class Plan:
    """The dictionaries that are trained together, their stream, and where they are."""

    inputs: Inputs
    members: Sequence[Member]
    hook_names: Sequence[str]
    """The sites of the stream."""
    stream: Stream
    training: Training
    positions: Mapping[str, Positions] = field(default_factory=dict)
    """Of the logs of members that are resumed."""

    @property
    def settings(self) -> RunSettings:
        """What members share."""
        return self.members[0].settings

    @property
    def saes(self) -> list[TrainableSAE]:
        return [trainer.sae for trainer in self.training.trainers]

    @property
    def n_tokens(self) -> int:
        return max(member.n_tokens for member in self.members)

    @property
    def pass_rows(self) -> int | None:
        """Rows of a pass over the text, the files or the cache; None where it is not known yet."""
        if not isinstance(self.stream, Prefetch):
            return self.stream.pass_rows
        return None if self.inputs.cache is None else self.inputs.cache.n_rows()

    @property
    def is_over(self) -> bool:
        """Whether the only dictionary of a run has diverged; a member of a sweep stops alone."""
        return bool(self.training.failures) and self.members[0].group is None

    def evaluate(self, saes: Sequence[SAE]) -> Iterator[tuple[int, EvalReport]]:
        """Measure dictionaries of the members with one pass of the model for each site.

        Each report comes with the position of its dictionary.
        """
        for hook_name in dict.fromkeys(member.hook_name for member in self.members):
            at_site = [i for i, m in enumerate(self.members) if m.hook_name == hook_name]
            its_saes = [saes[i] for i in at_site]
            yield from zip(at_site, self.inputs.evaluate(its_saes), strict=True)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Within it the stream can be read; at its end the dictionaries are finished."""
        try:
            with self.training:
                yield
        finally:
            close(self.stream)


def prepare(members: Sequence[Member], inputs: Inputs, sites: Sequence[str] = ()) -> Plan:
    """Build dictionaries and stream; `InputError` for what model, text or cache do not allow.

    `sites` are those of the stream, where it has others than those of the members.
    """
    hook_names = sites or tuple(dict.fromkeys(member.hook_name for member in members))
    saes = [inputs.build(member.settings) for member in members]
    stream = inputs.stream(hook_names, max(member.n_tokens for member in members))
    _ = inputs.held_out  # reads the text
    training = Training(saes, stream, [member.settings.training for member in members])
    return Plan(inputs, members, hook_names, stream, training)
