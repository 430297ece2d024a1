"""Collect the features of a dictionary that says where it belongs, and write their pages."""

import shutil
from pathlib import Path
from typing import Any

import sae.features
from activation_cache import LanguageModel, text_batches
from activation_cache.common.errors import InputError
from activation_cache.common.ranks import rank_and_world
from activation_cache.common.weights import hash_of
from sae.base import SAE
from sae.features import Features
from sae.features.folder import FACTS
from sae.features.notes import NOTES
from sae.pages.browser import write_browser
from sae.runs.evaluation import source_of


def collect_features(
    dictionary: SAE[Any], model: LanguageModel, out: Path, n_tokens: int, *, progress: bool = True
) -> Features:
    """What every feature responds to in the text of the dictionary, and the pages that show it.

    Features that are in `out` already are not collected again; `InputError` where they are of
    another dictionary.
    """
    if (out / FACTS).exists():
        features = sae.features.open(out)
        if features.facts.dictionary != hash_of(dictionary.state_dict()):
            raise InputError(f"{out} holds features of another dictionary: give another --out")
    else:
        text = text_batches(model, source_of(dictionary.provenance), n_tokens)
        features = sae.features.collect(model, dictionary, text, out, progress=progress)
    if rank_and_world()[0] == 0:
        write_browser(features, dictionary)
    return features


def forget_features(out: Path) -> None:
    """Remove the features of a dictionary that trains for longer; what people wrote stays."""
    for path in out.iterdir() if out.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != NOTES:
            path.unlink()
