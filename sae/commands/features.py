"""Collect what every feature of a dictionary responds to and does, and show some."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

import sae.features
from activation_cache import text_batches
from activation_cache.common.ranks import rank_and_world
from sae.commands.dictionary import DictionaryFlags
from sae.commands.exits import fail
from sae.commands.flags import parse_named
from sae.commands.ranks import under_torchrun
from sae.features import Context, Features
from sae.runs.evaluation import model_of, source_of

N_SHOWN = 12
"""Features in the table at the end, evenly spread over the densities."""


@dataclass(frozen=True, kw_only=True)
class FeaturesFlags(DictionaryFlags):
    """Find out what every feature of a dictionary responds to and does, from one pass over text.

    Writes a folder that `sae.features.open` reads: top contexts and contexts of each quantile,
    tokens, histogram, co-activation, effect on the logits, neighbours. What the dictionary says
    about its model, site and text is used unless a flag says otherwise. The same command resumes
    one that was interrupted. Under torchrun, each process does a share.
    """

    n_tokens: int = 300_000
    """Tokens of its text to read."""
    out: Path | None = None
    """New folder for the features (features/ in the run; for other dictionaries, features)."""


@under_torchrun
def main(arguments: list[str]) -> None:
    flags, named = parse_named(FeaturesFlags, arguments)
    console = Console(quiet=rank_and_world()[0] > 0)
    dictionary, _ = flags.load(named, console)
    if dictionary.provenance.activations_path is not None:
        fail("the dictionary was trained on activations of no text: features need a model and text")
    model = model_of(dictionary.provenance, flags.device)
    is_run = flags.path is not None and (Path(flags.path) / "sae").is_dir()
    out = flags.out or (Path(str(flags.path)) if is_run else Path()) / "features"
    text = text_batches(model, source_of(dictionary.provenance), flags.n_tokens)
    features = sae.features.collect(model, dictionary.to(model.device), text, out)
    console.print(_table(features))
    console.print(f"features  {out}", markup=False, soft_wrap=True)
    console.print(
        f"in Python  sae.features.open({str(out)!r})[1].top", markup=False, soft_wrap=True
    )


def _table(features: Features) -> Table:
    """Some features with a context of each, from the most to the least dense one."""
    table = Table("feature", "density", "max", "fires on", "in")
    density = features.numbers("density")
    order = density.argsort(descending=True)[: int((density > 0).sum())]
    for index in order[:: max(1, len(order) // N_SHOWN)][:N_SHOWN].tolist():
        feature = features[index]
        tokens = " ".join(repr(features.word(token)) for token, _ in feature.tokens[:3])
        numbers = (f"{index}", f"{feature.density:.2%}", f"{feature.max:.3g}")
        table.add_row(*numbers, Text(tokens), Text(_shown(feature.top[0])))
    return table


def _shown(context: Context) -> str:
    """The token and a few around it, on a line."""
    before = "".join(context.tokens[max(0, context.at - 6) : context.at])
    after = "".join(context.tokens[context.at + 1 : context.at + 3])
    return repr(f"{before}[[{context.tokens[context.at]}]]{after}")[1:-1]
