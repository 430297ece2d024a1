"""The folder of a dictionary's features, and one feature out of it.

features.json            what it is of: `FolderFacts`
numbers.safetensors      a tensor [d_sae] or [d_sae, n] for each number of a feature: `NUMBERS`
contexts.parquet         a row for each context that is shown, feature by feature: `CONTEXTS`
vocabulary.json          the text of every token id
notes.js                 what people wrote down about features
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from activation_cache.common.errors import InputError
from activation_cache.common.schema import convert, parse_json
from sae.features.notes import Notes

FACTS, TENSORS, TABLE, WORDS = (
    *("features.json", "numbers.safetensors"),
    *("contexts.parquet", "vocabulary.json"),
)
SCHEMA_VERSION = 1
FEATURES_IN_GROUP = 64
"""Features in each row group of the table, which is what reading one of them reads."""

NUMBERS = {
    "n_active": "tokens on which it is active",
    "density": "the share of counted tokens on which it is active",
    "max": "its largest value",
    "min": "its smallest value where it is active",
    "mean_active": "its mean where it is active",
    "std_active": "its standard deviation where it is active",
    "mean_square": "its mean square over counted tokens",
    "histogram": "active tokens in equal bins from min (or 0, if that is less) to max",
    "token_ids": "tokens on which it is active most often; -1 where there are fewer",
    "token_counts": "how often it is active on each of them",
    "before_ids": "features that are active on the token before those of this one",
    "before_share": "on what share of the tokens that were looked at",
    "with_ids": "other features that are active on the same tokens",
    "with_share": "on what share",
    "after_ids": "features that are active on the token after",
    "after_share": "on what share",
    "encoder_norm": "length of its encoder row",
    "decoder_norm": "length of its decoder row",
    "alignment": "cosine of encoder and decoder row",
    "decoder_neighbours": "features with the most similar decoder rows",
    "decoder_cosines": "how similar they are",
    "encoder_neighbours": "features with the most similar encoder rows",
    "encoder_cosines": "how similar they are",
    "raised_ids": "tokens whose logit the decoder row raises most, by its direct effect",
    "raised_logits": "by how much, around the mean of the vocabulary",
    "lowered_ids": "tokens whose logit it lowers most",
    "lowered_logits": "by how much",
}

CONTEXTS = {
    "feature": "its number",
    "kind": "top (a block with one of the largest values), or a quantile of its active tokens",
    "position": "the token that is shown, counted through the text",
    "value": "the feature there",
    "at": "its place in the tokens below",
    "token_ids": "the tokens around it",
    "values": "the feature on each of them",
}


@dataclass(frozen=True, kw_only=True)
class FolderFacts:
    """What a folder of features is of, as features.json has it."""

    schema_version: int
    d_sae: int
    n_tokens: int
    """Counted tokens of the text that was read."""
    context_size: int
    hook_name: str | None
    provenance: dict[str, Any]
    """Of the dictionary, as its cfg.json has it."""
    shown: dict[str, int]
    """Sizes: how many contexts, neighbours, tokens of each kind."""
    dictionary: str = ""
    """The hash of its weights."""

    @classmethod
    def read(cls, folder: Path) -> "FolderFacts":
        path = folder / FACTS
        if not path.is_file():
            raise InputError(
                f"no features in {folder}: give a folder that sae.features.collect made"
            )
        facts = convert(cls, parse_json(path.read_bytes(), str(path)), str(path))
        if facts.schema_version != SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema version {facts.schema_version}, and {SCHEMA_VERSION} is read "
                f"here: collect the features again"
            )
        return facts

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Weighted(NamedTuple):
    """Something with a number: a token and its logit, a feature and its cosine."""

    id: int
    value: float


@dataclass(frozen=True)
class Context:
    """Tokens around one on which a feature is active."""

    kind: str
    """top, or which quantile of the feature's active tokens it stands for."""
    position: int
    """Of that token, counted through the text."""
    value: float
    at: int
    """Of that token, in `token_ids`."""
    token_ids: list[int]
    values: list[float]
    tokens: list[str]

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    def __repr__(self) -> str:
        before, after = self.tokens[: self.at], self.tokens[self.at + 1 :]
        shown = "".join([*before, "[[", self.tokens[self.at], "]]", *after])
        return f"{self.value:.3g} {shown!r}"


@dataclass(frozen=True)
class Feature:
    """A feature of a dictionary. All of `sae.features.folder.NUMBERS` are attributes: `density`,
    `max`, `alignment` and so on."""

    index: int
    of: "Features"

    def __getattr__(self, name: str) -> Any:
        if name not in NUMBERS:
            raise AttributeError(f"a feature has no {name!r}: it has {', '.join(NUMBERS)}")
        return self._row(name)

    def __repr__(self) -> str:
        tokens = ", ".join(repr(self.of.word(i)) for i, _ in self.tokens[:5])
        return f"Feature({self.index}, density {self.density:.2g}, max {self.max:.3g}, on {tokens})"

    def _row(self, name: str) -> Any:
        return self.of.numbers(name, self.index).tolist()

    def _weighted(self, ids: str, values: str) -> list[Weighted]:
        pairs = zip(self._row(ids), self._row(values), strict=True)
        return [Weighted(i, value) for i, value in pairs if i >= 0]

    @property
    def histogram(self) -> list[int]:
        """Active tokens in equal bins, from `min` (or 0, if that is less) to `max`."""
        return self._row("histogram")

    @property
    def contexts(self) -> list[Context]:
        """Those with the largest values, then those of each quantile, the top one first."""
        return self.of.contexts(self.index)

    @property
    def top(self) -> list[Context]:
        """The blocks of text with its largest values, the largest first."""
        return [context for context in self.contexts if context.kind == "top"]

    @property
    def tokens(self) -> list[Weighted]:
        """The token ids on which it is active most often, and how often."""
        return self._weighted("token_ids", "token_counts")

    @property
    def logits(self) -> list[Weighted]:
        """Token ids whose logit it raises most, and those that it lowers most, the lowest last.

        Empty for sites whose effect on the logits is not a matrix.
        """
        if "raised_ids" not in self.of.names:
            return []
        lowered = self._weighted("lowered_ids", "lowered_logits")
        return self._weighted("raised_ids", "raised_logits") + lowered[::-1]

    @property
    def neighbours(self) -> list[Weighted]:
        """Features with the most similar decoder rows, and the cosines."""
        return self._weighted("decoder_neighbours", "decoder_cosines")

    @property
    def note(self) -> str:
        """What somebody wrote down about it, or nothing."""
        return self.of.notes.read().get(self.index, "")

    def together(self, side: str = "with") -> list[Weighted]:
        """Features active on the same tokens, on the token `before` or `after`, and the share."""
        return self._weighted(f"{side}_ids", f"{side}_share")


class Features:
    """All features of a dictionary, read from disk as they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts = FolderFacts.read(folder)
        self.notes = Notes(folder)
        self._kept: tuple[int, Any] | None = None

    def __repr__(self) -> str:
        facts = self.facts
        return f"Features({facts.d_sae:,} of {facts.hook_name}, {facts.n_tokens:,} tokens)"

    def __len__(self) -> int:
        return self.facts.d_sae

    def __getitem__(self, index: int) -> Feature:
        if not 0 <= index < len(self):
            raise IndexError(f"no feature {index}: there are 0 to {len(self) - 1}")
        return Feature(index, self)

    def __iter__(self) -> Iterator[Feature]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def _tensors(self) -> Any:
        from safetensors import safe_open

        return safe_open(str(self.folder / TENSORS), "pt")

    @cached_property
    def names(self) -> frozenset[str]:
        """The numbers that are there."""
        return frozenset(self._tensors.keys())

    def numbers(self, name: str, index: int | slice = slice(None)) -> Any:
        """A number of one feature, or of all [d_sae] or [d_sae, n], as a tensor."""
        return self._tensors.get_slice(name)[index]

    @cached_property
    def vocabulary(self) -> list[str]:
        """The text of every token id, as far as there was a tokenizer."""
        return json.loads((self.folder / WORDS).read_bytes())

    def word(self, token_id: int) -> str:
        """The text of a token."""
        return self.words([token_id])[0]

    def words(self, token_ids: Sequence[int]) -> list[str]:
        """The text of tokens."""
        words = self.vocabulary
        return [words[i] if i < len(words) else f"<{i}>" for i in token_ids]

    @cached_property
    def _table(self) -> Any:
        from pyarrow.parquet import ParquetFile

        return ParquetFile(self.folder / TABLE, memory_map=True)

    def _group(self, number: int) -> Any:
        """Rows of the table. The last ones are kept: features are often read one after another."""
        kept = self._kept
        if kept is None or kept[0] != number:
            self._kept = kept = (number, self._table.read_row_group(number))
        return kept[1]

    def contexts(self, index: int) -> list[Context]:
        """The contexts of a feature."""
        rows = self._group(index // FEATURES_IN_GROUP)
        features = rows.column("feature").to_numpy()
        first, last = features.searchsorted([index, index + 1])
        found = rows.slice(first, last - first).drop_columns("feature").to_pylist()
        return [Context(**row, tokens=self.words(row["token_ids"])) for row in found]


def open_features(folder: str | Path) -> Features:
    """The features in a folder that `collect` has made; `InputError` where there are none.

    `features[1234].top` reads one feature in milliseconds.
    """
    return Features(Path(folder))
