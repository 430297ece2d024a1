"""Edits at some positions of a text, of a pass over all of it or over its newest tokens alone."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.types import Edit, Pass

Positions = int | slice | Sequence[int] | Tensor | None
"""Tokens of each sequence, counted from its first one, padding included: one, a range, several, or
a mask [pos] or [batch, pos]. Negative ones count from the end of the pass. None is all."""


def mask_of(
    positions: Positions, now: Pass, device: torch.device
) -> Bool[Tensor, "batch pos"] | None:
    """Where in this pass the positions are, padding aside; None where they are everywhere."""
    present = None if now.present is None else now.present.to(device)
    if positions is None:
        return None if present is None or present.all() else present
    n_pos = now.shape[1]
    end = now.start + n_pos
    if isinstance(positions, Tensor) and positions.dtype is torch.bool:
        mask = _of_mask(positions, now).to(device)
    else:
        mask = torch.zeros(n_pos, dtype=torch.bool, device=device)
        if isinstance(positions, slice):
            found = range(*positions.indices(end))
        else:
            found = [positions] if isinstance(positions, int) else [int(p) for p in positions]
        at = [p - now.start if p >= 0 else p + n_pos for p in found]
        mask[[p for p in at if 0 <= p < n_pos]] = True
    mask = mask.expand(now.shape)
    return mask if present is None else mask & present


def _of_mask(mask: Tensor, now: Pass) -> Tensor:
    """The columns of a mask that this pass is of; what is behind its end is not meant."""
    if mask.ndim not in (1, 2) or (mask.ndim == 2 and len(mask) not in (1, now.shape[0])):
        raise InputError(
            f"a mask of positions has shape [pos] or [batch, pos], and the pass is of "
            f"{[*now.shape]}: got {[*mask.shape]}"
        )
    columns = mask[..., now.start : now.start + now.shape[1]]
    missing = now.shape[1] - columns.shape[-1]
    return torch.nn.functional.pad(columns, (0, missing))


def at(mask: Bool[Tensor, "batch pos"], edit: Edit) -> Edit:
    """An edit of [batch, pos, width] that is given the rows where the mask is true, alone."""

    def edited(x: Tensor) -> Tensor | None:
        changed = edit(x[mask])
        return None if changed is None else x.index_put((mask,), changed.to(x.dtype))

    return edited
