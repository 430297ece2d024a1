"""Collect what every feature of a dictionary responds to and does, and show some."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import sae
from activation_cache import LanguageModel
from activation_cache.common.ranks import rank_and_world
from activation_cache.common.schema import convert
from sae.commands.dictionary import DictionaryFlags
from sae.commands.exits import fail
from sae.commands.flags import parse_named
from sae.commands.ranks import under_torchrun
from sae.features import Context, Features, to_neuronpedia
from sae.features.neuronpedia import SourceName
from sae.pages.browser import PAGE, PARTS
from sae.pages.run_report import write_report
from sae.pages.server import Answer, PageServer
from sae.pages.telling_features import FEATURES
from sae.runs.evaluation import model_of
from sae.runs.features import collect_features
from sae.runs.prompts import Prompts

N_SHOWN = 12
"""Features in the table at the end, evenly spread over the densities."""


@dataclass(frozen=True, kw_only=True)
class FeaturesFlags(DictionaryFlags):
    """Find out what every feature of a dictionary responds to and does, from one pass over text.

    Writes a folder of pages to look at, index.html, which need no network, and which
    `sae.features.open` reads: top contexts and contexts of each quantile, tokens, histogram,
    co-activation, effect on the logits, neighbours. What the dictionary says about its model, site
    and text is used unless a flag says otherwise. The same command resumes one that was
    interrupted, and opens what is there. Under torchrun, each process does a share.
    """

    n_tokens: int = 300_000
    """Tokens of its text to read."""
    out: Path | None = None
    """New folder for the features (features/ in the run; for other dictionaries, features)."""
    serve: bool = False
    """Serve the pages to this machine, with a page to try prompts on."""
    port: int = 0
    """Of --serve; 0 takes a free one."""
    neuronpedia: str | None = field(default=None, metadata={"metavar": "MODEL_ID/SOURCE"})
    """Write them for Neuronpedia too, where the dictionary is called so: gpt2-small/4-res-mine."""

    def __post_init__(self) -> None:
        if self.neuronpedia is not None:
            SourceName.parse(self.neuronpedia)  # a wrong one is found before any work


@under_torchrun
def main(arguments: list[str]) -> None:
    flags, named = parse_named(FeaturesFlags, arguments)
    console = Console(quiet=rank_and_world()[0] > 0)
    dictionary, _ = flags.load(named, console)
    if dictionary.provenance.activations_path is not None:
        fail("the dictionary was trained on activations of no text: features need a model and text")
    model = model_of(dictionary.provenance, flags.device)
    dictionary = dictionary.to(model.device)
    folder = Path(flags.path or "")
    is_run = flags.path is not None and (folder / "config.json").is_file()
    out = flags.out or (folder if is_run else Path()) / FEATURES
    features = collect_features(dictionary, model, out, flags.n_tokens)
    if rank_and_world()[0] > 0:
        return
    page = out / PAGE
    if is_run and out == folder / FEATURES:
        write_report(folder)  # which shows some of them
    console.print(_table(features))
    written = {"features": out, "pages": page}
    if flags.neuronpedia is not None:
        exported = out / "neuronpedia"
        name = flags.neuronpedia
        written["neuronpedia"] = to_neuronpedia(features, dictionary, name, exported, model=model)
    for name, what in written.items():
        console.print(f"{name:<12} {what}", markup=False, soft_wrap=True)
    in_python = f"sae.features.open({str(out)!r})[1].top"
    console.print(f"{'in Python':<12} {in_python}", markup=False, soft_wrap=True)
    if flags.serve:
        answers = answers_of(features, model, dictionary)
        with PageServer(page, PARTS, answers, flags.port) as server:
            console.print(f"{'served':<12} {server.url}", markup=False, soft_wrap=True)
            server.serve_forever()


@dataclass(frozen=True)
class Note:
    """What somebody writes about a feature on its page."""

    feature: int
    note: str


def answers_of(features: Features, model: LanguageModel, dictionary: sae.SAE) -> dict[str, Answer]:
    """What the served pages may ask."""

    def keep(asked: Mapping[str, Any]) -> dict[int, str]:
        note = convert(Note, asked, "note")
        features.notes.write(features[note.feature].index, note.note)
        return features.notes.read()

    return {"prompt": Prompts(model, dictionary).answer, "note": keep}


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
