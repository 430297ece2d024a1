"""Where a dictionary belongs: the model, the site and the text that it was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from activation_cache.common.dtypes import DtypeName
from activation_cache.common.errors import InputError
from activation_cache.common.schema import convert
from activation_cache.common.types import Processing


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What is known of a dictionary beside its weights; None where its files say nothing.

    The names are SAELens', where it has them: this is `metadata` in cfg.json.
    """

    model_name: str | None = None
    hook_name: str | None = None
    """The TransformerLens name of the site whose activations it reads."""
    dataset_path: str | None = None
    text_column: str | None = None
    text_options: dict[str, Any] | None = None
    """How else the text is read: settings of `TextConfig` that are not the default."""
    activations_path: str | None = None
    """The files that it was trained on, where those are activations and not text."""
    eval_text: dict[str, Any] | None = None
    """Hashes of the held-out tokens, and of the documents that they are from."""
    context_size: int | None = None
    """Tokens in each block that the model saw."""
    prepend_bos: bool | None = None
    all_positions: bool | None = None
    """Whether position 0 and special tokens counted."""
    processing: Processing | None = None
    """How activations were had of the model."""
    model_dtype: DtypeName | None = None
    model_weights: str | None = None
    """A hash of the model's weights."""
    site_proof: tuple[str, ...] | None = None
    """What was compared, and held, to prove that the site is what its name says."""
    n_tokens: int | None = None
    """Activation vectors that it was trained on."""
    eval_tokens: int | None = None
    """Held-out tokens that it was evaluated on."""
    loss_reduction: str | None = None
    coefficient_units: str | None = None
    """Of the penalty coefficients that it was trained with: none are known of older versions'."""
    seed: int | None = None
    hook_name_out: str | None = None
    """Of a transcoder, the site that it predicts."""
    source: str | None = None
    """The address that it was fetched from."""
    revision: str | None = None
    """The commit there."""
    others: Mapping[str, Any] = field(default_factory=dict)
    """What else files say, by their names: kept, and not looked at."""

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "Provenance":
        """From `metadata` as files have it; `InputError` where a value is of another kind."""
        kinds = get_type_hints(cls)
        names = [f.name for f in fields(cls) if f.name != "others"]
        known = {n: convert(kinds[n], metadata[n], n) for n in names if n in metadata}
        others = {n: value for n, value in metadata.items() if n not in names}
        return cls(**known, others=others)

    def to_metadata(self) -> dict[str, Any]:
        """As files have it: what is known, in the order of the fields."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "others"}
        return {n: value for n, value in known.items() if value is not None} | dict(self.others)

    def updated(self, changes: Mapping[str, Any]) -> "Provenance":
        """With other values, by name; what is new to this class goes to `others`."""
        return Provenance.from_metadata(self.to_metadata() | dict(changes))


def refuse_other_processing(of: Provenance, model: object) -> None:
    """`InputError` where a dictionary is for other activations than the model gives.

    Centred activations look like others, and mean something else: nothing else would tell.
    """
    asked = of.processing
    loaded = getattr(model, "processing", asked)
    if asked not in (None, loaded):
        raise InputError(
            f"the dictionary is for activations with processing {asked!r}, and the model was "
            f"loaded with {loaded!r}: use load_model(..., processing={asked!r})"
        )
