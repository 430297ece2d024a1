"""An evaluation with what tells how to read its numbers: baselines, and the split of the error."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from activation_cache import LanguageModel, text_batches
from activation_cache.common.errors import InputError
from sae.analysis.error import ErrorBatch, ErrorSplit, split_error
from sae.base import SAE
from sae.evaluation import EvalReport, evaluate_sites
from sae.evaluation.baselines import BASELINES, Moments, fit_baselines
from sae.evaluation.intervals import FEWEST_DOCUMENTS
from sae.runs.evaluation import HeldOut, source_of
from sae.runs.rows import SiteRows

FIT_TOKENS = 65_536
"""Tokens of the training text that baselines are fitted on."""

NOT_SHOWN = ("fit", "linear_map", "warnings")
"""Of a split, what is no number of its test documents."""


@dataclass(frozen=True)
class FullReport:
    """A dictionary, baselines on the same text, and the split of the dictionary's error."""

    dictionary: EvalReport
    k: int
    """Features that a baseline has for each token: as many as the dictionary on training text."""
    baselines: Mapping[str, EvalReport]
    error: ErrorSplit | None
    """None where it cannot be split; `refusal` says why."""
    refusal: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def warnings(self) -> Sequence[str]:
        return [self.refusal] if self.error is None else self.error.warnings

    def to_json(self) -> str:
        """`eval.json` with more objects: `baselines` by name, and `error_split`."""
        content = json.loads(self.dictionary.to_json())
        content["baselines"] = {
            name: {"what": BASELINES[name][0], "metrics": report.metrics()}
            for name, report in self.baselines.items()
        }
        content["baselines_k"] = self.k
        if self.error is not None:
            numbers = {n: v for n, v in vars(self.error).items() if n not in NOT_SHOWN}
            content["error_split"] = {**numbers, "on_fit_documents": asdict(self.error.fit)}
        content["warnings"] = [*self.warnings]
        return json.dumps(content, indent=2)


def evaluate_fully(
    dictionary: SAE,
    model: LanguageModel,
    text: HeldOut,
    also: Sequence[str] = (),
    *,
    compare: bool = False,
) -> FullReport:
    """Evaluate a dictionary beside baselines, which are fitted on text that it was trained on, and
    split its error. `also` names baselines that take longer: ica, nmf. `compare` adds the numbers
    in other projects' conventions.

    `InputError` where the text has too few documents for an interval.
    """
    _refuse_few_documents(text)
    site = str(dictionary.hook_name)
    training = text_batches(model, source_of(dictionary.provenance), FIT_TOKENS)
    n_active: list[Tensor] = []
    moments = Moments.of(_counted(SiteRows(model, site, training), dictionary, n_active))
    k = max(1, round(torch.cat(n_active).double().mean().item()))
    made = fit_baselines(moments, k, dictionary.d_sae, also=also)
    saes = {site: [dictionary, *made.values()]}
    found = evaluate_sites(saes, model, text.batches, compare=compare)[site]
    about = {"dataset": text.source, "tokens": text.fingerprint["tokens"], "is_other": False}
    report = replace(found[0], text=about)
    baselines = dict(zip(made, found[1:], strict=True))
    try:
        split = split_error(Errors(SiteRows(model, site, text.batches), dictionary))
    except InputError as error:  # the rest stands
        return FullReport(report, k, baselines, None, f"the error cannot be split: {error}")
    return FullReport(report, k, baselines, split)


@dataclass(frozen=True)
class Errors:
    """Rows, what a dictionary makes of them, and their documents."""

    rows: SiteRows
    dictionary: SAE

    @torch.no_grad()
    def __iter__(self) -> Iterator[ErrorBatch]:
        for x, (_, counted, documents) in zip(self.rows, self.rows.batches, strict=True):
            assert documents is not None  # held-out text has them
            yield x, self.dictionary.reconstruct(x)[0], documents[counted]


@torch.no_grad()
def _counted(rows: SiteRows, dictionary: SAE, n_active: list[Tensor]) -> Iterator[Tensor]:
    """The rows, and on the way how many features of the dictionary are active on each."""
    for x in rows:
        n_active.append(dictionary.encode_sparse(x).counts)
        yield x


def _refuse_few_documents(text: HeldOut) -> None:
    n = len(torch.cat([batch.documents[batch.counted] for batch in text.batches]).unique())
    if n < FEWEST_DOCUMENTS:
        raise InputError(
            f"the held-out text has {n} documents, and an interval needs {FEWEST_DOCUMENTS}: give "
            f"more --eval-tokens"
        )
