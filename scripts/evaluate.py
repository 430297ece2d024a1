"""Evaluate a saved dictionary: reconstruction, sparsity, and cross-entropy with it spliced in."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from cli import parse, refuse_unwritable, run_script
from rich.console import Console

import sae
from sae.runs import evaluate_dictionary
from sae.runs.files import write_text
from sae.runs.summary import summary_table


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """Evaluate the dictionary of a run, or of any folder that holds one, on held-out text.

    What the dictionary says about its model, site and text is used unless a flag says otherwise.
    """

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_DICTIONARY")]
    """A run folder, or the folder of a dictionary."""
    model: str | None = None
    """Another language model than the one it was trained on."""
    hook_name: str | None = None
    """Another site than the one it was trained on."""
    dataset: str | None = None
    """Other text: docstrings, a .txt, .json, .jsonl or .parquet file, or a hub id."""
    eval_tokens: int | None = None
    """Held-out tokens to evaluate on."""
    context_size: int | None = None
    """Tokens in each block that the model sees."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""
    out: Path | None = None
    """Write eval.json to this file."""


def main() -> None:
    flags = parse(EvaluateFlags, sys.argv[1:])
    if flags.out is not None:
        refuse_unwritable(flags.out)
    dictionary = sae.load(flags.path)
    given = {
        "model_name": flags.model,
        "hook_name": flags.hook_name,
        "dataset_path": flags.dataset,
        "eval_tokens": flags.eval_tokens,
        "context_size": flags.context_size,
    }
    dictionary.metadata |= {name: value for name, value in given.items() if value is not None}
    report = evaluate_dictionary(dictionary, device=flags.device)
    where = f"{dictionary.hook_name} of {dictionary.metadata['model_name']}"
    console = Console()
    console.print(summary_table(report, f"{dictionary.cfg.architecture} dictionary on {where}"))
    if flags.out is not None:
        write_text(flags.out, report.to_json() + "\n")
        console.print(f"written to {flags.out}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_script(main)
