"""Packing text into token blocks. The toy tokenizer reads the word `7` as the token 7."""

from collections.abc import Iterator, Sequence
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from activation_cache.common.errors import InputError
from activation_cache.text.blocks import TokenBlocks, counted_positions, special_ids
from activation_cache.text.documents import Document

BOS, EOS, PAD = 90, 91, 92


def toy_tokenizer(**special_tokens: str) -> PreTrainedTokenizerFast:
    vocabulary = {str(i): i for i in range(BOS)} | {"<bos>": BOS, "<eos>": EOS, "<pad>": PAD}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special_tokens)


TOKENIZER = toy_tokenizer(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def packed(
    documents: Sequence[Document],
    *,
    context_size: int,
    batch_blocks: int = 1,
    prepend_bos: bool = False,
    repeat: bool = False,
    tokenizer: PreTrainedTokenizerFast = TOKENIZER,
    repack: bool = True,
    n_vocab: int | None = None,
) -> TokenBlocks:
    return TokenBlocks(
        lambda: iter(documents),
        tokenizer,
        context_size=context_size,
        batch_blocks=batch_blocks,
        prepend_bos=prepend_bos,
        repeat=repeat,
        repack=repack,
        n_vocab=n_vocab,
    )


def take(blocks: Iterator[torch.Tensor], n_batches: int) -> list[list[list[int]]]:
    """The next batches as lists, fewer where the text ends."""
    return [batch.tolist() for batch in islice(blocks, n_batches)]


# Packing -----------------------------------------------------------------------------------------


def test_documents_follow_each_other_with_eos_behind_each() -> None:
    blocks = packed(["1 2 3", "4", "5 6"], context_size=3)
    # The stream is 1 2 3 E 4 E 5 6 E.
    assert [batch.tolist() for batch in blocks] == [[[1, 2, 3]], [[EOS, 4, EOS]], [[5, 6, EOS]]]


def test_every_block_opens_with_bos_and_still_holds_context_size_tokens() -> None:
    blocks = packed(["1 2 3", "4", "5 6"], context_size=4, prepend_bos=True)
    assert [batch.tolist() for batch in blocks] == [
        [[BOS, 1, 2, 3]],
        [[BOS, EOS, 4, EOS]],
        [[BOS, 5, 6, EOS]],
    ]


def test_a_long_document_is_continued_in_the_next_blocks() -> None:
    blocks = packed(["1 2 3 4 5 6 7"], context_size=2)
    assert [batch.tolist() for batch in blocks] == [[[1, 2]], [[3, 4]], [[5, 6]], [[7, EOS]]]


def test_the_last_batch_is_short_and_the_unfinished_block_is_dropped() -> None:
    blocks = packed(["1 2 3 4 5 6"], context_size=2, batch_blocks=2)
    # 1 2 | 3 4 | 5 6 | E: three whole blocks.
    assert [batch.tolist() for batch in blocks] == [[[1, 2], [3, 4]], [[5, 6]]]


def test_blocks_are_int64_because_an_embedding_wants_that() -> None:
    (batch,) = packed(["1 2 3"], context_size=4)
    assert batch.dtype == torch.int64


def test_a_repeated_text_carries_the_unfinished_block_over() -> None:
    blocks = packed(["1 2 3"], context_size=3, repeat=True)
    # 1 2 3 E 1 2 3 E 1 2 3 E, without a seam.
    assert take(iter(blocks), 4) == [[[1, 2, 3]], [[EOS, 1, 2]], [[3, EOS, 1]], [[2, 3, EOS]]]


def test_an_epoch_is_complete_when_the_text_starts_again() -> None:
    blocks = packed(["1 2 3"], context_size=3, repeat=True)
    # 123 | E12 | 3E1 | 23E | 123: the second, third and fifth block each need another pass.
    assert [blocks.n_epochs for _ in islice(blocks, 5)] == [0, 1, 2, 2, 3]


def test_a_text_read_to_its_end_is_one_epoch() -> None:
    blocks = packed(["1 2 3", "4 5 6"], context_size=3)
    assert len(list(blocks)) == 2
    assert blocks.n_epochs == 1


def test_bos_separates_documents_where_the_tokenizer_has_no_eos() -> None:
    tokenizer = toy_tokenizer(bos_token="<bos>")
    (batch,) = packed(["1", "2"], context_size=4, tokenizer=tokenizer)
    assert batch.tolist() == [[1, BOS, 2, BOS]]


def test_eos_opens_the_blocks_where_the_tokenizer_has_no_bos() -> None:
    tokenizer = toy_tokenizer(eos_token="<eos>")
    (batch,) = packed(["1 2 3"], context_size=4, prepend_bos=True, tokenizer=tokenizer)
    assert batch.tolist() == [[EOS, 1, 2, 3]]


def test_a_tokenizer_with_neither_bos_nor_eos_is_refused() -> None:
    with pytest.raises(InputError, match="neither eos nor bos"):
        packed(["1 2 3"], context_size=2, tokenizer=toy_tokenizer())


@pytest.mark.parametrize("documents", [["1"], [""], []])
@pytest.mark.parametrize("repeat", [True, False])
def test_a_text_shorter_than_one_context_is_refused(documents: list[str], repeat: bool) -> None:
    blocks = packed(documents, context_size=8, repeat=repeat)
    n_tokens = sum(len(text.split()) + 1 for text in documents)
    with pytest.raises(InputError) as raised:
        list(blocks)
    assert str(raised.value) == (
        f"the text holds {n_tokens} tokens in this split, fewer than one context of 8: "
        f"give more text or a smaller --context-size"
    )


documents_of_lengths = st.lists(st.integers(0, 9), min_size=1, max_size=6).map(
    lambda lengths: [
        " ".join(str(10 * i + j) for j in range(length)) for i, length in enumerate(lengths)
    ]
)


def stream_of(documents: list[str]) -> list[int]:
    """All tokens of one pass: what packing has to cut into blocks."""
    return [token for text in documents for token in [*map(int, text.split()), EOS]]


@settings(deadline=None, max_examples=60)
@given(
    documents=documents_of_lengths,
    context_size=st.integers(2, 6),
    batch_blocks=st.integers(1, 3),
    prepend_bos=st.booleans(),
)
def test_packing_loses_and_repeats_nothing(
    documents: list[str], context_size: int, batch_blocks: int, prepend_bos: bool
) -> None:
    stream = stream_of(documents)
    if len(stream) < context_size:
        return
    batches = list(
        packed(
            documents,
            context_size=context_size,
            batch_blocks=batch_blocks,
            prepend_bos=prepend_bos,
        )
    )
    width = context_size - prepend_bos
    assert [len(batch) for batch in batches[:-1]] == [batch_blocks] * (len(batches) - 1)
    blocks = torch.cat(batches)
    assert blocks.shape == (len(stream) // width, context_size)
    if prepend_bos:
        assert blocks[:, 0].tolist() == [BOS] * len(blocks)
        blocks = blocks[:, 1:]
    assert blocks.flatten().tolist() == stream[: blocks.numel()]


# Resuming ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    documents=documents_of_lengths,
    context_size=st.integers(2, 5),
    batch_blocks=st.integers(1, 3),
    prepend_bos=st.booleans(),
    repeat=st.booleans(),
)
def test_a_restored_cursor_goes_on_where_it_was_at_every_batch_boundary(
    documents: list[str],
    context_size: int,
    batch_blocks: int,
    prepend_bos: bool,
    repeat: bool,
) -> None:
    if len(stream_of(documents)) < context_size:
        return

    def start() -> TokenBlocks:
        return packed(
            documents,
            context_size=context_size,
            batch_blocks=batch_blocks,
            prepend_bos=prepend_bos,
            repeat=repeat,
        )

    whole = start()
    uninterrupted = take(iter(whole), 12)
    for n_consumed in range(len(uninterrupted)):
        first, second = start(), start()
        consumed = take(iter(first), n_consumed)
        second.load_state_dict(first.state_dict())
        resumed = take(iter(second), 12 - n_consumed)
        assert consumed + resumed == uninterrupted
        assert second.n_epochs == whole.n_epochs


def test_resuming_within_the_last_document_serves_the_rest_of_it() -> None:
    first, second = (packed(["1 2 3 4 5"], context_size=2) for _ in range(2))
    assert next(iter(first)).tolist() == [[1, 2]]
    second.load_state_dict(first.state_dict())
    assert [batch.tolist() for batch in second] == [[[3, 4]], [[5, EOS]]]


def test_resuming_at_the_end_of_the_first_pass_starts_the_second() -> None:
    first, second = (packed(["1 2 3", "4 5 6"], context_size=4, repeat=True) for _ in range(2))
    assert take(iter(first), 2) == [[[1, 2, 3, EOS]], [[4, 5, 6, EOS]]]
    second.load_state_dict(first.state_dict())
    assert take(iter(second), 1) == [[[1, 2, 3, EOS]]]


def test_resuming_behind_the_last_batch_serves_nothing_more() -> None:
    # The last batch is short: 1 2 | 3 E and then 4 E.
    first, second = (packed(["1 2 3", "4"], context_size=2, batch_blocks=2) for _ in range(2))
    assert take(iter(first), 2) == [[[1, 2], [3, EOS]], [[4, EOS]]]
    second.load_state_dict(first.state_dict())
    assert list(second) == []


def test_the_saved_cursor_does_not_move_with_the_stream() -> None:
    first, second = (packed(["1 2 3 4", "5 6"], context_size=2) for _ in range(2))
    stream = iter(first)
    next(stream)
    state = first.state_dict()
    next(stream)
    second.load_state_dict(state)
    assert next(iter(second)).tolist() == [[3, 4]]


# What counts -------------------------------------------------------------------------------------


def test_the_first_position_and_special_tokens_do_not_count() -> None:
    tokens = torch.tensor([[BOS, 1, 2, EOS], [3, 4, PAD, BOS]])
    counted = counted_positions(tokens, torch.tensor([BOS, EOS, PAD]))
    assert counted.tolist() == [[False, True, True, False], [False, True, False, False]]


def test_without_special_tokens_only_the_first_position_does_not_count() -> None:
    counted = counted_positions(torch.tensor([[1, 2, 3]]), torch.tensor([], dtype=torch.int64))
    assert counted.tolist() == [[False, True, True]]


def test_the_special_ids_are_those_of_bos_eos_and_pad() -> None:
    assert special_ids(TOKENIZER).tolist() == [BOS, EOS, PAD]


def test_a_token_with_two_roles_is_one_special_id() -> None:
    tokenizer = toy_tokenizer(bos_token="<eos>", eos_token="<eos>")
    assert special_ids(tokenizer).tolist() == [EOS]


def test_a_tokenizer_may_have_no_special_ids() -> None:
    assert special_ids(toy_tokenizer()).tolist() == []
