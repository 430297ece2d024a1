"""Weights & Biases without its server: the files that `wandb sync` would send, and a stand-in."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024
HEADER = 7


def records_of(path: Path) -> Iterator[bytes]:
    """The records of W&B's log: LevelDB's format, blocks of 32 KiB after a header of 7 bytes."""
    data, offset, parts = path.read_bytes(), HEADER, b""
    while offset + HEADER <= len(data):
        if BLOCK - offset % BLOCK < HEADER:
            offset += BLOCK - offset % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, offset)
        parts += data[offset + HEADER : offset + HEADER + length]
        offset += HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def history_of(path: Path) -> list[dict[str, float]]:
    """The logged rows. W&B's own process may still be writing when the run has ended here."""
    from wandb.proto.wandb_internal_pb2 import Record

    for _ in range(100):
        records: list[Record] = []
        for data in records_of(path):
            records.append(Record())
            records[-1].ParseFromString(data)
        if any(record.HasField("exit") for record in records):
            break
        time.sleep(0.1)
    rows = [record.history.item for record in records if record.HasField("history")]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        for items in rows
    ]


def description_of(path: Path) -> Any:
    """What the file says of the run: its project, name and tags."""
    from wandb.proto.wandb_internal_pb2 import Record

    records = (Record.FromString(data) for data in records_of(path))
    return next(record.run for record in records if record.HasField("run"))


def artifacts_of(path: Path) -> dict[str, Any]:
    """The artifacts that the run logs, by name."""
    from wandb.proto.wandb_internal_pb2 import Record

    records = [Record.FromString(data) for data in records_of(path)]
    logged = [r.request.log_artifact.artifact for r in records if r.HasField("request")]
    return {a.name: a for a in [*logged, *(r.artifact for r in records)] if a.name}


REFUSED = {("refuses inputs", "UseArtifact"), ("refuses artifacts", "CreateArtifact")}
"""Faults that concern one operation."""


class WandBServer(ThreadingHTTPServer):
    """Speaks as much of W&B's API as a run and `wandb sync` need, and keeps every run's rows.

    With a `fault` it does what that says.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.fault = ""
        self.asked = threading.Event()
        self.vanished = threading.Event()
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.inputs: list[str] = []
        """Names of the artifacts that runs have used."""
        self.workspaces: dict[str, dict[str, Any]] = {}
        self._connections: list[socket.socket] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def tokens(self) -> list[list[float]]:
        """The x-axis of every run."""
        return [[row["train/tokens"] for row in rows] for rows in self.rows.values()]

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    def vanish(self) -> None:
        """Listen no more, and cut what is connected."""
        self.vanished.set()
        self.shutdown()
        self.server_close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # connections that were cut

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """To a GraphQL request."""
        project = {"id": "P", "name": "featureloom", "entity": {"id": "E", "name": "me"}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": None} for name in given["files"]]
            return {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": files}}
        if operation == "CreateArtifact":
            made = given["input"]
            name = made["artifactCollectionName"]
            self.artifacts[name] = made
            # As if it had the files already: it asks for none of them.
            of_name = {"id": "S", "latestArtifact": {"id": name, "versionIndex": 0}}
            return {
                "createArtifact": {
                    "artifact": {"id": name, "state": "COMMITTED", "artifactSequence": of_name}
                }
            }
        if operation == "UseArtifact":
            self.inputs.append(given["input"]["artifactID"])
            return {"useArtifact": {"artifact": {"id": self.inputs[-1]}}}
        if "spec" in given:
            self.workspaces[given["displayName"]] = json.loads(given["spec"])
            view = {"id": "V", "name": given["name"]}
            return {"upsertView": {"view": view, "inserted": True}}
        if given.get("id") in self.artifacts:
            return {"artifact": _artifact(self.artifacts[given["id"]])}
        if operation == "UpsertBucket":
            self.rows.setdefault(given["name"], [])
        rows = self.rows.get(given.get("name", ""))
        run = {
            "id": "R",
            "name": given.get("name"),
            "project": project,
            "config": "{}",
            "wandbConfig": json.dumps({"t": 1}),
            "summaryMetrics": "{}",
            "historyLineCount": len(rows or []),
            "historyTail": json.dumps([json.dumps(row) for row in (rows or [])[-1:]]),
            "eventsTail": "[]",
            "eventsLineCount": 0,
            "logLineCount": 0,
            "tags": [],
        }
        known = None if rows is None else run
        return {
            "upsertBucket": {"bucket": known, "inserted": True},
            "model": {**project, "bucket": known},
            "project": {"artifact": None},  # it has none of the name that is asked for
            "viewer": {"id": "U", "username": "me", "entity": "me", "flags": "{}"},
        }


def _artifact(made: dict[str, Any]) -> dict[str, Any]:
    """The answer to a client that creates an artifact."""
    name = made["artifactCollectionName"]
    of_name = {"__typename": "ArtifactSequence", "name": name, "project": None}
    return {
        "__typename": "Artifact",
        "id": name,
        "artifactSequence": of_name,
        "versionIndex": 0,
        "artifactType": {"name": made["artifactTypeName"]},
        "description": None,
        "metadata": made["metadata"],
        "ttlDurationSeconds": 0,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": "COMMITTED",
        "size": 0,
        "digest": made["digest"],
        "commitHash": None,
        "fileCount": 0,
        "createdAt": "2026-01-01T00:00:00",
        "updatedAt": None,
        "aliases": [],
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandBServer

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        content = json.loads(data) if data.startswith(b"{") else {}  # W&B's reports on itself
        server, fault = self.server, self.server.fault
        server.asked.set()
        operation = content.get("operationName", "")
        is_probe = self.path == "/graphql" and not operation
        if fault == "hangs" or (fault == "hangs when a run is opened" and not is_probe):
            server.vanished.wait()
        elif fault == "breaks off":
            self.close_connection = True
        elif fault == "answers 500":
            self._say(500, {"errors": [{"message": "broken"}]})
        elif fault == "wrong key" and not is_probe:
            self._say(401, {"errors": [{"message": "user is not logged in"}]})
        elif (fault, operation) in REFUSED:
            self._say(403, {"errors": [{"message": "not yours"}]})
        elif self.path == "/graphql":
            self._say(200, {"data": server.answer(operation, content.get("variables", {}))})
        elif fault == "refuses rows":
            self._say(404, {})
        else:
            self._keep(content.get("files", {}).get("wandb-history.jsonl"))
            self._say(200, {})

    def _keep(self, sent: dict[str, Any] | None) -> None:
        if sent is not None:
            rows = self.server.rows[self.path.split("/")[4]]
            rows[sent["offset"] :] = [json.loads(line) for line in sent["content"]]

    def _say(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass
