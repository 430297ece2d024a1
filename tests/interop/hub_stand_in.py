"""A hub on this machine: the few endpoints that fetching and publishing use."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

TOKEN = "hf_" + "SeCrEt" * 5
"""The one that may write, and may see private repositories."""


@dataclass
class Repository:
    """Commits by their hash, and branches and tags by name."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        content = self.commits.get(self.refs.get(branch, ""), {}) | files
        parts = [
            len(self.commits),
            *sorted((n, hashlib.sha1(f).digest()) for n, f in content.items()),
        ]
        sha = hashlib.sha1(repr(parts).encode()).hexdigest()
        self.commits[sha] = content
        self.refs[branch] = sha
        return sha

    def published(self, branch: str = "main") -> dict[str, bytes]:
        """The files of a branch, without the one that a new repository has."""
        files = self.commits[self.refs[branch]]
        return {name: data for name, data in files.items() if name != ".gitattributes"}

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


class Hub(ThreadingHTTPServer):
    """Serves `repositories`. `damaged` are files of which half arrives; `status` answers all."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.damaged: set[str] = set()
        self.status: int | None = None
        self.asked: list[str] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that went away

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self) -> list[str]:
        """The files that were sent."""
        return [
            path.split("/", 5)[5] for path in self.asked if re.match(r"GET /[^/]+/[^/]+/res", path)
        ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{self.command} {path}")
        if self.server.status is not None:
            return self._json(self.server.status, {"error": "no"})
        if path == "/api/validate-yaml":
            return self._json(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create()
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/(.+)", path):
            return self._api(*found.groups())
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*found.groups())
        return self._json(404, {"error": "no such endpoint"})

    def _is_trusted(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _create(self) -> None:
        if not self._is_trusted():
            return self._json(401, {"error": "Invalid user token."})
        wanted = json.loads(self.body)
        repo = f"{wanted['organization']}/{wanted['name']}"
        there = repo in self.server.repositories
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        if not there:
            self.server.repositories[repo] = Repository(private=private)
            self.server.repositories[repo].commit({".gitattributes": b""})
        return self._json(409 if there else 200, {"url": f"{self.server.url}/{repo}"})

    def _api(self, repo: str, what: str, revision: str) -> None:
        repository = self._visible(repo)
        if repository is None:
            return None
        if what in ("preupload", "commit", "branch") and not self._is_trusted():
            return self._json(403, {"error": "Forbidden"})
        if what == "preupload":
            files = [file["path"] for file in json.loads(self.body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return self._json(200, {"files": [{"path": path, **modes} for path in files]})
        if what == "branch":
            repository.refs.setdefault(revision, repository.refs.get("main", ""))
            return self._json(200, {})
        if what == "commit":
            return self._commit(repo, repository, revision)
        sha = repository.resolve(revision)
        if sha is None:
            return self._json(404, {"error": "x"}, {"X-Error-Code": "RevisionNotFound"})
        if what == "revision":
            return self._json(200, {"id": repo, "sha": sha, "private": False, "tags": []})
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in repository.commits[sha].items()
        ]
        return self._json(200, entries)

    def _commit(self, repo: str, repository: Repository, branch: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        sha = repository.commit(files, branch)
        url = f"{self.server.url}/{repo}/commit/{sha}"
        return self._json(200, {"success": True, "commitOid": sha, "commitUrl": url})

    def _visible(self, repo: str) -> Repository | None:
        """The repository; says what the hub says where it is not there, or not for everyone."""
        repository = self.server.repositories.get(repo)
        if repository is None or (repository.private and not self._is_trusted()):
            self._json(401, {"error": "x"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repository

    def _file(self, repo: str, revision: str, path: str) -> None:
        repository = self._visible(repo)
        if repository is None:
            return None
        sha = repository.resolve(revision)
        data = repository.commits[sha or ""].get(path)
        if data is None:
            return self._json(404, {"error": "x"}, {"X-Error-Code": "EntryNotFound"})
        about = {"X-Repo-Commit": sha or "", "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        return self._answer(200, data, about, cut=path in self.server.damaged)

    def _json(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        more = {"Content-Type": "application/json", **(headers or {})}
        return self._answer(status, json.dumps(content).encode(), more)

    def _answer(
        self, status: int, data: bytes, headers: dict[str, str], *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, home: Any) -> Iterator[Hub]:
    """A hub that the client of this process talks to, with an empty cache and no token."""
    with Hub() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        huggingface_hub.utils.disable_progress_bars()
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield hub
        close_session()
        hub.shutdown()
        thread.join()
