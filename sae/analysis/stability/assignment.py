"""Which feature of one dictionary is which of another: one-to-one, by signed decoder cosine."""
# Shapes: A, B = features of the two dictionaries.

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array, eye_array, hstack
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.special import betainc
from torch import Tensor

from sae.analysis.matching import cosines

EXACT_PAIRS = 4096 * 4096
"""Up to this many pairs of features, the assignment is made from all of their cosines."""
N_CANDIDATES = 32
"""Of each feature in wider dictionaries, the nearest ones in the other that are looked at."""
CHUNK_PAIRS = 16 * 1024 * 1024
"""Cosines in memory at once."""


@dataclass(frozen=True)
class Match:
    """For each feature of one dictionary its partner in another."""

    partner: Int[Tensor, " A"]
    """-1 for none, where the other dictionary has fewer features."""
    cosine: Float[Tensor, " A"]
    """Of the decoder rows; 0 where there is no partner."""

    def mean_cosine(self) -> float:
        """Over matched features."""
        return self.cosine[self.partner >= 0].to(torch.float64).mean().item()

    def inverse(self, n: int) -> "Match":
        """The same seen from the other dictionary, which has n features."""
        rows = (self.partner >= 0).nonzero().squeeze(1)
        partner = torch.full((n,), -1).index_copy(0, self.partner[rows], rows)
        cosine = self.cosine.new_zeros(n).index_copy(0, self.partner[rows], self.cosine[rows])
        return Match(partner, cosine)


def assign(
    a: Float[Tensor, "A d_in"], b: Float[Tensor, "B d_in"], *, exact_pairs: int = EXACT_PAIRS
) -> Match:
    """The one-to-one assignment with the largest sum of cosines.

    It is exact up to `exact_pairs` pairs. Wider dictionaries are assigned from the 32 nearest rows
    of each row, in both directions; what these leave over is assigned in the same way again, until
    the rest is small enough to be exact. A pair is missed only if 32 others are nearer to both.
    """
    partner = torch.full((len(a),), -1)
    cosine = torch.zeros(len(a))
    rows, columns = torch.arange(len(a)), torch.arange(len(b))
    while len(rows) and len(columns):
        is_exact = len(rows) * len(columns) <= exact_pairs
        of = _assign_all if is_exact else _assign_nearest
        chosen, to, its_cosine = of(a[rows.to(a.device)], b[columns.to(b.device)])
        partner[rows[chosen]], cosine[rows[chosen]] = columns[to], its_cosine
        if is_exact:
            break
        rows, columns = _others(rows, chosen), _others(columns, to)
    return Match(partner, cosine)


def nearest(
    a: Float[Tensor, "A d_in"], b: Float[Tensor, "B d_in"], k: int = 1
) -> tuple[Float[Tensor, "A k"], Int[Tensor, "A k"]]:
    """The largest signed cosines of each row of `a` with rows of `b`, and which rows these are.

    Never more than 16M cosines are in memory.
    """
    parts = [
        cosines(part, b).topk(k, dim=1) for part in a.split(max(1, CHUNK_PAIRS // max(1, len(b))))
    ]
    return tuple(torch.cat([part[i] for part in parts]).cpu() for i in (0, 1))  # pyright: ignore[reportReturnType]


def nearest_other(
    a: Float[Tensor, "A d_in"],
) -> tuple[Float[Tensor, " A"], Int[Tensor, " A"]]:
    """The same within one dictionary: the nearest row that is not the row itself; -1 and row 0 of
    a single row."""
    if len(a) == 1:
        return -torch.ones(1), torch.zeros(1, dtype=torch.int64)
    cosine, index = nearest(a, a, k=2)
    # Of two equal rows either may come first.
    second = (index[:, 0] == torch.arange(len(a))).to(torch.int64)[:, None]
    return cosine.gather(1, second).squeeze(1), index.gather(1, second).squeeze(1)


def expected_nearest(n: int, d_in: int) -> float:
    """The mean, over random directions, of the largest cosine with n other random directions.

    (1 + cosine) / 2 of two directions in d dimensions follows Beta((d - 1) / 2, (d - 1) / 2), and
    the largest of n is below t with the n-th power of that. E = 1 - the integral of P(below t).
    """
    t = np.linspace(-1.0, 1.0, 20_001)
    below = betainc((d_in - 1) / 2, (d_in - 1) / 2, (1.0 + t) / 2) ** n
    return float(1.0 - np.trapezoid(below, t))


Pairs = tuple[Tensor, Tensor, Tensor]
"""Rows, their columns, and the cosines."""


def _assign_all(a: Tensor, b: Tensor) -> Pairs:
    table = cosines(a, b).to("cpu", torch.float64)
    rows, columns = map(torch.as_tensor, linear_sum_assignment(table.numpy(), maximize=True))
    return rows, columns, table[rows, columns].to(torch.float32)


def _assign_nearest(a: Tensor, b: Tensor) -> Pairs:
    """The best assignment over the nearest rows of each. Rows may be left without a partner."""
    if len(a) > len(b):
        columns, rows, cosine = _assign_nearest(b, a)
        return rows, columns, cosine
    k = min(N_CANDIDATES, len(a))
    graph = _candidates(*nearest(a, b, k), *nearest(b, a, k), (len(a), len(b)))
    # SciPy wants a partner for every row: each has one of its own beside, worse than any other.
    with_spare = hstack([graph, 0.5 * eye_array(len(a))], format="csr")
    rows, columns = np.asarray(min_weight_full_bipartite_matching(with_spare, maximize=True))
    is_pair = columns < len(b)
    rows, columns = (torch.from_numpy(of[is_pair].astype(np.int64)) for of in (rows, columns))
    pairs = a[rows.to(a.device)], b[columns.to(b.device)]
    return rows, columns, torch.cosine_similarity(*pairs).cpu()


def _candidates(
    of_a: Tensor, in_b: Tensor, of_b: Tensor, in_a: Tensor, shape: tuple[int, int]
) -> csr_array:
    """The nearest rows in both directions as a graph; weights are cosines + 2: 0 is no edge."""
    from_a = torch.arange(shape[0])[:, None].expand_as(in_b)
    from_b = torch.arange(shape[1])[:, None].expand_as(in_a)
    edges = torch.cat(
        [from_a.flatten() * shape[1] + in_b.flatten(), (in_a * shape[1] + from_b).flatten()]
    )
    edges, first = np.unique(edges.numpy(), return_index=True)
    weights = torch.cat([of_a.flatten(), of_b.flatten()]).to(torch.float64).numpy()[first] + 2.0
    return csr_array((weights, divmod(edges, shape[1])), shape=shape)


def _others(numbers: Tensor, chosen: Tensor) -> Tensor:
    left = torch.ones(len(numbers), dtype=torch.bool)
    left[chosen] = False
    return numbers[left]
