"""How well the directions of one dictionary are found in another.

Cosines are signed: with absolute values, two opposite features would pass for the same one.
"""
# Shapes: G = directions looked for, S = directions found.

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def cosines(
    wanted: Float[Tensor, "G d_in"], found: Float[Tensor, "S d_in"]
) -> Float[Tensor, "G S"]:
    wanted = wanted / wanted.norm(dim=1, keepdim=True).clamp_min(1e-12)
    found = found / found.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return wanted @ found.T


def matched_cosines(
    wanted: Float[Tensor, "G d_in"], found: Float[Tensor, "S d_in"]
) -> Float[Tensor, " n"]:
    """The cosines under the best one-to-one assignment, min(G, S) of them. The mean is MCC."""
    table = cosines(wanted, found).to(torch.float64)
    rows, columns = linear_sum_assignment(table.detach().cpu().numpy(), maximize=True)
    return table[torch.as_tensor(rows), torch.as_tensor(columns)].to(wanted.dtype)
