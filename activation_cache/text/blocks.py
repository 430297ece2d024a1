"""Text to packed token blocks [batch, pos], with a cursor that can be saved and restored."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from activation_cache.common.errors import InputError, described
from activation_cache.text.documents import Document, Messages, to_bytes
from activation_cache.text.record import TextHasChanged, TextRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Documents = Callable[[], Iterator[Document]]
"""Starts one pass over the text; every pass yields the same documents in the same order."""

QUOTED_CHARS = 50
"""How much of a document an error quotes."""


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
    continued in the next block. With `prepend_bos`, every block opens with BOS. Without `repack`,
    documents are token ids and each is a block as it is. After the last document the text starts
    again, or ends where `repeat` is false; the unfinished block at that point is carried over or
    dropped. `n_vocab` is how many ids the model has embeddings for.

    `record` is of the documents: where they are others than when it was saved, reading them raises
    `TextHasChanged`.
    """

    def __init__(
        self,
        documents: Documents,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        context_size: int,
        batch_blocks: int,
        prepend_bos: bool = True,
        repack: bool = True,
        repeat: bool = False,
        n_vocab: int | None = None,
        source: str = "",
    ) -> None:
        self._documents = documents
        self._tokenizer = tokenizer
        self._separator = [_special_id(tokenizer, "eos", "bos")] if repack else []
        self._head = [_special_id(tokenizer, "bos", "eos")] if prepend_bos and repack else []
        self._n_vocab = n_vocab
        self._block_ids = None if repack else context_size
        self._source = source
        self.record = TextRecord(source)
        self._width = context_size - len(self._head)  # of the text that a block holds
        self._batch_blocks = batch_blocks
        self._repeat = repeat
        self._texts: Iterator[Document] | None = None
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

    def next_or_none(self) -> TokenBatch | None:
        """The same as `next_batch`, and None at the end."""
        try:
            return self.next_batch()
        except StopIteration:
            return None

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
        try:
            texts = self._texts or self._skipped_to_cursor()
            document = next(texts, None)
            ids = [] if document is None else self._ids(document)
        except BaseException:
            self._texts = None  # a generator that has raised is at its end, and the text is not
            raise
        if document is None:
            self._finish_pass()
            return self._read_document()
        self.record.see(self._n_documents, to_bytes(document))
        self._pending.append(_Document(self._n_documents, self.n_epochs, ids))
        self._n_pending += len(ids)
        self._n_documents += 1
        return True

    def _ids(self, document: Document) -> list[int]:
        """The tokens of a document, the separator included; `InputError` where one is none."""
        if isinstance(document, list):
            document = self._conversation(document)
        if isinstance(document, str):
            tokens = self._tokenizer(document, add_special_tokens=False, verbose=False)
            ids: list[int] = tokens["input_ids"]
        else:
            ids = list(document)
        if self._n_vocab is not None and ids and not 0 <= min(ids) <= max(ids) < self._n_vocab:
            self._refuse_id(next(i for i in ids if not 0 <= i < self._n_vocab), document)
        if self._block_ids is not None and len(ids) != self._block_ids:
            raise InputError(
                f"row {self._n_documents} of {self._source} has {len(ids)} token ids: blocks as "
                f"they are (--no-repack) must have --context-size ({self._block_ids}) each"
            )
        return [*ids, *self._separator]

    def _refuse_id(self, token_id: int, document: Document) -> None:
        token = self._tokenizer.convert_ids_to_tokens([token_id])[0] if token_id >= 0 else None
        quoted = f" ({document[:QUOTED_CHARS]!r}...)" if isinstance(document, str) else ""
        raise InputError(
            f"document {self._n_documents} of {self._source}{quoted} has the token {token!r} with "
            f"id {token_id}, and the model has embeddings for {self._n_vocab} ids: give text "
            f"without it, or the tokenizer of the model"
        )

    def _conversation(self, messages: Messages) -> str:
        """The text that the model's chat template makes of messages."""
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # templates are programs
            raise InputError(
                f"the chat template of the tokenizer cannot be applied to document "
                f"{self._n_documents} of {self._source} ({described(error)}): give an instruct "
                f"model, or text without --chat"
            ) from error
        return str(text)

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
        self._skipped_to_cursor()
        if state["token"]:
            self._skip_into_document(state["token"])

    def _skipped_to_cursor(self) -> Iterator[Document]:
        """The documents after those that were read: these are read again, and compared."""
        self._texts = texts = self._documents()
        n = 0
        for n, passed in enumerate(islice(texts, self._n_documents), start=1):
            self.record.see(n - 1, to_bytes(passed))
        if n < self._n_documents:
            read = self._n_documents
            what = f"it has only {n} documents of the {read} that were read before"
            raise TextHasChanged(self._source, what)
        return texts

    def _skip_into_document(self, n: int) -> None:
        """Take the first `n` tokens of the next document for served."""
        number, epoch = self._n_documents, self.n_epochs
        found = self._read_document() and self._pending[0]
        if not found or (found.number, found.epoch) != (number, epoch) or n >= len(found.ids):
            what = f"it no longer has token {n} of document {number}"
            raise TextHasChanged(self._source, what)
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
