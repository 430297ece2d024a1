"""Datasets that fail or stall while they are read: every document comes once, or a clear refusal.

A row is `{"text": "document 7"}`. Nothing here waits: pauses are noted and not slept through.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import aiohttp
import httpx
import pytest
from caches import refusal
from datasets.exceptions import DatasetNotFoundError
from flaky_datasets import RESET, ROWS, SOURCE, Flaky, without_pauses
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from yarl import URL

from activation_cache.text import retries as patience
from activation_cache.text.retries import READ_AHEAD_ROWS, RETRY_AFTER_S, patient_rows


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The pauses that were made; in truth none."""
    with without_pauses(monkeypatch) as made:
        yield made


def read(dataset: Callable[[], Iterable[dict[str, Any]]]) -> list[dict[str, Any]]:
    return list(patient_rows(SOURCE, dataset))


# Going on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "times"), [(0, 1), (1, 5), (64, 2), (65, 1), (199, 1), (200, 5)])
def test_every_row_comes_once_and_in_order_whatever_fails(at: int, times: int) -> None:
    dataset = Flaky([at], times=times)
    assert read(dataset) == ROWS
    assert dataset.n_opened == 1 + times


def test_a_dataset_that_does_not_fail_is_opened_once_and_read_no_further_than_needed() -> None:
    seen: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        for i, row in enumerate(ROWS):
            seen.append(i)
            yield row

    reading = patient_rows(SOURCE, rows)
    assert list(islice(reading, 3)) == ROWS[:3]
    # Those ahead in the queue, one that waits for room in it, and the three.
    assert len(seen) <= 3 + READ_AHEAD_ROWS + 1


def test_the_pauses_grow_and_every_try_is_told_in_one_line(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    assert read(Flaky([150], times=5)) == ROWS
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 5
    assert caplog.messages[2] == (
        "cannot read the dataset 'owner/name' after row 150 (ConnectionResetError: [Errno 104] "
        "Connection reset by peer): trying again in 4 s (3 of 5)"
    )


def test_a_row_that_is_new_gives_all_tries_back(pauses: list[float]) -> None:
    assert read(Flaky(range(10, 60, 10), times=5)) == ROWS
    assert pauses == 5 * [1.0, 2.0, 4.0, 8.0, 16.0]


def test_after_the_last_try_it_is_said_what_failed_where_and_what_can_be_done(
    pauses: list[float],
) -> None:
    dataset = Flaky([150], times=6)
    reading = patient_rows(SOURCE, dataset)
    assert list(islice(reading, 150)) == ROWS[:150]
    assert refusal(lambda: next(reading)) == (
        "cannot read the dataset 'owner/name' after row 150 (ConnectionResetError: [Errno 104] "
        "Connection reset by peer), in 6 tries: resume once the network and the hub are well, or "
        "give a copy on this machine (.txt, .jsonl or .parquet)"
    )
    assert pauses == list(RETRY_AFTER_S)
    assert dataset.n_opened == 6


def test_rows_that_are_read_again_are_no_progress() -> None:
    # It fails at row 3 every time: a reading that counted the three rows would never end.
    assert "after row 3 (" in refusal(lambda: read(Flaky([3], times=1_000)))


def test_an_error_of_many_lines_is_told_in_one_and_cut() -> None:
    error = ConnectionError("first line " + 1_000 * "x" + "\nsecond line")
    message = refusal(lambda: read(Flaky([3], error, times=6)))
    assert "second" not in message
    assert len(message) < 500


# Stalls ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 100])
def test_a_dataset_that_stalls_is_opened_again(
    at: int, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "ROW_TIMEOUT_S", 0.1)
    assert read(Flaky([at], error=None, times=2)) == ROWS
    assert len(pauses) >= 2  # more where the machine itself stalls


def test_a_dataset_that_always_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "ROW_TIMEOUT_S", 0.05)
    message = refusal(lambda: read(Flaky([7], error=None, times=6)))
    assert "after row 7 (TimeoutError: nothing came for 0.05 s), in 6 tries" in message


def test_a_reader_that_takes_its_time_is_no_stall(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = set(threading.enumerate())
    reading = patient_rows(SOURCE, Flaky(rows=ROWS[:READ_AHEAD_ROWS]))
    next(reading)
    for thread in set(threading.enumerate()) - others:
        thread.join()  # all rows are ready
    monkeypatch.setattr(patience, "ROW_TIMEOUT_S", 0.0)
    assert list(reading) == ROWS[1:READ_AHEAD_ROWS]
    assert pauses == []


def test_the_thread_ends_when_nobody_reads_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PARTING_S", 10.0)

    others = set(threading.enumerate())
    reading = patient_rows(SOURCE, Flaky())
    next(reading)
    assert len(set(threading.enumerate()) - others) == 1
    del reading
    assert set(threading.enumerate()) <= others
    read(Flaky([100]))
    assert set(threading.enumerate()) <= others


# What cannot be mended ---------------------------------------------------------------------------


def http_error(status: int) -> HfHubHTTPError:
    """As the hub's client raises it."""
    from httpx2 import Request, Response

    response = Response(status, request=Request("GET", "https://huggingface.co/x"))
    return HfHubHTTPError(f"{status} from the hub", response=response)


def aiohttp_error(status: int) -> aiohttp.ClientResponseError:
    url = URL("https://huggingface.co/x")
    info = aiohttp.RequestInfo(url, "GET", headers=None, real_url=url)  # type: ignore[arg-type]
    return aiohttp.ClientResponseError(info, (), status=status, message="from the server")


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        DatasetNotFoundError(
            "Dataset 'owner/name' doesn't exist on the Hub or cannot be accessed."
        ),
        FileNotFoundError("Couldn't find any data file"),
        RuntimeError("Dataset scripts are no longer supported, but found name.py"),
        ImportError("zstandard"),
        http_error(401),
        http_error(404),
        raised_from(ConnectionError("Server Disconnected"), aiohttp_error(403)),
    ],
)
def test_what_trying_again_cannot_mend_is_refused_at_once(
    error: Exception, pauses: list[float]
) -> None:
    dataset = Flaky([0], error)
    message = refusal(lambda: read(dataset))
    cause = error.__cause__ or error
    assert message == (
        f"cannot read the dataset 'owner/name' ({type(cause).__name__}: {cause}): check its name, "
        f"and that you may read it (`hf auth login`), or give 'docstrings' or a local .txt, .jsonl "
        f"or .parquet file"
    )
    assert dataset.n_opened == 1
    assert pauses == []


@pytest.mark.parametrize(
    "error",
    [
        RESET,
        TimeoutError(),
        httpx.ReadTimeout("timed out"),
        aiohttp.ClientPayloadError("Response payload is not completed"),
        EOFError("Compressed file ended before the end-of-stream marker was reached"),
        *(http_error(status) for status in (408, 429, 503)),
        raised_from(ConnectionError("Server Disconnected"), aiohttp_error(503)),
        raised_from(FileNotFoundError("not found either"), LocalEntryNotFoundError("no network")),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    dataset = Flaky([0, 20], error)
    assert read(dataset) == ROWS
    assert dataset.n_opened == 3


@pytest.mark.parametrize(
    "error",
    [
        http_error(403),  # a signed link that has expired
        FileNotFoundError("a hub that answers badly looks like a file that is not there"),
        RuntimeError("Cannot send a request, as the client has been closed."),
    ],
)
def test_what_was_there_a_moment_ago_is_asked_for_again(error: Exception) -> None:
    assert read(Flaky([20], error)) == ROWS
    assert read(Flaky([0], error)) == ROWS  # the next pass over the text


@pytest.mark.parametrize("error", [http_error(404), ValueError("Couldn't cast array of type")])
def test_rows_that_are_missing_or_broken_further_on_are_refused_at_once(
    error: Exception, pauses: list[float]
) -> None:
    assert str(error) in refusal(lambda: read(Flaky([20], error)))
    assert pauses == []


def test_a_dataset_that_has_changed_meanwhile_is_refused() -> None:
    openings = iter([Flaky([50]), Flaky(rows=ROWS[1:])])
    assert refusal(lambda: read(lambda: next(openings)())) == (
        "row 50 of the dataset 'owner/name' has changed while it was read: start again"
    )


def test_a_dataset_that_has_become_shorter_is_refused() -> None:
    openings = iter([Flaky([50]), Flaky(rows=ROWS[:10])])
    assert "has changed while it was read" in refusal(lambda: read(lambda: next(openings)()))
