"""Which features have stopped firing, and how the L1 family gets them back."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae.trainable import TrainableSAE, TrainingPass


class FiringTracker:
    """Tokens since each feature last fired. A feature is dead after `dead_after_tokens` of them."""

    def __init__(self, d_sae: int, dead_after_tokens: int, device: torch.device) -> None:
        self.dead_after_tokens = dead_after_tokens
        self.tokens_since_fired = torch.zeros(d_sae, dtype=torch.int64, device=device)

    def update(self, fires: Int[Tensor, " d_sae"], batch_tokens: int | Int[Tensor, ""]) -> None:
        self.tokens_since_fired += batch_tokens
        self.tokens_since_fired.masked_fill_(fires > 0, 0)

    @property
    def dead(self) -> Bool[Tensor, " d_sae"]:
        return self.tokens_since_fired >= self.dead_after_tokens


@torch.no_grad()
def resample_(
    sae: TrainableSAE,
    dead: Bool[Tensor, " d_sae"],
    out: TrainingPass,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """Point dead features at what the dictionary reconstructs worst, and forget their momentum.

    Bricken et al. 2023, "Neuron resampling": tokens are drawn with probability proportional to the
    square of their loss; encoder columns get 0.2 times the mean norm of the living ones. Our
    directions are the errors rather than the inputs, which the living features explain already.
    """
    features = dead.nonzero().flatten()
    error = out.target - out.x_hat
    weights = error.square().sum(dim=1).square().cpu()
    if not 0 < weights.sum() < torch.inf:
        return  # nothing is left to explain, or the training has diverged
    tokens = torch.multinomial(weights, len(features), replacement=True, generator=generator).to(
        error.device
    )
    directions = error[tokens] / error[tokens].norm(dim=1, keepdim=True).clamp_min(1e-8)
    sae.W_dec[features] = directions
    if sae.untied_W_enc_rows is not None:
        living = sae.untied_W_enc_rows[~dead].norm(dim=1)
        norm = living.mean() if len(living) else torch.ones((), device=directions.device)
        sae.untied_W_enc_rows[features] = directions * 0.2 * norm
    sae.reset_features_(features)
    for parameter, state in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if parameter is not sae.b_dec:
                state[name].index_fill_(0, features, 0.0)
