"""What of a dictionary's error is linear in the activation, and what is not.

Engels, Riggs, Tegmark 2024, "Decomposing the Dark Matter of Sparse Autoencoders", sections 3 and 4.

    from sae.analysis.error import ErrorBatches, split_error
    split = split_error(ErrorBatches(dictionary, x, documents))
    print(split.r2, split.fvu, split.fvu_linear, split.warnings)
"""

from sae.analysis.error.batches import ErrorBatch, ErrorBatches
from sae.analysis.error.documents import in_test
from sae.analysis.error.least_squares import LinearMap
from sae.analysis.error.numbers import SplitNumbers
from sae.analysis.error.split import ErrorSplit, split_error

__all__ = [
    "ErrorBatch",
    "ErrorBatches",
    "ErrorSplit",
    "LinearMap",
    "SplitNumbers",
    "in_test",
    "split_error",
]
