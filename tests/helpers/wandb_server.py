"""As much of a W&B server as `wandb sync` asks for: it takes every upload and keeps what came."""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote


class Server(ThreadingHTTPServer):
    """Listens on a free port.

    Attributes:
        runs: what was written of each run, the last values.
        files: uploaded path -> content; those of an artifact below its name.
        lines: name of a stream -> its lines, as ``wandb-history.jsonl``.
        committed: names of the artifacts that were finished.
        used: names of the artifacts that are inputs of a run.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, dict[str, Any]] = defaultdict(dict)
        self.files: dict[str, bytes] = {}
        self.lines: dict[str, list[str]] = defaultdict(list)
        self.committed: list[str] = []
        self.used: list[str] = []

    def handle_error(self, *request: Any) -> None:
        """W&B hangs up when it is done."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*request)

    def place(self, *parts: str) -> dict[str, Any]:
        """Where a file goes."""
        return {"uploadUrl": "/".join([f"{self.url}/put", *parts]), "uploadHeaders": []}

    def answer(self, name: str, sent: dict[str, Any]) -> dict[str, Any]:
        """To a query or mutation of GraphQL."""
        asked = {**sent, **(sent.get("input") or {})}
        if name == "Viewer":
            return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if name == "UpsertBucket":
            self.runs[asked["name"]] |= {key: value for key, value in asked.items() if value is not None}
            project = {"id": "p", "name": asked["project"], "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": asked["name"], "displayName": "", "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": file, **self.place(file)} for file in asked["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if name == "CreateArtifact":
            collection = asked["artifactCollectionName"]
            artifact = {"id": collection, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        if name in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            manifest = {"id": asked.get("artifactID", "m"), "file": {"id": "f", **self.place("manifests")}}
            return {name[0].lower() + name[1:]: {"artifactManifest": manifest}}
        if name == "CreateArtifactFiles":
            nodes = [{"storagePath": "x", **self._of_artifact(file)} for file in asked["artifactFiles"]]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if name == "CommitArtifact":
            self.committed.append(asked["artifactID"])
            return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": "d"}}}
        if name == "UseArtifact":
            self.used.append(asked["artifactID"])
            return {"useArtifact": {"artifact": {"id": asked["artifactID"]}}}
        return {}

    def _of_artifact(self, file: dict[str, str]) -> dict[str, Any]:
        return {**self.place(file["artifactID"], file["name"]), "artifact": {"id": file["artifactID"]}}


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._send({})

    def do_PUT(self) -> None:
        self.server.files[unquote(self.path).removeprefix("/put/")] = self._body()
        self._send({})

    def do_POST(self) -> None:
        content = json.loads(self._body() or "{}")
        if self.path.endswith("/graphql"):
            named = re.search(r"(?:query|mutation)\s+(\w+)", content["query"])
            assert named
            self._send({"data": self.server.answer(named[1], content.get("variables") or {})})
        else:
            for stream, part in (content.get("files") or {}).items():
                self.server.lines[stream] += part["content"]
            self._send({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if body[:2] == b"\x1f\x8b" and self.command == "POST" else body

    def _send(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def wandb_server() -> Iterator[Server]:
    """One that runs."""
    with Server() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
