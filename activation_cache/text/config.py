"""Which text is read, and as what."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from activation_cache.common.errors import InputError, refuse_not_positive
from activation_cache.common.schema import convert
from activation_cache.text.files import is_local

Split = Literal["train", "held_out"]
"""Of every source: `is_held_out` in split.py decides by document."""

SPLITS: tuple[Split, Split] = ("train", "held_out")

DOCSTRINGS = "docstrings"
"""The source that every installation has."""

PlainText = Literal["gathered", "line", "paragraph", "file"]


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Which text is read, and what a document of it is."""

    dataset: Sequence[str] = (DOCSTRINGS,)
    """Text: file, folder, pattern or hub id, repeatable. Files are .txt, .json, .jsonl, .csv or
    .parquet, compressed or not; a pattern is 'texts/*.jsonl.gz'; folders may be of `save_to_disk`.
    `docstrings` is the documentation of the installed packages."""
    dataset_weight: tuple[float, ...] = ()
    """Share of each --dataset in the text, by length (equal shares). Repeat it as --dataset."""
    dataset_config: str | None = None
    """Configuration of a hub dataset. As in --dataset allenai/c4 --dataset-config en."""
    dataset_split: str | None = None
    """Split of a hub dataset, or of a `save_to_disk` folder (train). One document in twenty is held
    out of it."""
    dataset_revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    text_column: str = "text"
    """Column of the dataset that holds the text. With --chat, the messages."""
    tokens_column: str | None = None
    """Column of a pre-tokenised dataset. Its token ids are read instead of text."""
    repack: bool = True
    """Pack rows of token ids into blocks of --context-size. Without it, each row is a block as it
    is."""
    txt_documents: PlainText = "gathered"
    """A document of a .txt file. Paragraphs gathered to about 2,000 characters, a line, a
    paragraph, or the file."""
    chat: bool = False
    """Rows hold messages, which the model's chat template makes text of. Messages have a role and
    content."""

    def __post_init__(self) -> None:
        if isinstance(self.dataset, str):
            object.__setattr__(self, "dataset", (self.dataset,))
        # Absolute, so that the same name in another folder is not taken for the same text.
        object.__setattr__(self, "dataset", tuple(map(_absolute, self.dataset)))
        if not self.dataset:
            raise InputError("there is no dataset: name one with --dataset, or leave it out")
        convert(PlainText, self.txt_documents, "txt_documents")
        refuse_not_positive(**{f"dataset_weight {w:g}": w for w in self.dataset_weight})
        if self.dataset_weight and len(self.dataset_weight) != len(self.dataset):
            raise InputError(
                f"{len(self.dataset)} datasets have {len(self.dataset_weight)} weights: give "
                f"--dataset-weight once for each --dataset, or not at all"
            )
        if self.tokens_column is not None and self.chat:
            raise InputError("token ids have no chat template: give --tokens-column or --chat")
        if not self.repack and self.tokens_column is None:
            raise InputError("only token ids can be blocks as they are: name --tokens-column")

    @property
    def column(self) -> str:
        """The column that is read."""
        if self.tokens_column is not None:
            return self.tokens_column
        return "messages" if self.chat and self.text_column == "text" else self.text_column

    @property
    def source(self) -> str:
        """The datasets, for messages."""
        return " and ".join(self.dataset)


def _absolute(source: str) -> str:
    is_path = source and source != DOCSTRINGS and is_local(source) and "://" not in source
    return str(Path(source).expanduser().absolute()) if is_path else source
