"""What a peer's own evaluation says of given reconstructions: `python measure.py PEER FILE`.

The file is safetensors: `x_0`, `x_hat_0` and `acts_0` are rows, reconstructions and features of the
first batch, and so on. Prints a JSON object of the peer's numbers by its names. It runs in the
peer's environment and stands alone (torch, safetensors and the standard library).
"""

import json
import sys
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

Batch = tuple[Tensor, Tensor, Tensor]


def sae_lens(batches: list[Batch]) -> dict[str, float]:
    """Its evaluation, on a model and a dictionary that say what the file says."""
    from sae_lens import evals  # pyright: ignore[reportMissingImports]
    from sae_lens.training.activation_scaler import (  # pyright: ignore[reportMissingImports]
        ActivationScaler,
    )

    given = iter(batches)
    now: list[Batch] = []

    def tokens(_: int) -> Tensor:
        now[:] = [next(given)]
        return torch.zeros(1, len(now[0][0]), dtype=torch.int64)

    metadata = SimpleNamespace(hook_name="blocks.0.hook_resid_pre", hook_head_index=None)
    dictionary = SimpleNamespace(
        cfg=SimpleNamespace(metadata=metadata, d_sae=batches[0][2].shape[1]),
        d_sae=batches[0][2].shape[1],
        device=torch.device("cpu"),
        encode=lambda _: now[0][2][None],
        decode=lambda _: now[0][1][None],
    )

    def run_with_cache(*_: Any, **__: Any) -> tuple[None, dict[str, Tensor]]:
        return None, {metadata.hook_name: now[0][0][None]}

    found, _ = evals.get_sparsity_and_variance_metrics(
        dictionary,
        SimpleNamespace(run_with_cache=run_with_cache),
        SimpleNamespace(get_batch_tokens=tokens),
        ActivationScaler(),
        n_batches=len(batches),
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=False,
        eval_batch_size_prompts=1,
        model_kwargs={},
    )
    return found


def dictionary_learning(batches: list[Batch]) -> dict[str, float]:
    """Its evaluation, without a buffer: then it needs no model."""
    from dictionary_learning.evaluation import (  # pyright: ignore[reportMissingImports]
        evaluate,
    )

    given = iter(batches)

    class Dictionary:
        dict_size = batches[0][2].shape[1]

        def __call__(self, _: Tensor, *, output_features: bool) -> tuple[Tensor, Tensor]:
            assert output_features
            return next(given)[1:]

    activations = iter([x for x, _, _ in batches])
    return evaluate(Dictionary(), activations, n_batches=len(batches))


def sparsify(batches: list[Batch]) -> dict[str, float]:
    """The FVU of its forward pass, averaged over batches as its trainer does."""
    from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]

    coder = SparseCoder(batches[0][0].shape[1], SparseCoderConfig(k=1))
    fvus: list[float] = []
    for x, x_hat, _ in batches:
        coder.decode = lambda *_, x_hat=x_hat: x_hat  # pyright: ignore[reportAttributeAccessIssue]
        fvus.append(float(coder(x).fvu))
    return {"fvu": sum(fvus) / len(fvus)}


PEERS = {of.__name__: of for of in (sae_lens, dictionary_learning, sparsify)}


@torch.no_grad()
def main(peer: str, path: str) -> None:
    tensors = load_file(path)
    batches = [
        (tensors[f"x_{i}"], tensors[f"x_hat_{i}"], tensors[f"acts_{i}"])
        for i in range(len(tensors) // 3)
    ]
    print(json.dumps({name: float(value) for name, value in PEERS[peer](batches).items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
