"""Which tokens belong together: those of a document, of a stretch of positions, of one rarity."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

DOCUMENT, POSITION, FREQUENCY = "document", "position", "frequency"

N_RARITIES = 4


def position_groups(positions: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Group g holds positions 2^(g - 1) to 2^g - 1 of a block, and group 0 position 0."""
    return torch.frexp(positions.to(torch.float64)).exponent.long()


def position_range(group: int) -> tuple[int, int]:
    """The first and the last position of a group."""
    return (0, 0) if group == 0 else (2 ** (group - 1), 2**group - 1)


def frequency_groups(counts: Int[Tensor, " n_vocab"]) -> Int[Tensor, " n_vocab"]:
    """Token ids by how often they occur: each group has about a quarter of all occurrences, the
    rarest tokens in group 0. Ids of equal count are in one group."""
    sorted_counts, order = counts.sort()
    before = sorted_counts.cumsum(0) - sorted_counts
    groups = (N_RARITIES * before // counts.sum().clamp_min(1)).clamp_max(N_RARITIES - 1)
    first = torch.searchsorted(sorted_counts, sorted_counts)  # of those with the same count
    return torch.empty_like(groups).scatter_(0, order, groups[first])


def document_numbers(
    documents: Int[Tensor, "batch pos"] | None, counted: Bool[Tensor, "batch pos"], n_before: int
) -> Int[Tensor, "batch pos"]:
    """The documents of tokens; where they are not known, each block is one by itself."""
    if documents is not None:
        return documents
    blocks = torch.arange(len(counted)) + n_before
    return blocks[:, None].expand(counted.shape)
