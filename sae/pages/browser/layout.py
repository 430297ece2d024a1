"""Decoder rows as points in a plane, similar ones side by side."""

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

PERPLEXITY = 15
N_ITERATIONS = 300
FEWEST = 8
"""Rows below which there is nothing to lay out."""


@torch.no_grad()
def layout(rows: Float[Tensor, "n d"]) -> Shaped[np.ndarray, "n 2"]:
    """Points in the square from 0 to 1, by t-SNE of the rows' directions (scikit-learn's).

    Near points have similar rows; how far apart groups lie, and how large they are, says nothing.
    """
    if len(rows) < FEWEST:
        return np.full((len(rows), 2), 0.5)
    from sklearn.manifold import TSNE  # takes a second to import

    unit = torch.nn.functional.normalize(rows.float(), dim=1).cpu().numpy()
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, max_iter=N_ITERATIONS, init="pca", random_state=0)
    points = tsne.fit_transform(unit)
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - low) / np.maximum(high - low, 1e-9)
