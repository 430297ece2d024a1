"""Text to packed token blocks [batch, pos], with a cursor that can be saved and restored."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from activation_cache.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Documents = Callable[[], Iterator[str]]
"""Starts one pass over the text; every pass yields the same documents in the same order."""


class TokenBlocks:
    """Packs documents without padding into blocks of `context_size` tokens, an iterator.

    Documents follow each other with the tokenizer's EOS behind each; one that does not fit is
    continued in the next block. With `prepend_bos`, every block opens with BOS. After the last
    document the text starts again, or ends where `repeat` is false; the unfinished block at that
    point is carried over or dropped.
    """

    def __init__(
        self,
        documents: Documents,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        context_size: int,
        batch_blocks: int,
        prepend_bos: bool = True,
        repeat: bool = False,
    ) -> None:
        self._documents = documents
        self._tokenizer = tokenizer
        self._separator = _special_id(tokenizer, "eos", "bos")
        self._head = [_special_id(tokenizer, "bos", "eos")] if prepend_bos else []
        self._context_size = context_size
        self._batch_blocks = batch_blocks
        self._repeat = repeat
        self._texts: Iterator[str] | None = None
        self._n_documents = 0  # of this pass that have been read
        self._n_tokens = 0  # that they hold
        self._pending: list[int] = []
        self.n_epochs = 0
        """Passes over the text that are complete."""

    def __iter__(self) -> "TokenBlocks":
        return self

    def __next__(self) -> Int[Tensor, "batch pos"]:
        width = self._context_size - len(self._head)
        blocks: list[list[int]] = []
        while len(blocks) < self._batch_blocks:
            if len(self._pending) >= width:
                blocks.append([*self._head, *self._pending[:width]])
                del self._pending[:width]
            elif not self._read_document():
                break
        if not blocks:
            raise StopIteration
        return torch.tensor(blocks)

    def _read_document(self) -> bool:
        """Append the next document to the pending tokens; false where the text has ended."""
        if self.n_epochs and not self._repeat:
            return False
        if self._texts is None:
            self._texts = islice(self._documents(), self._n_documents, None)
        text = next(self._texts, None)
        if text is None:
            self._finish_pass()
            return self._read_document()
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        self._pending += [*ids, self._separator]
        self._n_documents += 1
        self._n_tokens += len(ids) + 1
        return True

    def _finish_pass(self) -> None:
        width = self._context_size - len(self._head)
        if self._n_tokens < width:
            raise InputError(
                f"the text holds {self._n_tokens} tokens in this split, fewer than one context of "
                f"{self._context_size}: give more text or a smaller --context-size"
            )
        self.n_epochs += 1
        self._n_documents = self._n_tokens = 0
        self._texts = None

    def state_dict(self) -> dict[str, Any]:
        """The cursor: where in the text the next block begins."""
        return {
            "n_documents": self._n_documents,
            "n_tokens": self._n_tokens,
            "n_epochs": self.n_epochs,
            "pending": list(self._pending),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._n_documents = state["n_documents"]
        self._n_tokens = state["n_tokens"]
        self.n_epochs = state["n_epochs"]
        self._pending = list(state["pending"])
        self._texts = None


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> Int[Tensor, " n"]:
    """The ids of BOS, EOS and PAD, as far as the tokenizer has them."""
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return torch.tensor(sorted({i for i in ids if isinstance(i, int)}), dtype=torch.int64)


def counted_positions(
    tokens: Int[Tensor, "batch pos"], special: Int[Tensor, " n"]
) -> Bool[Tensor, "batch pos"]:
    """Which positions count in training and in every metric: neither the first nor special ones.

    Position 0 is an attention sink whose norm is 20 to 160 times the rest, so an explained variance
    that counts it is meaningless. Masking by token id alone would keep it wherever no BOS is
    prepended, and masking by position alone would keep GPT-2's document separators.
    """
    counted = ~torch.isin(tokens, special.to(tokens.device))
    counted[:, 0] = False
    return counted


def _special_id(tokenizer: "PreTrainedTokenizerBase", *kinds: str) -> int:
    for kind in kinds:
        token_id = getattr(tokenizer, f"{kind}_token_id")
        if token_id is not None:
            return token_id
    raise InputError(f"the tokenizer has neither {' nor '.join(kinds)}: packing text needs one")
