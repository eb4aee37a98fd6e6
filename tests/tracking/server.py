"""A W&B server on localhost: enough of it for an upload, and every way to be out of order."""

from __future__ import annotations

import http.server
import json
import re
import socket
import threading
import time
from typing import Any

HANG_S = 45  # longer than anybody waits


class Server:
    """Answers as W&B does, until told otherwise.

    Attributes:
        answer: an HTTP status that every request gets instead, or ``hang``; None answers well.
        after: how many requests are still answered well.
        seen: the GraphQL operations and other paths that were asked for.
        runs: ids of the runs that were uploaded.
        history: what they logged, line by line.
        summary: their last summary.
        config: their last configuration.
        artifacts: what they made.
        views: saved workspaces and reports.
    """

    def __init__(self) -> None:
        self.answer: int | str | None = None
        self.after = 0
        self.seen: list[str] = []
        self.runs: set[str] = set()
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.views: list[dict[str, Any]] = []
        self._http = _Http(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def reply(self, path: str, body: bytes) -> dict[str, Any]:
        """To one request, GraphQL or not."""
        try:
            asked = json.loads(body)
        except ValueError:
            asked = {}
        operation = re.search(r"(?:mutation|query)\s+(\w+)", asked.get("query", "")) if asked else None
        name = operation.group(1) if operation else path
        self.seen.append(name)
        return {"data": self._data(name, asked.get("variables") or {})} if operation else self._stream(asked)

    def _data(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        makers = {
            "Viewer": self._viewer, "GetDefaultEntity": self._viewer, "GetProjects": self._projects,
            "UpsertBucket": self._run, "CreateArtifact": self._artifact, "CreateRunFiles": self._files,
            "UpsertView2": self._view, "upsertView": self._view,
        }  # fmt: skip
        return makers[name](given) if name in makers else {}

    def _viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "1", "username": "me", "entity": "me", "teams": {"edges": []}}}

    def _projects(self, _: dict[str, Any]) -> dict[str, Any]:
        node = {"__typename": "Project", "id": "1", "name": "gradsam_exp", "entityName": "me", "user": None}
        node |= {"createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False}
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"node": node}]}}

    def _run(self, given: dict[str, Any]) -> dict[str, Any]:
        self.runs.add(given["name"])
        self.config = json.loads(given.get("config") or "{}")
        project = {"id": "1", "name": given["project"], "entity": {"id": "1", "name": "me"}}
        bucket = {"id": "1", "name": given["name"], "displayName": given.get("displayName"), "project": project}
        return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": True}}

    def _artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifacts.append(given["input"])
        return {"createArtifact": {"artifact": {"id": "1", "state": "COMMITTED", "artifactSequence": {"id": "1"}}}}

    def _files(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": file, "uploadUrl": f"{self.url}/file/{file}"} for file in given["files"]]
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}

    def _view(self, given: dict[str, Any]) -> dict[str, Any]:
        self.views.append(given)
        project = {"id": "1", "name": given["projectName"], "entityName": given["entityName"]}
        return {"upsertView": {"view": {**given, "id": "Vmlldzox", "project": project, "updatedAt": None}}}

    def _stream(self, sent: dict[str, Any]) -> dict[str, Any]:
        files = sent.get("files") or {}
        self.history += [json.loads(line) for line in files.get("wandb-history.jsonl", {}).get("content", [])]
        for line in files.get("wandb-summary.json", {}).get("content", []):
            self.summary = json.loads(line)
        return {}


class _Http(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """The other side may be killed."""


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            broken = server.answer is not None and server.after <= 0
            server.after -= 1
            if broken and server.answer == "hang":
                time.sleep(HANG_S)
                return
            status = int(server.answer) if broken and server.answer is not None else 200
            content = {"errors": [{"message": "out of order"}]} if broken else server.reply(self.path, body)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PUT = do_POST

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def closed_port() -> str:
    """An address that refuses connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
