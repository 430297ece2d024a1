"""Evaluate a saved dictionary: reconstruction, sparsity, and cross-entropy with it spliced in."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

import sae
from activation_cache.common.files import write_file
from activation_cache.common.types import Processing
from activation_cache.text.config import DOCSTRINGS, TextConfig
from sae.commands.exits import fail, refuse_unwritable
from sae.commands.flags import parse_named
from sae.hub.releases import locate
from sae.loading import load_release
from sae.provenance import Provenance
from sae.runs.evaluation import evaluate_dictionary, text_metadata, text_of
from sae.runs.sinks.summary import print_advice, summary_table

UNSAID: dict[str, Any] = {"dataset_path": DOCSTRINGS, "eval_tokens": 65_536, "context_size": 128}
"""What a dictionary of another project is evaluated on, where it does not say."""


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags(TextConfig):
    """Evaluate a dictionary on held-out text: of a run, of a folder, or a published one.

    What the dictionary says about its model, site and text is used unless a flag says otherwise.
    One that does not say its text is evaluated on 65,536 tokens of documentation, in blocks of 128.
    """

    path: str | None = field(
        default=None, metadata={"positional": True, "metavar": "RUN_OR_DICTIONARY"}
    )
    """A run, the folder or file of a dictionary, or hf://user/repo[@revision]/path."""
    release: str | None = None
    """A published release, such as gpt2-small-res-jb, with --hook-name."""
    model: str | None = None
    """Another language model than it was trained on."""
    hook_name: str | None = field(default=None, metadata={"aliases": ("--hook",)})
    """Another site than it was trained on; of a release, which dictionary."""
    processing: Processing | None = None
    """Foldings that the dictionary's activations had (as it says). They are TransformerLens'
    options center_writing_weights and fold_value_biases."""
    eval_tokens: int | None = None
    """Held-out tokens to evaluate on (as it says, or 65,536)."""
    context_size: int | None = None
    """Tokens in each block that the model sees (as it says, or 128)."""
    other_text: bool = False
    """Evaluate although the text has changed since training. Naming another --dataset says the
    same."""
    device: str = "auto"
    """Where to compute: auto (CUDA if there is one), cpu, cuda or cuda:N."""
    out: Path | None = None
    """Write eval.json to this file."""


def load(flags: EvaluateFlags, console: Console) -> sae.SAE:
    """The dictionary that is named, in one way."""
    if flags.release is None:
        if flags.path is None:
            fail("RUN_OR_DICTIONARY is required, or --release with --hook-name")
        return sae.load(flags.path)
    if flags.path is not None or flags.hook_name is None:
        fail("--release needs --hook-name and no RUN_OR_DICTIONARY")
    location = locate(flags.release, flags.hook_name)
    dictionary = load_release(flags.release, flags.hook_name)
    console.print(f"loaded {location.address}", soft_wrap=True, markup=False)
    if str(location.published):
        console.print(f"published: {location.published}", soft_wrap=True, markup=False)
    return dictionary


def main(arguments: list[str]) -> None:
    flags, named = parse_named(EvaluateFlags, arguments)
    if flags.out is not None:
        refuse_unwritable(flags.out)
    console = Console()
    dictionary = load(flags, console)
    given = {
        "model_name": flags.model,
        "hook_name": None if flags.release else flags.hook_name,
        "eval_tokens": flags.eval_tokens,
        "context_size": flags.context_size,
        "processing": flags.processing,
    }
    given = {name: value for name, value in given.items() if value is not None}
    known = Provenance.from_metadata({**UNSAID, **dictionary.provenance.to_metadata(), **given})
    text = {name: getattr(flags, name) for name in asdict(TextConfig()) if name in named}
    other = replace(text_of(known), **text)
    is_other = flags.other_text or other != text_of(known)
    dictionary.provenance = replace(known, **text_metadata(other))
    report = evaluate_dictionary(dictionary, device=flags.device, other_text=is_other)
    its = dictionary.provenance
    where = f"{dictionary.hook_name} of {its.model_name or its.activations_path}"
    title = f"{dictionary.cfg.architecture} dictionary on {where}"
    counts_all = bool(dictionary.provenance.all_positions)
    if is_other:
        console.print(f"on other text than it names: {other.source}", soft_wrap=True, markup=False)
    console.print(summary_table(report, title, all_positions=counts_all))
    print_advice(report, console)
    if flags.out is not None:
        write_file(flags.out, report.to_json() + "\n")
        console.print(f"written to {flags.out}", soft_wrap=True, markup=False)
