"""The server of pages: for who knows the address, and for nothing else of the disk."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import sae
from sae.pages.server import PageServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    folder = tmp_path / "features"
    (folder / "browser").mkdir(parents=True)
    (folder / "index.html").write_text('<!doctype html>\n<html lang="en">')
    (folder / "notes.js").write_text("notes")
    (folder / "browser" / "data.js").write_text("data")
    (folder / "browser" / "secret.txt").write_text("no page")
    (folder / "features.json").write_text("no page")
    (tmp_path / "outside.js").write_text("outside")

    def answer(asked: Any) -> Any:
        if "bad" in asked:
            raise sae.InputError("bad is not known: leave it out")
        return {"heard": 1 / asked["number"]}

    with PageServer(folder / "index.html", "browser", {"echo": answer}, 0) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def _ask(
    server: PageServer, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET" if body is None else "POST", path, body, headers)
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


def test_it_serves_the_page_and_its_parts_below_the_secret(server: PageServer) -> None:
    assert server.url.startswith("http://127.0.0.1:") and len(server.secret) >= 20
    page = _ask(server, f"/{server.secret}/index.html")
    assert page == (200, b'<!doctype html>\n<html data-served lang="en">')
    assert _ask(server, f"/{server.secret}/browser/data.js") == (200, b"data")
    assert _ask(server, f"/{server.secret}/notes.js?again") == (200, b"notes")


@pytest.mark.parametrize(
    "path",
    [
        *("/index.html", "/wrong/index.html", "/{0}x/index.html", "//index.html", "/"),
        *("/{0}/features.json", "/{0}/browser/secret.txt", "/{0}/../outside.js", "/{0}/browser"),
        *("/{0}/browser/../../outside.js", "/{0}//etc/passwd", "/{0}/browser/%2e%2e/notes.js"),
    ],
)
def test_it_serves_nothing_else(server: PageServer, path: str) -> None:
    assert _ask(server, path.format(server.secret))[0] == 404


def test_it_serves_no_page_of_another_name(server: PageServer) -> None:
    """Else a site could have its name lead here, and read what the browser may read of it."""
    path = f"/{server.secret}/index.html"
    assert _ask(server, path, Host=f"localhost:{server.server_port}")[0] == 200
    assert _ask(server, path, Host="evil.example")[0] == 404


def test_it_answers_questions_in_json(server: PageServer) -> None:
    path = f"/{server.secret}/api/echo"
    assert _ask(server, path, b'{"number": 4}') == (200, b'{"heard": 0.25}')
    assert _ask(server, "/wrong/api/echo", b'{"number": 4}')[0] == 404
    assert _ask(server, f"/{server.secret}/api/other", b"{}")[0] == 404


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"bad": 1}', "bad is not known: leave it out"),
        (b"{", "the question is not JSON"),
        (b"[]", "not an object"),
    ],
)
def test_a_question_that_cannot_be_answered_is_one_line(
    server: PageServer, body: bytes, says: str
) -> None:
    status, answer = _ask(server, f"/{server.secret}/api/echo", body)
    assert status == 400 and says in json.loads(answer)["error"]


def test_a_question_that_is_too_large_is_not_read(server: PageServer) -> None:
    path, size = f"/{server.secret}/api/echo", {"Content-Length": str(2**20 + 1)}
    status, answer = _ask(server, path, b"{", **size)
    assert status == 400 and "1048577 bytes: give up to a million" in json.loads(answer)["error"]


def test_a_failure_is_told_and_the_server_stays(
    server: PageServer, capfd: pytest.CaptureFixture[str]
) -> None:
    path = f"/{server.secret}/api/echo"
    status, answer = _ask(server, path, b'{"number": 0}')
    assert status == 500 and json.loads(answer) == {"error": "ZeroDivisionError: division by zero"}
    assert "Traceback" in capfd.readouterr().err
    assert _ask(server, path, b'{"number": 1}')[0] == 200


def test_a_port_that_is_taken_is_one_line(server: PageServer) -> None:
    with pytest.raises(sae.InputError, match=r"cannot serve at port \d+ .*: give another"):
        PageServer(server.page, "browser", {}, server.server_port)
