"""What the sections have in common: what is asked of them, and what they give."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from sae.papers.claims import Claim, Gate, Numbers, judge
from sae.toy import Features, ToyModels, ToyTrainConfig, train_toy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to compute. What is None is the section's own."""

    quick: bool = False
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    n: int | None = None
    m: int | None = None
    densities: tuple[float, ...] | None = None
    """Probabilities p = 1 - S that a feature is active."""
    instances: int | None = None
    """Restarts, or models of a setting."""
    steps: int | None = None
    device: str = "cpu"

    def choose(self, full: int, quick: int) -> int:
        """A number of steps, restarts or points: the one for the whole, or the one for seconds."""
        return quick if self.quick else full

    @property
    def has_gates(self) -> bool:
        """Whether the thresholds apply: they are of the paper's sizes."""
        return self.n is None and self.m is None and self.densities is None

    def judge(
        self,
        section: str,
        gates: Iterable[Gate],
        measured: Sequence[Numbers],
        controls: Mapping[str, Sequence[Numbers]] | None = None,
    ) -> list[Claim]:
        """The claims of a section, as far as its thresholds apply at these sizes."""
        if not self.has_gates:
            return []
        return judge(section, gates, measured, controls, quick=self.quick)


@dataclass(frozen=True)
class Outcome:
    """What a section found."""

    claims: list[Claim]
    figures: "dict[str, Figure]" = field(default_factory=dict)
    """By file name, without its end."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """For `result.json`: what the figures are made of."""
    tables: dict[str, str] = field(default_factory=dict)
    """For pages of the documentation, by the name of their place there."""

    def write(self, folder: Path) -> None:
        """Figures in both formats, and tables in Markdown."""
        for name, table in self.tables.items():
            (folder / f"{name}.md").write_text(table + "\n")
        for name, figure in self.figures.items():
            for kind in ("png", "svg"):
                figure.savefig(folder / f"{name}.{kind}", dpi=150)


def fit(
    models: ToyModels,
    features: Features,
    cfg: ToyTrainConfig,
    importance: Float[Tensor, "*S n"] | float = 1.0,
) -> ToyModels:
    """The models, trained."""
    for _ in train_toy(models, features, cfg, importance):
        pass
    return models
