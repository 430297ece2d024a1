"""What the analysis needs of a dictionary, and a dictionary without some of its features."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.codes import Codes
from sae.provenance import Provenance


@runtime_checkable
class SparseDictionary(Protocol):
    """Whatever has features with directions: `sae.base.SAE` is one."""

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]: ...

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]: ...

    @property
    def provenance(self) -> Provenance: ...

    def encode_sparse(self, x: Float[Tensor, "rows d_in"]) -> Codes: ...

    def decode_for(
        self, x: Float[Tensor, "rows d_in"], acts: Tensor | Codes
    ) -> Float[Tensor, "rows d_in"]: ...


@dataclass(frozen=True)
class Without:
    """A dictionary whose reconstruction leaves out what some features add to it.

    The other features are as they were: with a fixed number per token, nothing moves up into the
    places that become free. It can be evaluated wherever the dictionary can.
    """

    dictionary: SparseDictionary
    is_left_out: Bool[Tensor, " d_sae"]

    @property
    def provenance(self) -> Provenance:
        return self.dictionary.provenance

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:
        return self.dictionary.W_dec

    def reconstruct(
        self, x: Float[Tensor, "*tokens d_in"]
    ) -> tuple[Float[Tensor, "*tokens d_in"], Codes]:
        """The reconstruction, and the features that it is made of."""
        acts = self.dictionary.encode_sparse(x)
        stays = ~self.is_left_out.to(acts.indices.device)[acts.indices.clamp_min(0)]
        acts = replace(acts, values=acts.values * stays, known=None)
        return self.dictionary.decode_for(x, acts), acts


def without(dictionary: SparseDictionary, features: Tensor | Sequence[int]) -> Without:
    """The dictionary without the contribution of these features, given by number or as a mask
    [d_sae]; `InputError` where it has no such feature."""
    d_sae = len(dictionary.W_dec)
    chosen = torch.as_tensor(features)
    if chosen.dtype == torch.bool:
        if chosen.shape != (d_sae,):
            raise InputError(
                f"the mask of features has shape {[*chosen.shape]}, and the dictionary has "
                f"{d_sae} features: give one truth value for each"
            )
        return Without(dictionary, chosen.cpu())
    chosen = chosen.to("cpu", torch.int64).flatten()
    wrong = chosen[(chosen < 0) | (chosen >= d_sae)]
    if len(wrong):
        raise InputError(f"there is no feature {wrong[0].item()}: give numbers in 0..{d_sae - 1}")
    mask = torch.zeros(d_sae, dtype=torch.bool)
    mask[chosen] = True
    return Without(dictionary, mask)


def decoder_rows(dictionary: SparseDictionary) -> Float[Tensor, "d_sae d_in"]:
    """The rows of the decoder, of length 1 where they are not 0, without gradient."""
    return unit(dictionary.W_dec)


def encoder_rows(dictionary: SparseDictionary) -> Float[Tensor, "d_sae d_in"]:
    """The columns of the encoder as rows, of length 1 where they are not 0, without gradient."""
    return unit(dictionary.W_enc.T)


def unit(rows: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
    rows = rows.detach().to(torch.float32)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def refuse_what_does_not_fit(dictionaries: Sequence[SparseDictionary]) -> None:
    """`InputError` where dictionaries are not of activations of the same width or site."""
    widths = [d.W_dec.shape[1] for d in dictionaries]
    inputs = [d.W_enc.shape[0] for d in dictionaries]
    for number, (width, its_input) in enumerate(zip(widths, inputs, strict=True)):
        if width != widths[0] or its_input != width:
            raise InputError(
                f"dictionary {number} takes activations of width {its_input} and gives width "
                f"{width}, and dictionary 0 gives {widths[0]}: give dictionaries of one site"
            )
    sites = {d.provenance.hook_name for d in dictionaries} - {None}
    if len(sites) > 1:
        raise InputError(
            f"the dictionaries are of several sites, {', '.join(sorted(map(str, sites)))}: give "
            f"dictionaries of one site"
        )


def walked(
    batches: Iterable[Float[Tensor, "_ d_in"]], d_in: int
) -> Iterator[Float[Tensor, "_ d_in"]]:
    """The batches that have rows; `InputError` where none has, or one is of another width."""
    is_empty = True
    for x in batches:
        if x.ndim != 2 or x.shape[1] != d_in:
            raise InputError(
                f"a batch of activations has shape {[*x.shape]}: give [rows, {d_in}] each time"
            )
        if len(x):
            is_empty = False
            yield x
    if is_empty:
        raise InputError(
            "there are no activations, or the batches can be gone through only once: give a "
            "list, or anything that starts again each time it is iterated"
        )
