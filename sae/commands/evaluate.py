"""Evaluate a saved dictionary: reconstruction, sparsity, and cross-entropy with it spliced in."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from activation_cache.common.files import write_file
from sae.commands.dictionary import DictionaryFlags
from sae.commands.exits import refuse_unwritable
from sae.commands.flags import parse_named
from sae.runs.evaluation import evaluate_dictionary, text_of
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
    out: Path | None = None
    """Write eval.json to this file."""


def main(arguments: list[str]) -> None:
    flags, named = parse_named(EvaluateFlags, arguments)
    if flags.out is not None:
        refuse_unwritable(flags.out)
    console = Console()
    dictionary, is_other = flags.load(named, console, eval_tokens=flags.eval_tokens)
    is_other |= flags.other_text
    report = evaluate_dictionary(dictionary, device=flags.device, other_text=is_other)
    its = dictionary.provenance
    where = f"{dictionary.hook_name} of {its.model_name or its.activations_path}"
    title = f"{dictionary.cfg.architecture} dictionary on {where}"
    counts_all = bool(dictionary.provenance.all_positions)
    if is_other:
        console.print(
            f"on other text than it names: {text_of(its).source}", soft_wrap=True, markup=False
        )
    console.print(summary_table(report, title, all_positions=counts_all))
    print_advice(report, console)
    if flags.out is not None:
        write_file(flags.out, report.to_json() + "\n")
        console.print(f"written to {flags.out}", soft_wrap=True, markup=False)
