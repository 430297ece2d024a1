"""Pages with a program behind them, for this machine and who knows the address."""

import json
import secrets
import traceback
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from activation_cache.common.errors import InputError, described

Answer = Callable[[Mapping[str, Any]], Any]
"""What is asked and what is answered, as JSON; `InputError` with a line for who asked."""

HOST = "127.0.0.1"
LARGEST_QUESTION = 2**20
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address is what lets one in
    "Cross-Origin-Resource-Policy": "same-origin",
}


class PageServer(ThreadingHTTPServer):
    """Serves the page of a folder, what lies in its folder of parts, and answers at `api/NAME`.

    On the loopback alone, below a secret in the address: other users of the machine and pages of
    other sites do not know it. `port` 0 takes a free one.
    """

    daemon_threads = True

    def __init__(self, page: Path, parts: str, answers: Mapping[str, Answer], port: int) -> None:
        self.page, self.parts, self.answers = page, page.parent / parts, answers
        self.secret = secrets.token_urlsafe(16)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise InputError(
                f"cannot serve at port {port} ({described(error)}): give another"
            ) from error

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/{self.secret}/{self.page.name}"

    def inside(self, name: str) -> Path | None:
        """The file that a path names, if it is one that is served."""
        file = self.page.parent / name
        allowed = file.parent == self.parts or file in (self.page, self.page.parent / "notes.js")
        is_plain = ".." not in Path(name).parts and file.suffix in TYPES
        return file if allowed and is_plain and file.is_file() else None


class _Handler(BaseHTTPRequestHandler):
    server: PageServer  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self._name()
        file = None if name is None else self.server.inside(name)
        if file is None:
            return self._send(404, "text/plain", b"not found")
        content = file.read_bytes()
        if file == self.server.page:  # the page shows what needs a program
            content = content.replace(b"<html ", b"<html data-served ", 1)
        return self._send(200, TYPES[file.suffix], content)

    def do_POST(self) -> None:
        name = (self._name() or "").removeprefix("api/")
        if name not in self.server.answers:
            return self._send(404, "text/plain", b"not found")
        try:
            answer = self.server.answers[name](self._question())
        except InputError as error:
            return self._send_json(400, {"error": str(error)})
        except Exception as error:
            traceback.print_exc()
            return self._send_json(500, {"error": described(error)})
        return self._send_json(200, answer)

    def _name(self) -> str | None:
        """What follows the secret; None for who does not know it, or came by another name."""
        first, _, name = self.path.split("?")[0].removeprefix("/").partition("/")
        hosts = [f"{host}:{self.server.server_port}" for host in (HOST, "localhost")]
        is_known = secrets.compare_digest(first.encode(), self.server.secret.encode())
        return name if is_known and self.headers.get("Host") in hosts else None

    def _question(self) -> Mapping[str, Any]:
        size = self.headers.get("Content-Length", "")
        if not size.isdigit() or int(size) > LARGEST_QUESTION:
            self.close_connection = True  # the rest of it is not read
            raise InputError(f"a question of {size or 'unknown'} bytes: give up to a million")
        try:
            question = json.loads(self.rfile.read(int(size)))
        except ValueError as error:
            raise InputError(f"the question is not JSON: {error}") from error
        if not isinstance(question, dict):
            raise InputError("the question is not an object of JSON")
        return question

    def _send_json(self, status: int, value: Any) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for errors."""
