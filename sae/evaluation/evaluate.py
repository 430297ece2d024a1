"""Measure a dictionary: on activations alone, or spliced into the model on held-out text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.types import TextBatch, TextBatchLike
from sae.batches import Batch, evaluation_batches
from sae.codes import Codes
from sae.evaluation.compared import COMPARED
from sae.evaluation.metric import Accumulator
from sae.evaluation.metrics import METRICS
from sae.evaluation.report import EvalReport
from sae.evaluation.seen import Everywhere, Predictions, Seen
from sae.evaluation.splice import Splice, SpliceableModel, kl_divergence
from sae.evaluation.text import Means, ReadBatch, Text
from sae.provenance import Provenance, refuse_other_processing


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
    batches: Sequence[TextBatchLike],
    hook_name: str,
) -> EvalReport:
    """Reconstruction, sparsity and spliced-in cross-entropy on the given text.

    A batch is tokens [batch, pos], which of them count, and the document of each where that is
    known: `activation_cache.text_batches` gives them. The text is read twice: once for the mean
    activation, which unexplained variance and mean ablation refer to, and once for everything else.
    Raises `InputError` where no token counts or
    the dictionary does not fit the site.
    """
    return evaluate_all([sae], model, batches, hook_name)[0]


def evaluate_all(
    saes: Sequence[Dictionary],
    model: SpliceableModel,
    batches: Sequence[TextBatchLike],
    hook_name: str,
) -> list[EvalReport]:
    """The same for several dictionaries of one site, which share all passes but the spliced one."""
    return evaluate_sites({hook_name: saes}, model, batches)[hook_name]


@torch.no_grad()
def evaluate_sites(
    saes: Mapping[str, Sequence[Dictionary]],
    model: SpliceableModel,
    batches: Sequence[TextBatchLike],
    *,
    compare: bool = False,
) -> dict[str, list[EvalReport]]:
    """The same for dictionaries of several sites, by site, which share the passes of the model as
    it is. Spliced passes begin at the block of their site.

    With `compare`, reports have the numbers in other projects' conventions too (`compared`). Some
    of them replace every position, which takes each edited pass a second time.
    """
    for sae in chain.from_iterable(saes.values()):
        _refuse_transcoder(sae)
        refuse_other_processing(sae.provenance, model)
    text = Text.read(model, [_as_text_batch(batch) for batch in batches], [*saes])
    totals = {site: [_Totals(compare=compare) for _ in its] for site, its in saes.items()}
    for batch in text:
        for site, its_saes in saes.items():
            found = _seen(batch, site, its_saes, compare=compare)
            for its_totals, seen in zip(totals[site], found, strict=True):
                its_totals.update(seen)
    return {site: [its.report() for its in totals[site]] for site in saes}


def evaluate_reconstruction(
    sae: Dictionary, batches: Iterable[Batch] | Tensor, *, compare: bool = False
) -> EvalReport:
    """Reconstruction and sparsity on held-out activations, with no model at hand.

    `batches` are what `fit` takes: one tensor or NumPy array [..., d_in], or several. With
    `compare`, the report has the same in other projects' conventions too (`compared`).
    """
    held_out = evaluation_batches(batches, getattr(sae, "d_in", None))
    means = Means()
    for x in held_out:
        means.update(x)
    totals = _Totals(compare=compare)
    for x in held_out:
        with torch.no_grad():
            totals.update(Seen(x, *sae.reconstruct(x), means.result, None, _decoder_norms(sae)))
    return totals.report()


class _Totals:
    """What has been added up of a dictionary: for our metrics, and for those of each project."""

    def __init__(self, *, compare: bool) -> None:
        self._ours = Accumulator(METRICS.values())
        projects = COMPARED if compare else {}
        self._theirs = {name: Accumulator(metrics) for name, metrics in projects.items()}

    def update(self, seen: Seen) -> None:
        for totals in (self._ours, *self._theirs.values()):
            totals.update(seen)

    def report(self) -> EvalReport:
        compared = {project: totals.results() for project, totals in self._theirs.items()}
        return EvalReport.of(self._ours, compared)


def _as_text_batch(batch: TextBatchLike) -> TextBatch:
    if isinstance(batch, TextBatch):
        return batch
    tokens, counted = batch
    return TextBatch(tokens, counted)


def _seen(
    batch: ReadBatch, site: str, saes: Sequence[Dictionary], *, compare: bool
) -> Iterator[Seen]:
    """What each dictionary makes of the batch."""
    mean = batch.means[site]
    everywhere = _everywhere(batch.splice, site, mean, saes) if compare else [None] * len(saes)
    about = {"groups": batch.groups, "has_prediction": batch.has_prediction}
    found = _spliced(batch.splice, site, mean, saes)
    for sae, seen, its in zip(saes, found, everywhere, strict=True):
        yield replace(seen, decoder_norms=_decoder_norms(sae), everywhere=its, **about)


def _everywhere(
    splice: Splice, site: str, mean: Tensor, saes: Sequence[Dictionary]
) -> Iterator[Everywhere]:
    found = _spliced(splice.everywhere(), site, mean, saes, with_kl_zero=True)
    return (Everywhere(seen, splice.is_counted) for seen in found)


def _spliced(
    splice: Splice,
    site: str,
    mean: Tensor,
    saes: Sequence[Dictionary],
    *,
    with_kl_zero: bool = False,
) -> Iterator[Seen]:
    """Rows, reconstructions and predictions. Unedited and ablated passes serve all dictionaries."""
    x = splice.rows(site)
    made = [sae.reconstruct(x) for sae in saes]
    x_hats = [x_hat for x_hat, _ in made]
    predictions = _predictions(splice, site, x, mean, x_hats, with_kl_zero=with_kl_zero)
    for (x_hat, acts), its in zip(made, predictions, strict=True):
        yield Seen(x, x_hat, acts, mean, its)


def _predictions(
    splice: Splice,
    site: str,
    x: Tensor,
    mean: Tensor,
    x_hats: Sequence[Tensor],
    *,
    with_kl_zero: bool,
) -> list[Predictions]:
    clean = splice.last_layer()
    zero = splice.last_layer(site, torch.zeros_like(x))
    ablated_to_mean = splice.last_layer(site, mean.to(x).expand_as(x))
    spliced = [splice.last_layer(site, x_hat) for x_hat in x_hats]
    shared: list[tuple[Tensor, ...]] = []
    own: list[list[tuple[Tensor, Tensor]]] = [[] for _ in x_hats]
    for part in splice.parts(clean):
        as_it_is = splice.log_probs(clean[part])
        under_zero = splice.log_probs(zero[part])
        losses = splice.loss(as_it_is, part), splice.loss(under_zero, part)
        kl_zero = [kl_divergence(as_it_is, under_zero)] if with_kl_zero else []
        under_mean = splice.log_probs(ablated_to_mean[part])
        shared.append((*losses, splice.loss(under_mean, part), *kl_zero))
        for its, last_layer in zip(own, spliced, strict=True):
            log_probs = splice.log_probs(last_layer[part])
            its.append((splice.loss(log_probs, part), kl_divergence(as_it_is, log_probs)))
    clean_loss, zero_loss, mean_loss, *kl_zero = map(torch.cat, zip(*shared, strict=True))
    each = (tuple(map(torch.cat, zip(*its, strict=True))) for its in own)
    return [Predictions(clean_loss, loss, zero_loss, mean_loss, kl, *kl_zero) for loss, kl in each]


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
