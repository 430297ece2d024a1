"""Measure a dictionary: on activations alone, or spliced into the model on held-out text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.codes import Codes
from sae.evaluation.metric import Accumulator
from sae.evaluation.metrics import METRICS
from sae.evaluation.report import EvalReport
from sae.evaluation.seen import Predictions, Seen
from sae.evaluation.splice import Splice, SpliceableModel, kl_divergence
from sae.provenance import Provenance

TextBatch = tuple[Int[Tensor, "_ _"], Bool[Tensor, "_ _"]]
"""Tokens [batch, pos], and which of them count in training and in every metric."""


@runtime_checkable
class Dictionary(Protocol):
    """Whatever reconstructs activations: a trained dictionary, a baseline, the identity."""

    @property
    def provenance(self) -> Provenance:
        """The model and the site that it belongs to, as far as they are known."""
        ...

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor | Codes]:
        """The reconstruction [rows, d_in], and the features that it is made of."""
        ...


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
    totals = [Accumulator(METRICS.values()) for _ in saes]
    for batch in _walk(model, batches, hook_name):
        for sae, its_totals in zip(saes, totals, strict=True):
            its_totals.update(batch.seen_by(sae))
    return [EvalReport.of(its_totals) for its_totals in totals]


def evaluate_reconstruction(
    sae: Dictionary, batches: Sequence[Float[Tensor, "_ d_in"]]
) -> EvalReport:
    """Reconstruction and sparsity on held-out activations, with no model at hand."""
    mean = _mean(batches)
    totals = Accumulator(METRICS.values())
    for x in batches:
        with torch.no_grad():
            totals.update(Seen(x, *sae.reconstruct(x), mean))
    return EvalReport.of(totals)


@dataclass(frozen=True)
class _Batch:
    """A batch of text, and what the model makes of it without a dictionary."""

    x: Float[Tensor, "rows d_in"]
    mean: Float[Tensor, " d_in"]
    splice: Splice
    clean: Float[Tensor, "predictions d_vocab"]
    zero_loss: Tensor
    mean_loss: Tensor

    @torch.no_grad()
    def seen_by(self, sae: Dictionary) -> Seen:
        spliced = self.splice.log_probs(lambda rows: sae.reconstruct(rows)[0])
        predictions = Predictions(
            clean=self.splice.loss(self.clean),
            spliced=self.splice.loss(spliced),
            zero=self.zero_loss,
            mean=self.mean_loss,
            kl=kl_divergence(self.clean, spliced),
        )
        return Seen(self.x, *sae.reconstruct(self.x), self.mean, predictions)


def _walk(model: SpliceableModel, batches: Sequence[TextBatch], hook_name: str) -> Iterator[_Batch]:
    """The text, read twice: for the mean of all rows, then batch by batch."""
    mean = _mean(_counted_rows(model, tokens, counted, hook_name) for tokens, counted in batches)
    for tokens, counted in batches:
        x = _counted_rows(model, tokens, counted, hook_name)
        splice = Splice(model, hook_name, tokens, counted)
        yield _Batch(
            x,
            mean,
            splice,
            clean=splice.log_probs(),
            zero_loss=splice.loss(splice.log_probs(torch.zeros_like)),
            mean_loss=splice.loss(splice.log_probs(lambda rows: mean.to(rows).expand_as(rows))),
        )


def _counted_rows(
    model: SpliceableModel, tokens: Tensor, counted: Tensor, hook_name: str
) -> Float[Tensor, "rows d_in"]:
    x = model.activations(tokens, [hook_name])[hook_name]
    return x[counted.to(x.device)]


def _refuse_transcoder(sae: Dictionary) -> None:
    if sae.provenance.hook_name_out is not None:
        raise InputError(
            f"the dictionary is a transcoder to {sae.provenance.hook_name_out}: evaluate measures "
            f"those that reconstruct their own input"
        )


def _refuse_other_processing(sae: Dictionary, model: SpliceableModel) -> None:
    """Centred activations look like others, and mean something else: nothing else would tell."""
    asked = sae.provenance.processing
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
