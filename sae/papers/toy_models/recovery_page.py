"""What dictionaries recovered, as a table and as a figure."""

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae.toy.recovery import Recovery

COLUMNS = {
    "MMCS": "mmcs",
    "share > 0.9": "share_above_0_9",
    "MCC": "mcc",
    "uniqueness": "uniqueness",
    "FVU": "fvu",
    "L0": "l0",
    "dead": "dead",
    "F1": "f1",
    "shrinkage": "shrinkage",
}


def table(results: Mapping[str, Sequence[Recovery]]) -> str:
    """A row for every dictionary: means over seeds, and the spread of MMCS."""
    lines = [f"| dictionary | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, rows in results.items():
        cells = [f"{_mean(rows, metric):.3g}" for metric in COLUMNS.values()]
        low, high = min(row.mmcs for row in rows), max(row.mmcs for row in rows)
        cells[0] = f"{_mean(rows, 'mmcs'):.3f} ({low:.3f} to {high:.3f})"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(results: Mapping[str, Sequence[Recovery]]) -> Figure:
    """Recovery and error against the penalty; and recovery by architecture."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    over_penalty, by_name = figure.subplots(1, 2)
    _draw_penalties(over_penalty, results)
    names = list(results)
    for i, name in enumerate(names):
        values = [row.mmcs for row in results[name]]
        by_name.plot(values, [i] * len(values), "o", color="tab:blue", alpha=0.5)
    by_name.set_yticks(range(len(names)), names, fontsize=8)
    by_name.invert_yaxis()
    by_name.axvline(0.98, color="0.6", linestyle=":")
    by_name.set(xlabel="MMCS, a dot a seed", title="recovery by dictionary")
    by_name.grid(axis="x", alpha=0.25)
    return figure


def _draw_penalties(panel: Axes, results: Mapping[str, Sequence[Recovery]]) -> None:
    prefix = "relu, l1 "
    by_coeff = {
        float(name.removeprefix(prefix)): rows
        for name, rows in results.items()
        if name.startswith(prefix) and "," not in name.removeprefix(prefix)
    }
    coeffs = sorted(by_coeff)
    for label, metric in (("MMCS", "mmcs"), ("FVU", "fvu"), ("shrinkage", "shrinkage")):
        values = [_mean(by_coeff[c], metric) for c in coeffs]
        panel.plot([max(c, 0.01) for c in coeffs], values, "o-", label=label)
    panel.set_xscale("log")
    panel.set_xticks([max(c, 0.01) for c in coeffs], [f"{c:g}" for c in coeffs])
    panel.minorticks_off()
    panel.set(xlabel="L1 penalty (0 at the left)", title="less error is not more recovery")
    panel.legend(frameon=False)
    panel.grid(alpha=0.25)


def _mean(rows: Sequence[Recovery], metric: str) -> float:
    return statistics.fmean(getattr(row, metric) for row in rows)
