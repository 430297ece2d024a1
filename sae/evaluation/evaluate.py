"""Measure a dictionary: on activations alone, or spliced into the model on held-out text."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.base import SAE
from sae.codes import Codes
from sae.evaluation.metrics import ReconstructionMetrics
from sae.evaluation.report import EvalReport
from sae.evaluation.splice import SpliceableModel, SplicedCrossEntropy

TextBatch = tuple[Int[Tensor, "_ _"], Bool[Tensor, "_ _"]]
"""Tokens [batch, pos], and which of them count in training and in every metric."""


@runtime_checkable
class Dictionary(Protocol):
    """Whatever encodes and decodes: a trained dictionary, a baseline, the identity."""

    def encode_sparse(self, x: Tensor) -> Tensor | Codes: ...

    def decode(self, acts: Tensor | Codes) -> Tensor: ...


def evaluate(
    sae: Dictionary,
    model: SpliceableModel,
    batches: Sequence[TextBatch],
    hook_name: str,
) -> EvalReport:
    """Reconstruction, sparsity and spliced-in cross-entropy on the given text.

    The text is read twice: once for the mean activation, which unexplained variance and mean
    ablation refer to, and once for everything else. Raises `InputError` where no token counts or
    the dictionary does not fit the site.
    """
    return evaluate_all([sae], model, batches, hook_name)[0]


def evaluate_all(
    saes: Sequence[Dictionary],
    model: SpliceableModel,
    batches: Sequence[TextBatch],
    hook_name: str,
) -> list[EvalReport]:
    """The same for several dictionaries of one site, which share all passes but the spliced one."""
    for sae in saes:
        _refuse_transcoder(sae)
        _refuse_other_processing(sae, model)
    mean = _mean(_counted_rows(model, tokens, counted, hook_name) for tokens, counted in batches)
    splice = SplicedCrossEntropy(model, hook_name)
    metrics = [ReconstructionMetrics(mean) for _ in saes]
    ablations = {
        "zero": torch.zeros_like,
        "mean": lambda rows: mean.to(rows).expand_as(rows),
    }
    for tokens, counted in batches:
        x = _counted_rows(model, tokens, counted, hook_name)
        for sae, its_metrics in zip(saes, metrics, strict=True):
            its_metrics.update(x, *_reconstruct(sae, x))
        edits = [partial(_reconstruction, sae) for sae in saes]
        splice.update(tokens, counted, edits, ablations)
    return [
        EvalReport(**its_metrics.result() | spliced, density=its_metrics.density)
        for its_metrics, spliced in zip(metrics, splice.results(), strict=True)
    ]


def evaluate_reconstruction(
    sae: Dictionary, batches: Sequence[Float[Tensor, "_ d_in"]]
) -> EvalReport:
    """Reconstruction and sparsity on held-out activations, with no model at hand."""
    metrics = ReconstructionMetrics(_mean(batches))
    for x in batches:
        metrics.update(x, *_reconstruct(sae, x))
    return EvalReport(**metrics.result(), density=metrics.density)


@torch.no_grad()
def _reconstruct(sae: Dictionary, x: Tensor) -> tuple[Tensor, Tensor | Codes]:
    if isinstance(sae, SAE):
        return sae.reconstruct(x)
    acts = sae.encode_sparse(x)
    return sae.decode(acts), acts


def _reconstruction(sae: Dictionary, x: Tensor) -> Tensor:
    return _reconstruct(sae, x)[0]


def _counted_rows(
    model: SpliceableModel, tokens: Tensor, counted: Tensor, hook_name: str
) -> Float[Tensor, "rows d_in"]:
    x = model.activations(tokens, [hook_name])[hook_name]
    return x[counted.to(x.device)]


def _refuse_transcoder(sae: Dictionary) -> None:
    if isinstance(sae, SAE) and "hook_name_out" in sae.metadata:
        raise InputError(
            f"the dictionary is a transcoder to {sae.metadata['hook_name_out']}: evaluate measures "
            f"those that reconstruct their own input"
        )


def _refuse_other_processing(sae: Dictionary, model: SpliceableModel) -> None:
    """Centred activations look like others, and mean something else: nothing else would tell."""
    asked = sae.metadata.get("processing") if isinstance(sae, SAE) else None
    loaded = getattr(model, "processing", asked)
    if asked not in (None, loaded):
        raise InputError(
            f"the dictionary is for activations with processing {asked!r}, and the model was "
            f"loaded with {loaded!r}: use load_model(..., processing={asked!r})"
        )


def _mean(batches: Iterable[Tensor]) -> Float[Tensor, " d_in"]:
    total, n = torch.zeros((), dtype=torch.float64), 0
    for rows in batches:
        total = total + rows.to("cpu", torch.float64).sum(dim=0)
        n += len(rows)
    if n == 0:
        raise InputError("no token counts in the evaluation text: give more held-out text")
    return total / n
