"""Write a dictionary in the layout of another project, and say how exact the copy is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

import sae
from activation_cache import InputError, SourceConfig, load_model
from activation_cache.stream.source import ActivationSource
from sae.commands.exits import fail
from sae.commands.flags import parse
from sae.interop import export
from sae.interop.compare import Differences, compare


@dataclass(frozen=True, kw_only=True)
class ConvertFlags:
    """Write a dictionary in the layout of another project, and say how exact the copy is."""

    source: str = field(metadata={"positional": True, "metavar": "SRC"})
    """A run, the folder or file of a dictionary, or hf://user/repo/path."""
    target: Path = field(metadata={"positional": True, "metavar": "DST"})
    """The folder to write, which must not exist yet."""
    to: Literal["saelens", "dictionary_learning", "sparsify"]
    """Layout to write."""
    model: str | None = None
    """Model to compare on, if the dictionary does not say."""
    hook_name: str | None = None
    """Site to compare on, if the dictionary does not say."""
    n_tokens: int = 4096
    """Random activation vectors to compare on, and as many real ones."""
    index: int | None = None
    """Which dictionary of a file that holds several."""
    norm_scaling_factor: float | None = None
    """What activations were scaled by, if the files do not say."""


def random_activations(dictionary: sae.SAE, n_tokens: int) -> Float[Tensor, "n d_in"]:
    """Around the decoder's bias, where activations are, where that is of their width."""
    x = torch.randn(n_tokens, dictionary.d_in, generator=torch.Generator().manual_seed(0))
    b_dec = dictionary.b_dec.detach()
    if len(b_dec) != dictionary.d_in:  # a transcoder's is where its output is
        return x
    return b_dec + x * max(1.0, b_dec.std().item())


def real_activations(dictionary: sae.SAE, flags: ConvertFlags) -> Float[Tensor, "n d_in"]:
    """Of held-out text, at the dictionary's site; `InputError` where they are not available."""
    name = flags.model or dictionary.provenance.model_name
    hook_name = flags.hook_name or dictionary.hook_name
    if name is None or hook_name is None:
        raise InputError("the dictionary does not say its model and site: --model and --hook-name")
    processing = dictionary.provenance.processing or "raw"
    model = load_model(name, device="cpu", processing=processing)
    cfg = SourceConfig(hook_names=(hook_name,), context_size=min(128, model.max_context_size))
    source = ActivationSource(model, cfg)
    if source.widths[hook_name] != dictionary.d_in:
        raise InputError(
            f"{hook_name} of {name} has width {source.widths[hook_name]}, and the dictionary "
            f"takes {dictionary.d_in}"
        )
    rows: list[Tensor] = []
    for tokens in source.token_blocks("held_out", repeat=False):
        x = model.activations(tokens, [hook_name])[hook_name]
        rows.append(x[source.counted(tokens)])
        if sum(map(len, rows)) >= flags.n_tokens:
            break
    return torch.cat(rows)[: flags.n_tokens]


def table(found: dict[str, Differences]) -> Table:
    shown = Table(title="largest difference between the dictionary and its copy")
    for column in ("activations", "tokens", "features", "support", "reconstruction"):
        shown.add_column(column, justify="left" if column == "activations" else "right")
    for name, its in found.items():
        shown.add_row(
            name,
            f"{its.n_tokens:,}",
            f"{its.features:.1g} of {its.largest_feature:.4g}",
            f"{its.support:,}",
            f"{its.reconstruction:.1g} of {its.largest_reconstruction:.4g}",
        )
    return shown


def main(arguments: list[str]) -> None:
    flags = parse(ConvertFlags, arguments)
    if flags.target.exists():
        fail(f"{flags.target} exists: name a folder that does not, which will be made")
    hints = {"index": flags.index, "norm_scaling_factor": flags.norm_scaling_factor}
    dictionary = sae.load(flags.source, **hints)
    export(dictionary, flags.target, to=flags.to)
    copy = sae.load(flags.target)
    console = Console()
    found = {"random": compare(dictionary, copy, random_activations(dictionary, flags.n_tokens))}
    try:
        found["real"] = compare(dictionary, copy, real_activations(dictionary, flags))
    except InputError as error:
        console.print(f"not compared on real activations: {error}", soft_wrap=True, markup=False)
    console.print(table(found))
    console.print(f"written to {flags.target}", soft_wrap=True, markup=False)
