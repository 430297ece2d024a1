"""A dictionary that is named on the command line, and the text that it is used on."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rich.console import Console

import sae
from activation_cache.common.types import Processing
from activation_cache.text.config import DOCSTRINGS, TextConfig
from sae.commands.exits import fail
from sae.hub.releases import locate
from sae.loading import load_release
from sae.provenance import Provenance
from sae.runs.evaluation import text_metadata, text_of

UNSAID: dict[str, Any] = {"dataset_path": DOCSTRINGS, "eval_tokens": 65_536, "context_size": 128}
"""What a dictionary of another project is used on, where it does not say."""

CUT_BY = ("eval_tokens", "context_size")
"""With other values of these, the same documents give other tokens."""


@dataclass(frozen=True, kw_only=True)
class DictionaryFlags(TextConfig):
    """A dictionary, its model and its text; what it says itself is used unless a flag does."""

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
    context_size: int | None = None
    """Tokens in each block that the model sees (as it says, or 128)."""
    device: str = "auto"
    """Where to compute: auto (CUDA if there is one), cpu, cuda or cuda:N."""

    def load(self, named: Collection[str], console: Console, **given: Any) -> tuple[sae.SAE, bool]:
        """The dictionary, whose provenance says what to use, and whether the text is another than
        it said. `named` are the flags that were given; `given` is more of the provenance, None
        where it stays."""
        dictionary = self._load(console)
        given |= {
            "model_name": self.model,
            "hook_name": None if self.release else self.hook_name,
            "context_size": self.context_size,
            "processing": self.processing,
        }
        given = {name: value for name, value in given.items() if value is not None}
        its = dictionary.provenance.to_metadata()
        known = Provenance.from_metadata({**UNSAID, **its, **given})
        is_cut_otherwise = (its.get(name) not in (None, getattr(known, name)) for name in CUT_BY)
        if known.eval_text and any(is_cut_otherwise):
            documents = {name: value for name, value in known.eval_text.items() if name != "tokens"}
            known = replace(known, eval_text=documents)
        text = {name: getattr(self, name) for name in asdict(TextConfig()) if name in named}
        chosen = replace(text_of(known), **text)
        dictionary.provenance = replace(known, **text_metadata(chosen))
        return dictionary, chosen != text_of(known)

    def _load(self, console: Console) -> sae.SAE:
        if self.release is None:
            if self.path is None:
                fail("RUN_OR_DICTIONARY is required, or --release with --hook-name")
            return sae.load(self.path)
        if self.path is not None or self.hook_name is None:
            fail("--release needs --hook-name and no RUN_OR_DICTIONARY")
        location = locate(self.release, self.hook_name)
        dictionary = load_release(self.release, self.hook_name)
        console.print(f"loaded {location.address}", soft_wrap=True, markup=False)
        if str(location.published):
            console.print(f"published: {location.published}", soft_wrap=True, markup=False)
        return dictionary
