"""Which documents a linear map is fitted on, and which it is tested on."""

import hashlib

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def in_test(documents: Int[Tensor, " rows"], seed: int) -> Bool[Tensor, " rows"]:
    """Whether each row's document is on the test side: about half of the documents are.

    A hash of the document's number and the seed decides, so all tokens of a document are on one
    side, whatever the other documents and however the rows are batched.
    """
    found, place = documents.unique(return_inverse=True)
    sides = [_is_test(document, seed) for document in found.tolist()]
    return torch.tensor(sides, dtype=torch.bool, device=documents.device)[place]


def _is_test(document: int, seed: int) -> bool:
    return hashlib.blake2b(f"{seed} {document}".encode(), digest_size=1).digest()[0] < 128
