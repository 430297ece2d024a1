"""Featureloom trains sparse autoencoders (dictionaries) on the activations of transformers.

This module is its command; `featureloom --help` says what there is. In Python, import

    import sae                # dictionaries: fit, train, evaluate, load, save
    import activation_cache   # activations: load_model, harvest, ActivationCache

It imports neither, so that the overview takes no time. In the wheel it is at the top.
"""

import difflib
import importlib
import os
import sys
from importlib import metadata

COMMANDS = {
    "train": "train a dictionary on a model's activations, evaluate it, write a report",
    "evaluate": "measure a dictionary on held-out text: a run's, a file's, a published one's",
    "features": "what every feature of a dictionary responds to and does, from one pass over text",
    "harvest": "fill an activation cache, on disk or in object storage; verify or repair one",
    "sweep": "train a grid of dictionaries on one stream of activations, and compare them",
    "stability": "which features of a dictionary reappear over seeds, and in no random twin",
    "convert": "write a dictionary in the layout of SAELens, dictionary_learning or sparsify",
    "upload": "publish a dictionary on the Hugging Face hub, with a model card",
    "models": "print the sites of a model, and what was proven of each",
    "papers": "reproduce a paper: toy-models",
    "completion": "print the completion of the commands and flags for bash or zsh",
}
PAPERS = {"toy-models": "Toy Models of Superposition (Elhage et al. 2022)"}

CALM_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
"""Waiting OpenMP threads must not spin: on a busy machine that costs more than the work."""


def main(*before: str) -> None:
    """Run the command that the arguments name; `before` go in front of them."""
    arguments = [*before, *sys.argv[1:]]
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print(_overview("featureloom COMMAND [FLAGS]", COMMANDS))
    elif arguments[0] in ("-V", "--version"):
        print(f"featureloom {metadata.version('featureloom')}")
    elif arguments[0] == "papers" and arguments[1:2] in ([], ["-h"], ["--help"]):
        print(_overview("featureloom papers PAPER [SECTION] [FLAGS]", PAPERS))
    elif arguments[0] == "papers":
        _run(arguments[1:], PAPERS, "paper")
    else:
        _run(arguments, COMMANDS, "command")


def _run(arguments: list[str], known: dict[str, str], kind: str) -> None:
    name, *rest = arguments
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f": did you mean {near[0]}?" if near else f": it is one of {', '.join(known)}"
        print(f"error: unknown {kind} {name!r}{meant}", file=sys.stderr)
        sys.exit(2)
    for variable, value in CALM_THREADS.items():
        os.environ.setdefault(variable, value)  # before torch is imported
    from sae.commands.exits import run_command

    run_command(importlib.import_module(f"sae.commands.{name.replace('-', '_')}").main, rest)


def _overview(usage: str, known: dict[str, str]) -> str:
    rows = [f"  {name:<12} {about}" for name, about in known.items()]
    see = f"`{usage.split(' [')[0]} --help` has the flags of each."
    return "\n".join([f"usage: {usage}", "", *rows, "", see])


def __getattr__(name: str) -> object:
    raise AttributeError(
        f"featureloom has no {name!r}: import sae for dictionaries (fit, load, evaluate), "
        f"and activation_cache for activations (load_model, harvest)"
    )


if __name__ == "__main__":
    main()
