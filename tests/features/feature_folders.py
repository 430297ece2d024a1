"""Folders of features for tests: a dictionary on a model that is a table, with any vocabulary."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sae
import sae.features
from sae.architectures import ReLUConfig

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\\xe2\\x80",
    "\u202eback",
    "\"quoted'",
    "\u2028line",
    "\x00\x1b[31m",
    "{{7*7}}",
    "&lt;",
    " the",
    "\n\n",
    "\ud7ff\u200bjoined",
]
"""Tokens that would do harm, or hide, as anything but text."""


class Words:
    """A tokenizer as far as features ask it: ids and their text."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)

    def __len__(self) -> int:
        return len(self._words)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self._words[i] for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._words[i] for i in ids)


class TableModel:
    """Activations are rows of a table, looked up by token id; so are logits."""

    def __init__(self, words: Sequence[str], d_in: int = 4) -> None:
        self.tokenizer = Words(words)
        rows = torch.randint(-2, 4, (len(words), d_in), generator=torch.Generator().manual_seed(1))
        self.table = rows.float()

    def activations(self, tokens: Tensor, hook_names: Sequence[str]) -> dict[str, Tensor]:
        return {name: self.table[tokens] for name in hook_names}

    def direct_effect(self, hook_name: str) -> Any:
        return lambda rows: rows @ self.table.T


def hostile_features(folder: Path, d_sae: int = 70) -> tuple[sae.features.Features, sae.SAE]:
    """Features on a text of hostile tokens, and the dictionary; feature 3 never fires."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, len(HOSTILE), (14, 6), generator=generator)
    counted = torch.ones_like(tokens, dtype=torch.bool)
    dictionary = ReLUConfig(d_sae=d_sae).build(4)
    rows = torch.randint(-1, 2, (d_sae, 4), generator=generator).float()
    rows[3] = 0
    assert dictionary.untied_W_enc_rows is not None
    dictionary.untied_W_enc_rows.data.copy_(rows)
    dictionary.provenance = sae.Provenance(hook_name="blocks.0.hook_resid_pre")
    dictionary.requires_grad_(False)
    model = TableModel(HOSTILE)
    text = [(tokens, counted)]
    return sae.features.collect(model, dictionary, text, folder, progress=False), dictionary
