"""Datasets that `datasets` itself streams from a server on this machine, which fails."""

import json
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any

import datasets
import pytest
from caches import refusal
from flaky_datasets import ROWS, SOURCE, texts_of, without_pauses

from activation_cache.text import documents as text
from activation_cache.text.config import TextConfig
from activation_cache.text.documents import documents


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The pauses that were made; in truth none."""
    with without_pauses(monkeypatch) as made:
        yield made


class Server(ThreadingHTTPServer):
    """Serves `/0.jsonl`, `/1.jsonl` and so on, fifty rows each; some answers go wrong.

    `wrong` holds, by path, what becomes of the next requests for its content: a status, or `drop`
    for a connection that is cut in the middle of the body.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.wrong: dict[str, list[int | str]] = {}
        self.n_wrong = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that went away

    def urls(self, n_files: int) -> list[str]:
        return [f"http://127.0.0.1:{self.server_port}/{i}.jsonl" for i in range(n_files)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(200, self._content(), body=False)

    def do_GET(self) -> None:
        data = self._content()
        wanted = self.headers.get("Range")
        if wanted is None:  # `datasets` looks whether it is there
            self._answer(200, data)
            return
        first, last = wanted.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last) + 1 if last else None]
        ahead = self.server.wrong.get(self.path)
        wrong = ahead.pop(0) if ahead else None
        self.server.n_wrong += wrong is not None
        if isinstance(wrong, int):
            self._answer(wrong, b"")
        else:
            self._answer(
                206, part, cut=wrong == "drop", content_range=f"{first}-{last}/{len(data)}"
            )

    def _content(self) -> bytes:
        start = 50 * int(self.path.strip("/").removesuffix(".jsonl"))
        return "".join(json.dumps(row) + "\n" for row in ROWS[start : start + 50]).encode()

    def _answer(
        self, status: int, data: bytes, *, body: bool = True, cut: bool = False, **more: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        if "content_range" in more:
            self.send_header("Content-Range", f"bytes {more['content_range']}")
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """What is on the hub comes from there; the tries that `datasets` makes by itself are two."""
    monkeypatch.setattr(datasets.config, "STREAMING_READ_MAX_RETRIES", 2)
    monkeypatch.setattr(datasets.config, "STREAMING_READ_RETRY_INTERVAL", 0)
    with Server() as serving:

        def rows(source: str, cfg: TextConfig) -> Iterable[dict[str, Any]]:
            return datasets.load_dataset(
                "json", data_files=serving.urls(4), split="train", streaming=True
            )

        monkeypatch.setattr(text, "_hub_rows", rows)
        thread = threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "wrong",
    [
        {"/2.jsonl": [503] * 4, "/3.jsonl": ["drop", 503, 502, "drop"]},
        {"/1.jsonl": [429, 500, 403, 504]},
    ],
)
def test_a_server_that_fails_for_a_while_costs_nothing_but_time(
    server: Server, wrong: dict[str, list[int | str]], pauses: list[float]
) -> None:
    server.wrong = {path: list(answers) for path, answers in wrong.items()}
    assert list(documents(TextConfig(dataset=SOURCE), "train")) == texts_of(ROWS)
    assert server.n_wrong == sum(map(len, wrong.values()))
    assert pauses


def test_a_server_that_fails_for_good_is_named_with_the_row(server: Server) -> None:
    server.wrong = {"/2.jsonl": [503] * 100}
    reading = documents(TextConfig(dataset=SOURCE), "train")
    expected = texts_of(ROWS[:100])
    assert list(islice(reading, len(expected))) == expected
    message = refusal(lambda: next(reading))
    assert message.startswith(
        "cannot read the dataset 'owner/name' after row 100 (ClientResponseError: 503, "
        "message='Service Unavailable'"
    )
    assert "in 6 tries" in message


def test_a_file_that_the_server_does_not_have_is_refused_at_once(
    server: Server, pauses: list[float]
) -> None:
    server.wrong = {"/2.jsonl": [404] * 100}
    message = refusal(lambda: list(documents(TextConfig(dataset=SOURCE), "train")))
    assert "404" in message
    assert pauses == []
