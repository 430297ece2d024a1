"""Documents, tokens and activations of a dataset that fails: nothing is lost, and nothing twice."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from caches import refusal
from flaky_datasets import ROWS, SOURCE, Flaky, without_pauses

from activation_cache import HarvestConfig, InputError, LanguageModel, harvest
from activation_cache.text import documents as text
from activation_cache.text.blocks import TokenBlocks
from activation_cache.text.config import TextConfig
from activation_cache.text.documents import documents
from activation_cache.text.split import is_held_out


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The pauses that were made; in truth none."""
    with without_pauses(monkeypatch) as made:
        yield made


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Flaky], Flaky]:
    """Put a dataset in the place of every one on the hub."""

    def put(dataset: Flaky) -> Flaky:
        monkeypatch.setattr(text, "_hub_rows", lambda source, cfg: dataset())
        return dataset

    return put


def test_documents_of_the_hub_come_once_and_in_order(hub: Callable[[Flaky], Flaky]) -> None:
    rows = [{"text": None}, {"text": " "}, *ROWS]
    hub(Flaky(range(0, 200, 20), rows=rows))
    expected = [row["text"] for row in ROWS if not is_held_out(row["text"])]
    assert list(documents(TextConfig(dataset=SOURCE), "train")) == expected


def test_a_wrong_column_is_refused_without_another_try(
    hub: Callable[[Flaky], Flaky], pauses: list[float]
) -> None:
    dataset = hub(Flaky())
    message = refusal(
        lambda: next(documents(TextConfig(dataset=SOURCE, text_column="body"), "train"))
    )
    assert message == "owner/name has no text column 'body': it has text"
    assert (dataset.n_opened, pauses) == (1, [])


def test_a_hub_that_cannot_be_reached_is_refused_without_another_try(pauses: list[float]) -> None:
    assert "the hub cannot be reached" in refusal(
        lambda: next(documents(TextConfig(dataset=SOURCE), "train"))
    )
    assert pauses == []


def test_local_files_are_read_once(tmp_path: Path, pauses: list[float]) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"text": "the first"}\nnot json\n')
    assert "cannot read text from" in refusal(
        lambda: list(documents(TextConfig(dataset=str(path)), "train"))
    )
    assert pauses == []


def blocks_of(tiny: LanguageModel) -> TokenBlocks:
    """Seven blocks of eight tokens in each batch: some forty documents."""
    return TokenBlocks(
        lambda: documents(TextConfig(dataset=SOURCE), "train"),
        tiny.tokenizer,
        context_size=8,
        batch_blocks=7,
        repeat=True,
    )


def test_the_cursor_stays_right_when_the_text_fails(
    tiny: LanguageModel, hub: Callable[[Flaky], Flaky]
) -> None:
    hub(Flaky())
    undisturbed = blocks_of(tiny)
    expected = [next(undisturbed) for _ in range(30)]
    assert undisturbed.n_epochs == 1
    dataset = hub(Flaky(range(0, 200, 9), times=6))  # each of which is given up
    blocks = blocks_of(tiny)
    served: list[torch.Tensor] = []
    n_refused = 0
    while len(served) < 30:
        try:
            served.append(next(blocks))
        except InputError:
            n_refused += 1
            state = blocks.state_dict()
            if n_refused % 2:  # every other time in a new run
                blocks = blocks_of(tiny)
                blocks.load_state_dict(state)
    assert n_refused == 23  # rows 0, 9, ..., 198
    assert dataset.n_opened >= 6 * 23
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(served, expected, strict=True))


def test_a_stream_over_a_bad_line_is_the_stream_over_a_good_one(
    tiny: LanguageModel, hub: Callable[[Flaky], Flaky]
) -> None:
    site = "blocks.0.hook_resid_pre"
    cfg = HarvestConfig(
        hook_names=(site,),
        dataset=SOURCE,
        context_size=8,
        forward_tokens=64,
        batch_tokens=32,
        buffer_tokens=64,
    )
    hub(Flaky())
    expected = [batch[site] for batch in islice(harvest(tiny, cfg), 40)]
    hub(Flaky([90], times=6))
    stream = harvest(tiny, cfg)
    served: list[torch.Tensor] = []
    with pytest.raises(InputError, match="after row 90"):
        served.extend(batch[site] for batch in stream)
    assert served
    restored = harvest(tiny, cfg)
    restored.load_state_dict(stream.state_dict())
    for later in (stream, restored):
        rest = [batch[site] for batch in islice(later, 40 - len(served))]
        assert all(map(torch.equal, [*served, *rest], expected))
