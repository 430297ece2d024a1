"""How well a dictionary reconstructs activations, as sums in float64 with ratios taken once."""
# Shapes: rows are counted tokens; D = d_in.

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.codes import Codes, fire_counts


class ReconstructionMetrics:
    """Accumulates batches; `result` divides once, so it does not depend on how rows were batched.

    `mean` is the mean vector of all the rows that will be added: the reference that unexplained
    variance is measured against.
    """

    def __init__(self, mean: Float[Tensor, " d_in"]) -> None:
        self.mean = mean.to(torch.float64)
        self.fires: Int[Tensor, " d_sae"] = torch.zeros(0, dtype=torch.int64)
        self.n_tokens = 0
        self._n_with_norm = 0
        self._sums: dict[str, float] = dict.fromkeys(
            ("error", "variance", "legacy", "cosine", "l2_ratio", "x_hat_square", "dot", "l1"), 0.0
        )

    def update(
        self,
        x: Float[Tensor, "rows d_in"],
        x_hat: Float[Tensor, "rows d_in"],
        acts: Float[Tensor, "rows d_sae"] | Codes,
    ) -> None:
        x, x_hat = x.to("cpu", torch.float64), x_hat.to("cpu", torch.float64)
        error = (x - x_hat).square().sum(dim=1)
        variance = (x - self.mean).square().sum(dim=1)
        norm, norm_hat = x.norm(dim=1), x_hat.norm(dim=1)
        has_norm = norm > 1e-4  # SAELens' guard: a token without a direction has no cosine
        dot = (x * x_hat).sum(dim=1)
        values = acts.values if isinstance(acts, Codes) else acts
        for name, per_token in {
            "error": error,
            "variance": variance,
            "legacy": 1.0 - error / variance.clamp_min(1e-12),
            "cosine": (dot / (norm * norm_hat).clamp_min(1e-12))[has_norm],
            "l2_ratio": (norm_hat / norm)[has_norm],
            "x_hat_square": norm_hat.square(),
            "dot": dot,
            "l1": values.abs().to(torch.float64),
        }.items():
            self._sums[name] += per_token.sum().item()
        fires = fire_counts(acts).cpu()
        self.fires = self.fires + fires if self.n_tokens else fires
        self.n_tokens += len(x)
        self._n_with_norm += int(has_norm.sum())

    @property
    def density(self) -> Float[Tensor, " d_sae"]:
        """The share of the tokens on which each feature fired."""
        return self.fires.to(torch.float64) / max(self.n_tokens, 1)

    def result(self) -> dict[str, Any]:
        """The metrics by the names of `EvalReport`."""
        sums, n = self._sums, max(self.n_tokens, 1)
        fvu = sums["error"] / sums["variance"] if sums["variance"] else float("nan")
        dead = int((self.fires == 0).sum())
        return {
            "n_tokens": self.n_tokens,
            "fvu": fvu,
            "explained_variance": 1.0 - fvu,
            "explained_variance_legacy": sums["legacy"] / n,
            "mse": sums["error"] / n,
            "cosine": sums["cosine"] / max(self._n_with_norm, 1),
            "l2_ratio": sums["l2_ratio"] / max(self._n_with_norm, 1),
            "relative_reconstruction_bias": (
                sums["x_hat_square"] / sums["dot"] if sums["dot"] else float("nan")
            ),
            "l0": int(self.fires.sum()) / n,
            "l1": sums["l1"] / n,
            "dead": dead,
            "dead_fraction": dead / len(self.fires),
            "d_sae": len(self.fires),
        }
