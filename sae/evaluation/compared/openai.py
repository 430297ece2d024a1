"""OpenAI's sparse_autoencoder, `loss.py`: its training loss."""

from torch import Tensor

from sae.evaluation.compared.convention import Convention
from sae.evaluation.seen import Seen, n_tokens


def uncentred(seen: Seen) -> Tensor:
    return seen.error / seen.norm.square()


OPENAI = (
    Convention(
        name="normalized_mean_squared_error",
        convention="mean over tokens of |x - x_hat|^2 / |x|^2: not centred",
        sums=(uncentred, n_tokens),
        ours="fvu",
    ),
)
