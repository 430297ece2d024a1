"""Evaluate a saved dictionary: reconstruction, sparsity, and cross-entropy with it spliced in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from activation_cache.common.files import write_file
from sae.base import SAE
from sae.commands.dictionary import DictionaryFlags
from sae.commands.exits import fail, refuse_unwritable
from sae.commands.flags import parse_named
from sae.evaluation import EvalReport
from sae.pages.run_report import write_report
from sae.runs.evaluation import evaluate_dictionary, model_of, text_of, text_to_evaluate_on
from sae.runs.full_evaluation import FullReport, evaluate_fully
from sae.runs.sinks.compared import print_compared
from sae.runs.sinks.full_summary import baselines_table, error_table
from sae.runs.sinks.summary import print_advice, summary_table


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags(DictionaryFlags):
    """Evaluate a dictionary on held-out text: of a run, of a folder, or a published one.

    What the dictionary says about its model, site and text is used unless a flag says otherwise.
    One that does not say its text is evaluated on 65,536 tokens of documentation, in blocks of 128.
    """

    eval_tokens: int | None = None
    """Held-out tokens to evaluate on (as it says, or 65,536)."""
    other_text: bool = False
    """Evaluate although the text has changed since training. Naming another --dataset says the
    same."""
    full: bool = False
    """Also evaluate baselines (identity, mean, zero, random directions, neurons, PCA) on the same
    text, and split the error. Of a run, eval.json and report.html get it."""
    baseline: tuple[Literal["ica", "nmf"], ...] = ()
    """With --full, a baseline that takes longer. Repeatable."""
    compare: bool = False
    """Print the same reconstruction in other projects' conventions too, and write them to eval.json
    as `compared`. Takes up to twice as long."""
    out: Path | None = None
    """Write eval.json to this file."""


def main(arguments: list[str]) -> None:
    flags, named = parse_named(EvaluateFlags, arguments)
    if flags.out is not None:
        refuse_unwritable(flags.out)
    console = Console()
    dictionary, is_other = flags.load(named, console, eval_tokens=flags.eval_tokens)
    is_other |= flags.other_text
    its = dictionary.provenance
    full = _evaluated_fully(flags, dictionary, is_other) if flags.full else None
    report = (
        evaluate_dictionary(
            dictionary, device=flags.device, other_text=is_other, compare=flags.compare
        )
        if full is None
        else full.dictionary
    )
    where = f"{dictionary.hook_name} of {its.model_name or its.activations_path}"
    title = f"{dictionary.cfg.architecture} dictionary on {where}"
    counts_all = bool(dictionary.provenance.all_positions)
    if is_other:
        console.print(
            f"on other text than it names: {text_of(its).source}", soft_wrap=True, markup=False
        )
    console.print(summary_table(report, title, all_positions=counts_all))
    print_advice(report, console)
    if flags.compare:
        print_compared(report, console)
    if full is not None:
        _print_full(full, console)
    _write(flags, full or report, console, into_run=full is not None and not is_other)


def _print_full(full: FullReport, console: Console) -> None:
    console.print(baselines_table(full))
    if full.error is not None:
        console.print(error_table(full.error))
    for line in full.warnings:
        console.print(f"warning: {line}", markup=False, soft_wrap=True)


def _write(
    flags: EvaluateFlags, report: EvalReport | FullReport, console: Console, *, into_run: bool
) -> None:
    """To --out, or into the run that was named, whose page shows it then."""
    run = Path(flags.path or "")
    is_run = flags.path is not None and (run / "config.json").is_file()
    out = flags.out or (run / "eval.json" if into_run and is_run else None)
    if out is None:
        return
    write_file(out, report.to_json() + "\n")
    console.print(f"written to {out}", soft_wrap=True, markup=False)
    if is_run and out == run / "eval.json":
        write_report(run)


def _evaluated_fully(flags: EvaluateFlags, dictionary: SAE, is_other: bool) -> FullReport:
    its = dictionary.provenance
    if its.activations_path is not None:
        fail("--full needs a model and text, and activations in files have neither: drop it")
    model = model_of(its, flags.device)
    text = text_to_evaluate_on(model, its, other_text=is_other)
    dictionary = dictionary.to(model.device)
    return evaluate_fully(dictionary, model, text, flags.baseline, compare=flags.compare)
