"""Dictionaries at the sites of a model while it runs: read features, change them, replace."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.types import Edit, Pass
from sae.base import SAE
from sae.codes import Codes
from sae.inside.positions import Positions, mask_of

Features = int | Sequence[int] | Tensor
"""One feature of a dictionary or several, by their numbers."""

Value = float | Tensor
"""A number, or numbers that broadcast to [batch, pos, features]."""


@runtime_checkable
class AttachableModel(Protocol):
    """A language model whose forward passes can be edited at hook names."""

    @property
    def device(self) -> torch.device: ...

    def width(self, hook_name: str) -> int:
        """Components of each activation vector at a site."""
        ...

    def editing(self, edits: Mapping[str, Edit]) -> AbstractContextManager[Pass]:
        """Within it every forward pass is edited. It gives the pass that the model is in."""
        ...


@dataclass(frozen=True)
class _FeatureEdit:
    """A change of some features at some positions."""

    features: list[int]
    change: Callable[[Tensor], Tensor | float]
    positions: Positions


@dataclass
class _Place:
    """A dictionary at its site, what is changed there, and what it saw last."""

    sae: SAE[Any]
    edits: list[_FeatureEdit] = field(default_factory=list)
    replaced: list[Positions] = field(default_factory=list)
    acts: Tensor | Codes | None = None
    """Features [batch, pos, d_sae] before any edit, as they are handed out."""
    given: tuple[Tensor, Tensor | Codes] | None = None
    """From the site that is read to the site that is written: the activations, and their features
    as the model has them."""


class Inside:
    """Dictionaries inside a model, which `sae.attach` gives.

    Sites are called by their hook names, and features by their numbers in the dictionary. Edits
    are made in the order in which they are given, and stay until `reset`. Only the change that
    they make to the reconstruction is added to what the model has, so that what the dictionary
    does not explain stays: without an edit, all that the model computes is the same to the last
    bit. Padding, as the attention mask of a pass has it, is left alone.

    Positions count from the first token, also in generation, where a pass is over the newest token
    alone. Most dictionaries were not trained on position 0 (`provenance.all_positions`); what they
    make of it means little.
    """

    def __init__(self, dictionaries: Mapping[str, SAE[Any]]) -> None:
        self._places = {name: _Place(sae) for name, sae in dictionaries.items()}
        self._now = Pass()

    def __repr__(self) -> str:
        return f"Inside({', '.join(self._places)})"

    # Reading -------------------------------------------------------------------------------------

    def features(self, hook_name: str) -> Float[Tensor, "batch pos d_sae"]:
        """The features of the last forward pass, before any edit; 0 at padding.

        Outside of `torch.no_grad` they are part of the graph: whatever the model gives out has a
        gradient with respect to them, and they have one with respect to the features of earlier
        sites, to embeddings, and to the dictionary's weights.
        """
        acts = self._acts(hook_name)
        return acts.dense() if isinstance(acts, Codes) else acts

    def codes(self, hook_name: str) -> Codes:
        """The same as the active features of each token."""
        acts = self._acts(hook_name)
        return acts if isinstance(acts, Codes) else Codes.from_dense(acts)

    def _acts(self, hook_name: str) -> Tensor | Codes:
        acts = self._place(hook_name).acts
        if acts is None:
            raise InputError(f"{hook_name} has no features yet: run the model first")
        return acts

    # Editing -------------------------------------------------------------------------------------

    def set(
        self, hook_name: str, feature: Features, value: Value, positions: Positions = None
    ) -> None:
        """Give a feature, or several, a value, whether active or not."""
        self._edit(hook_name, feature, lambda _acts: value, positions)

    def ablate(self, hook_name: str, feature: Features, positions: Positions = None) -> None:
        """Switch a feature, or several, off."""
        self.set(hook_name, feature, 0.0, positions)

    def scale(
        self, hook_name: str, feature: Features, value: Value, positions: Positions = None
    ) -> None:
        """Multiply a feature, or several, by a value; what is not active stays so."""
        self._edit(hook_name, feature, lambda acts: acts * value, positions)

    def add(
        self, hook_name: str, feature: Features, value: Value, positions: Positions = None
    ) -> None:
        """Add a value to a feature, or several: steering along their decoder rows."""
        self._edit(hook_name, feature, lambda acts: acts + value, positions)

    def replace(self, hook_name: str, positions: Positions = None) -> None:
        """Use the reconstruction, with all edits of features, in place of what the model has."""
        self._place(hook_name).replaced.append(positions)

    def reset(self, hook_name: str | None = None) -> None:
        """Forget the edits of a site, or of all sites."""
        for place in self._places.values() if hook_name is None else [self._place(hook_name)]:
            place.edits.clear()
            place.replaced.clear()

    def _edit(
        self,
        hook_name: str,
        feature: Features,
        change: Callable[[Tensor], Tensor | float],
        positions: Positions,
    ) -> None:
        place = self._place(hook_name)
        features = [feature] if isinstance(feature, int) else [int(i) for i in feature]
        for i in features:
            if not 0 <= i < place.sae.d_sae:
                raise InputError(f"no feature {i} at {hook_name}: give 0 to {place.sae.d_sae - 1}")
        place.edits.append(_FeatureEdit(features, change, positions))

    def _place(self, hook_name: str) -> _Place:
        if hook_name not in self._places:
            raise InputError(f"no dictionary at {hook_name!r}: give {' or '.join(self._places)}")
        return self._places[hook_name]

    # In a forward pass ---------------------------------------------------------------------------

    @contextmanager
    def within(self, model: AttachableModel) -> Iterator["Inside"]:
        """The model has the dictionaries in it as long as the context lasts."""
        edits: dict[str, list[Edit]] = {}
        for name, place in self._places.items():
            written = place.sae.provenance.hook_name_out or name
            edits.setdefault(name, []).append(partial(self._read, place))
            edits.setdefault(written, []).append(partial(self._write, place))
        with model.editing({n: partial(_in_turn, its) for n, its in edits.items()}) as self._now:
            yield self

    def _read(self, place: _Place, x: Tensor) -> None:
        """What a dictionary says of the activations at its site."""
        sae, present = place.sae, mask_of(None, self._now, x.device)
        acts = sae.activate(sae.pre_acts(sae.rows_of(x)))
        if isinstance(acts, Codes) and not torch.is_grad_enabled():
            acts = acts.view(*x.shape[:-1])
            if present is not None:
                acts = Codes(acts.indices, acts.values * present[..., None], acts.d_sae)
            place.acts, place.given = acts, (x, acts)
            return
        acts = acts.dense() if isinstance(acts, Codes) else acts
        acts = acts.view(*x.shape[:-1], sae.d_sae)
        acts = acts if present is None else acts * present[..., None]
        place.acts, place.given = acts, (x, acts)
        if torch.is_grad_enabled():
            # Apart from what is subtracted below: what the model gives out has a gradient with
            # respect to these, and its gradient with respect to x stays what it is.
            place.acts = acts.clone() if acts.requires_grad else acts.clone().requires_grad_()
            place.acts.retain_grad()

    def _write(self, place: _Place, y: Tensor) -> Tensor | None:
        """What the site that a dictionary writes to holds then; None where that is the same."""
        if place.given is None or place.acts is None:
            raise InputError(
                f"{place.sae.provenance.hook_name_out} passes before {place.sae.hook_name}, from "
                f"which it is to be made: name the sites the other way round"
            )
        (x, own), edited, place.given = place.given, place.acts, None
        if place.edits or torch.is_grad_enabled():
            own, edited = (a.dense() if isinstance(a, Codes) else a for a in (own, edited))
            edited = self._edited(place, edited)
            changed = sorted({i for edit in place.edits for i in edit.features})
            which = slice(None) if torch.is_grad_enabled() else changed
            share = partial(place.sae.share_of, which, x=x)
            y = y + (share(edited[..., which]) - share(own[..., which]))
        elif not place.replaced:
            return None
        if not place.replaced:
            return y
        x_hat = place.sae.decode_for(x, edited).to(y.dtype)
        for positions in place.replaced:
            mask = mask_of(positions, self._now, y.device)
            y = x_hat if mask is None else torch.where(mask[..., None], x_hat, y)
        return y

    def _edited(self, place: _Place, acts: Tensor) -> Tensor:
        acts = acts.clone()
        for edit in place.edits:
            before = acts[..., edit.features]
            value = torch.as_tensor(edit.change(before), dtype=before.dtype, device=before.device)
            try:
                after = value.expand_as(before)
            except RuntimeError as error:
                raise InputError(
                    f"a value of shape {[*value.shape]} does not fit [batch, pos, features], here "
                    f"{[*before.shape]}"
                ) from error
            if (mask := mask_of(edit.positions, self._now, acts.device)) is not None:
                after = torch.where(mask[..., None], after, before)
            acts[..., edit.features] = after
        return acts


def _in_turn(edits: Sequence[Edit], x: Tensor) -> Tensor | None:
    """What several edits of a site make of it together."""
    edited = x
    for edit in edits:
        if (returned := edit(edited)) is not None:
            edited = returned
    return None if edited is x else edited
