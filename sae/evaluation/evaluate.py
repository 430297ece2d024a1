"""Measure a dictionary: on activations alone, or spliced into the model on held-out text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.batches import Batch, evaluation_batches
from sae.codes import Codes
from sae.evaluation.metric import Accumulator
from sae.evaluation.metrics import METRICS
from sae.evaluation.report import EvalReport
from sae.evaluation.seen import Predictions, Seen
from sae.evaluation.splice import Splice, SpliceableModel, kl_divergence
from sae.provenance import Provenance, refuse_other_processing

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
        refuse_other_processing(sae.provenance, model)
    totals = [Accumulator(METRICS.values()) for _ in saes]
    for batch in _walk(model, batches, hook_name):
        for its_totals, seen in zip(totals, batch.seen_by(saes), strict=True):
            its_totals.update(seen)
    return [EvalReport.of(its_totals) for its_totals in totals]


def evaluate_reconstruction(sae: Dictionary, batches: Iterable[Batch] | Tensor) -> EvalReport:
    """Reconstruction and sparsity on held-out activations, with no model at hand.

    `batches` are what `fit` takes: one tensor or NumPy array [..., d_in], or several.
    """
    held_out = evaluation_batches(batches, getattr(sae, "d_in", None))
    mean = _mean(held_out)
    totals = Accumulator(METRICS.values())
    for x in held_out:
        with torch.no_grad():
            totals.update(Seen(x, *sae.reconstruct(x), mean, None, _decoder_norms(sae)))
    return EvalReport.of(totals)


@dataclass(frozen=True)
class _Batch:
    """A batch of text, and the model's activations on it."""

    x: Float[Tensor, "rows d_in"]
    mean: Float[Tensor, " d_in"]
    splice: Splice

    @torch.no_grad()
    def seen_by(self, saes: Sequence[Dictionary]) -> Iterator[Seen]:
        """What each dictionary makes of the batch. Unedited and ablated passes serve them all."""
        for sae, predictions in zip(saes, self._predictions(saes), strict=True):
            made = sae.reconstruct(self.x)
            yield Seen(self.x, *made, self.mean, predictions, _decoder_norms(sae))

    def _predictions(self, saes: Sequence[Dictionary]) -> list[Predictions]:
        splice = self.splice
        clean = splice.last_layer()
        zero = splice.last_layer(torch.zeros_like)
        mean = splice.last_layer(lambda rows: self.mean.to(rows).expand_as(rows))
        spliced = [splice.last_layer(lambda rows, s=sae: s.reconstruct(rows)[0]) for sae in saes]
        shared: list[tuple[Tensor, ...]] = []
        own: list[list[tuple[Tensor, Tensor]]] = [[] for _ in saes]
        for part in splice.parts(clean):
            as_it_is = splice.log_probs(clean[part])
            ablated = (splice.loss(splice.log_probs(of[part]), part) for of in (zero, mean))
            shared.append((splice.loss(as_it_is, part), *ablated))
            for its, last_layer in zip(own, spliced, strict=True):
                log_probs = splice.log_probs(last_layer[part])
                its.append((splice.loss(log_probs, part), kl_divergence(as_it_is, log_probs)))
        clean_loss, zero_loss, mean_loss = map(torch.cat, zip(*shared, strict=True))
        each = (tuple(map(torch.cat, zip(*its, strict=True))) for its in own)
        return [Predictions(clean_loss, loss, zero_loss, mean_loss, kl) for loss, kl in each]


def _walk(model: SpliceableModel, batches: Sequence[TextBatch], hook_name: str) -> Iterator[_Batch]:
    """The text, read twice: for the mean of all rows, then batch by batch."""
    mean = _mean(_counted_rows(model, tokens, counted, hook_name) for tokens, counted in batches)
    for tokens, counted in batches:
        x = _counted_rows(model, tokens, counted, hook_name)
        yield _Batch(x, mean, Splice(model, hook_name, tokens, counted))


def _counted_rows(
    model: SpliceableModel, tokens: Tensor, counted: Tensor, hook_name: str
) -> Float[Tensor, "rows d_in"]:
    x = model.activations(tokens, [hook_name])[hook_name]
    return x[counted.to(x.device)]


def _decoder_norms(sae: Dictionary) -> Float[Tensor, " d_sae"] | None:
    """The lengths of the decoder's rows; None where they are 1, or there is no decoder."""
    W_dec = getattr(sae, "W_dec", None)
    if not isinstance(W_dec, Tensor):
        return None
    norms = torch.linalg.vector_norm(W_dec.detach(), dim=1)
    return None if torch.allclose(norms, torch.ones_like(norms), atol=1e-4) else norms


def _refuse_transcoder(sae: Dictionary) -> None:
    if sae.provenance.hook_name_out is not None:
        raise InputError(
            f"the dictionary is a transcoder to {sae.provenance.hook_name_out}: evaluate measures "
            f"those that reconstruct their own input"
        )


def _mean(batches: Iterable[Tensor]) -> Float[Tensor, " d_in"]:
    total, n = torch.zeros((), dtype=torch.float64), 0
    for rows in batches:
        total = total + rows.to("cpu", torch.float64).sum(dim=0)
        n += len(rows)
    if n == 0:
        raise InputError("no token counts in the evaluation text: give more held-out text")
    return total / n
