"""What a paper claims, held against what we measure, and against controls that must fail."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from activation_cache.common.files import write_file

RESULT = "result.json"

Numbers = Mapping[str, Any]
"""What was measured on one seed, by name."""


@dataclass(frozen=True)
class Claim:
    """A row of the table of claims."""

    id: str
    section: str
    claim: str
    paper: str
    """The paper's number, in its words."""
    ours: float | None
    """The median over seeds; None where it is no number."""
    spread: tuple[float, float] | None
    """The least and the largest over seeds."""
    gate: str
    """What must hold on every seed."""
    passed: bool | None
    """Whether it does; of a control, whether it fails on every seed, as it should. None where it is
    not judged."""
    control: bool = False

    @property
    def shown(self) -> str:
        """Our value and its spread, to three digits."""
        if self.ours is None or self.spread is None:
            return "none"
        low, high = self.spread
        spread = "" if f"{low:.3g}" == f"{high:.3g}" else f" ({low:.3g} to {high:.3g})"
        return f"{self.ours:.3g}{spread}"


@dataclass(frozen=True)
class Gate:
    """How a claim is checked: on the numbers of every seed, and on those of the controls."""

    id: str
    claim: str
    paper: str
    gate: str
    value: str
    """The name of the number that is shown."""
    holds: Callable[[Numbers], bool]
    fails_for: tuple[str, ...] = ()
    """Controls of which it must not hold."""
    judged_quick: bool = True
    """Whether a quick run is enough to judge it, and its controls."""


def judge(
    section: str,
    gates: Iterable[Gate],
    measured: Sequence[Numbers],
    controls: Mapping[str, Sequence[Numbers]] | None = None,
    *,
    quick: bool = False,
) -> list[Claim]:
    """A row for every gate, and below it one for every control that it must refuse.

    `measured` has the numbers of each seed; `controls` those of models that the claim is not about:
    untrained, linear or dense ones.
    """
    claims: list[Claim] = []
    for gate in gates:
        is_judged = gate.judged_quick or not quick
        holds = all(map(gate.holds, measured)) if is_judged else None
        claims.append(_row(section, gate, measured, holds))
        for name in gate.fails_for:
            numbers = (controls or {})[name]
            refused = not any(map(gate.holds, numbers)) if is_judged else None
            claims.append(_row(section, gate, numbers, refused, control=name))
    return claims


def _row(
    section: str, gate: Gate, measured: Sequence[Numbers], passed: bool | None, control: str = ""
) -> Claim:
    values = [float(numbers[gate.value]) for numbers in measured]
    finite = [value for value in values if math.isfinite(value)]
    return Claim(
        id=f"{gate.id}/{control}" if control else gate.id,
        section=section,
        claim=f"{gate.claim} (control: {control})" if control else gate.claim,
        paper=gate.paper,
        ours=statistics.median(finite) if finite else None,
        spread=(min(finite), max(finite)) if finite else None,
        gate=f"not: {gate.gate}" if control else gate.gate,
        passed=passed,
        control=bool(control),
    )


def write_result(
    folder: Path, section: str, claims: Sequence[Claim], about: Mapping[str, Any]
) -> None:
    """Put a section's claims and numbers into `result.json`, in place of what it had of them."""
    result = _read(folder)
    others = [row for row in result["claims"] if row["section"] != section]
    result["claims"] = others + [asdict(claim) for claim in claims]
    result["sections"][section] = dict(about)
    write_file(folder / RESULT, json.dumps(_finite(result), indent=2, allow_nan=False) + "\n")


def read_claims(folder: Path) -> list[Claim]:
    """All claims in `result.json`."""
    rows = _read(folder)["claims"]
    return [Claim(**{**row, "spread": row["spread"] and tuple(row["spread"])}) for row in rows]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / RESULT
    return json.loads(path.read_text()) if path.exists() else {"claims": [], "sections": {}}


def _finite(node: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(node, Mapping):
        return {str(key): _finite(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def markdown_table(claims: Sequence[Claim]) -> str:
    """The claims as a table for a page: a row each, with what the controls measure at its end."""
    lines = [
        "| claim | paper | ours (spread) | gate | holds | controls, which fail |",
        "|---" * 6 + "|",
    ]
    for row in claims:
        if row.control:
            continue
        controls = [c for c in claims if c.control and c.id.startswith(f"{row.id}/")]
        cells = (
            row.claim,
            row.paper,
            row.shown,
            row.gate,
            {True: "yes", False: "**no**", None: "not judged"}[row.passed],
            "; ".join(map(_control_cell, controls)),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _control_cell(control: Claim) -> str:
    shown = f"{control.id.rsplit('/', 1)[1]} {control.shown}"
    return f"**{shown} passes**" if control.passed is False else shown
