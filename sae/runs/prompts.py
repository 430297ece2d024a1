"""Prompts in a model with a dictionary: which features are active, and what changing them does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import torch
from torch import Tensor

from activation_cache import LanguageModel
from activation_cache.common.errors import InputError
from activation_cache.common.schema import convert
from sae.base import SAE
from sae.inside import Inside
from sae.runs.attach import attach

N_ACTIVE = 64
"""Strongest features of each token, at most."""
N_NEXT = 8
"""Likeliest next tokens."""
N_CONTINUED = 24
"""Tokens with which the model continues."""
DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Change:
    """Of one feature, at all tokens that count, and in the continuation."""

    feature: int
    kind: Literal["scale", "set"]
    value: float


@dataclass(frozen=True, kw_only=True)
class Question:
    text: str
    edits: tuple[Change, ...] = ()


class Prompts:
    """Answers questions about prompts, one at a time.

    Raises `InputError` where the model has no tokenizer, or the dictionary does not fit it.
    """

    def __init__(self, model: LanguageModel, sae: SAE[Any]) -> None:
        if sae.hook_name is None:
            raise InputError("the dictionary does not know its site: give --hook-name")
        self._model, self._sae, self._site = model, sae, sae.hook_name
        self._first = 0 if sae.provenance.all_positions else 1
        self._lock = Lock()
        with attach(model, sae):
            pass  # so that what does not fit is said now

    @torch.no_grad()
    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """For a `Question` as JSON.

        tokens: ids of the prompt, with the model's first token. active: for each, [feature, value]
        of its strongest features. next: for each, [token id, probability]. continued: ids with
        which the model continues, greedily. changed: next and continued with the edits, or None.
        """
        question = convert(Question, asked, "question")
        tokens = self._tokens(question.text)
        with self._lock, attach(self._model, self._sae) as inside:
            logits = self._model.logits(tokens)
            features = inside.features(self._site)[0]
            found = {
                "tokens": tokens[0].tolist(),
                "active": [self._strongest(acts, i) for i, acts in enumerate(features)],
                **self._following(tokens, logits),
                "changed": None,
            }
            if question.edits:
                self._edit(inside, question.edits)
                found["changed"] = self._following(tokens, self._model.logits(tokens))
        return found

    def _tokens(self, text: str) -> Tensor:
        tokenizer = self._model.tokenizer
        first = tokenizer.bos_token_id
        first = tokenizer.eos_token_id if first is None else first
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        most = self._model.max_context_size - N_CONTINUED - 1
        if not ids:
            raise InputError("the prompt is empty: type some text")
        if len(ids) > most:
            raise InputError(f"the prompt has {len(ids)} tokens: give up to {most}")
        has_head = first is not None and self._sae.provenance.prepend_bos is not False
        head = [first] if has_head else []
        return torch.tensor([head + ids], device=self._model.device)

    def _strongest(self, acts: Tensor, position: int) -> list[tuple[int, float]]:
        if position < self._first:
            return []
        values, ids = acts.abs().topk(min(N_ACTIVE, len(acts)))
        kept = ids[values > 0].tolist()
        return [(i, float(f"{acts[i].item():.{DIGITS}g}")) for i in kept]

    def _following(self, tokens: Tensor, logits: Tensor) -> dict[str, Any]:
        probabilities = logits[0].float().softmax(dim=-1)
        best = probabilities.topk(min(N_NEXT, probabilities.shape[-1]))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        generate: Any = self._model.hf.generate
        continued = generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=N_CONTINUED,
            do_sample=False,
            pad_token_id=int(tokens[0, 0]),
        )
        return {
            "next": [[(i, round(p, 5)) for i, p in zip(*row, strict=True)] for row in rows],
            "continued": continued[0, tokens.shape[1] :].tolist(),
        }

    def _edit(self, inside: Inside, edits: Sequence[Change]) -> None:
        for edit in edits:
            if not 0 <= edit.feature < self._sae.d_sae:
                raise InputError(f"no feature {edit.feature}: give 0 to {self._sae.d_sae - 1}")
            change = inside.scale if edit.kind == "scale" else inside.set
            change(self._site, edit.feature, edit.value, slice(self._first, None))
