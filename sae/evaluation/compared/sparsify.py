"""sparsify, `sparse_coder.py`: the FVU that its training logs."""

from sae.evaluation.compared.convention import Convention, n_batches, of_batch
from sae.evaluation.seen import Seen


def _unexplained(seen: Seen) -> float:
    deviation = (seen.inputs - seen.inputs.mean(dim=0)).square().sum()
    return float(seen.error.sum() / deviation)


batch_fvu = of_batch(_unexplained)

SPARSIFY = (
    Convention(
        name="fvu",
        convention="sum |x - x_hat|^2 / sum |x - batch mean|^2 of each batch, mean over batches",
        sums=(batch_fvu, n_batches),
        ours="fvu",
    ),
)
