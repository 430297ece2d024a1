"""Text to packed token blocks [batch, pos], with a cursor that can be saved and restored."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from activation_cache.common.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Documents = Callable[[], Iterator[str]]
"""Starts one pass over the text; every pass yields the same documents in the same order."""


class TextHasChanged(InputError):
    """A cursor points to where the text has nothing now."""


class TokenBatch(NamedTuple):
    """Token blocks, and where they are from."""

    tokens: Int[Tensor, "batch pos"]
    documents: Int[Tensor, "batch pos"]
    """The number of each token's document in its pass; BOS has that of the token after it."""


@dataclass
class _Document:
    number: int  # in its pass
    epoch: int
    ids: list[int]  # its tokens, the separator included
    n_served: int = 0


class TokenBlocks:
    """Packs documents without padding into blocks of `context_size` tokens, an iterator.

    Documents follow each other with the tokenizer's EOS after each; one that does not fit is
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
        self._width = context_size - len(self._head)  # of the text that a block holds
        self._batch_blocks = batch_blocks
        self._repeat = repeat
        self._texts: Iterator[str] | None = None
        self._n_documents = 0  # of this pass that have been read
        self._n_blocks = 0  # that have been served
        self._pending: deque[_Document] = deque()
        self._n_pending = 0  # tokens that they still have to serve
        self.n_epochs = 0
        """Passes over the text that are complete."""

    def __iter__(self) -> "TokenBlocks":
        return self

    def __next__(self) -> Int[Tensor, "batch pos"]:
        return self.next_batch().tokens

    def next_batch(self) -> TokenBatch:
        """The next `batch_blocks` blocks, fewer at the end of the text; then `StopIteration`."""
        # Read before anything is taken: where the text fails, no block is lost.
        while self._n_pending < self._batch_blocks * self._width and self._read_document():
            pass
        n_blocks = min(self._batch_blocks, self._n_pending // self._width)
        if not n_blocks:
            raise StopIteration
        blocks: list[list[int]] = []
        owners: list[list[int]] = []
        for _ in range(n_blocks):
            tokens, numbers = self._take(self._width)
            blocks.append([*self._head, *tokens])
            owners.append([*numbers[: len(self._head)], *numbers])
        self._n_blocks += n_blocks
        return TokenBatch(torch.tensor(blocks), torch.tensor(owners))

    def _take(self, n: int) -> tuple[list[int], list[int]]:
        """The next `n` pending tokens and the numbers of their documents."""
        tokens: list[int] = []
        numbers: list[int] = []
        while len(tokens) < n:
            document = self._pending[0]
            part = document.ids[document.n_served : document.n_served + n - len(tokens)]
            document.n_served += len(part)
            if document.n_served == len(document.ids):
                self._pending.popleft()
            tokens += part
            numbers += [document.number] * len(part)
        self._n_pending -= n
        return tokens, numbers

    def _read_document(self) -> bool:
        """Append the next document to the pending ones; false where the text has ended."""
        if self.n_epochs and not self._repeat:
            return False
        if self._texts is None:
            self._texts = islice(self._documents(), self._n_documents, None)
        try:
            text = next(self._texts, None)
            tokens = self._tokenizer(text or "", add_special_tokens=False, verbose=False)
        except BaseException:
            self._texts = None  # a generator that has raised is at its end, and the text is not
            raise
        if text is None:
            self._finish_pass()
            return self._read_document()
        ids = [*tokens["input_ids"], self._separator]
        document = _Document(self._n_documents, self.n_epochs, ids)
        self._pending.append(document)
        self._n_pending += len(document.ids)
        self._n_documents += 1
        return True

    def _finish_pass(self) -> None:
        if not self._n_blocks and self._n_pending < self._width:
            raise InputError(
                f"the text holds {self._n_pending} tokens in this split, fewer than one context of "
                f"{self._width + len(self._head)}: give more text or a smaller --context-size"
            )
        self.n_epochs += 1
        self._n_documents = 0
        self._texts = None

    def state_dict(self) -> dict[str, int]:
        """The cursor: the document, the pass and the token in it with which the next block begins.

        A handful of numbers, whatever is pending: the documents are tokenised again from there.
        """
        following = _Document(self._n_documents, self.n_epochs, [])
        first = self._pending[0] if self._pending else following
        return {
            "document": first.number,
            "epoch": first.epoch,
            "token": first.n_served,
            "n_blocks": self._n_blocks,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._n_documents = state["document"]
        self.n_epochs = state["epoch"]
        self._n_blocks = state["n_blocks"]
        self._texts = None
        self._pending.clear()
        self._n_pending = 0
        if state["token"]:
            self._skip_into_document(state["token"])

    def _skip_into_document(self, n: int) -> None:
        """Take the first `n` tokens of the next document for served."""
        number, epoch = self._n_documents, self.n_epochs
        found = self._read_document() and self._pending[0]
        if not found or (found.number, found.epoch) != (number, epoch) or n >= len(found.ids):
            raise TextHasChanged(f"the text no longer has token {n} of document {number}")
        found.n_served = n
        self._n_pending -= n


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> Int[Tensor, " n"]:
    """The ids of BOS, EOS and PAD, as far as the tokenizer has them."""
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return torch.tensor(sorted({i for i in ids if isinstance(i, int)}), dtype=torch.int64)


def counted_positions(
    tokens: Int[Tensor, "batch pos"], special: Int[Tensor, " n"]
) -> Bool[Tensor, "batch pos"]:
    """Which positions count in training and in every metric: neither the first nor special ones.

    Position 0 is an attention sink, in GPT-2 of 20 to 160 times the norm of the rest, so an
    explained variance that counts it is meaningless. Masking by token id alone would keep it
    wherever no BOS is prepended, and masking by position alone would keep GPT-2's document
    separators.
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
