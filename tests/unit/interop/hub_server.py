"""A Hugging Face hub on loopback: as much of its interface as an upload and a download of a model need."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Files of repositories by name, and the paths that were fetched."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.fetched: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repository: str) -> str:
        """Forty digits that change with the content."""
        content = repr(sorted(self.files[repository].items())).encode()
        return hashlib.sha1(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code: str) -> None:
        self._answer({"error": code}, 404, X_Error_Code=code, X_Error_Message=code)

    def do_GET(self) -> None:
        hub, parts = self.server, [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]
        repository = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repository not in hub.files:
            return self._missing("RepoNotFound")
        files, commit = hub.files[repository], hub.commit(repository)
        if parts[0] == "api" and parts[4:5] == ["tree"]:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            return self._answer(entries)
        if parts[0] == "api":
            siblings = [{"rfilename": name} for name in files]
            return self._answer({"id": repository, "sha": commit, "siblings": siblings, "private": False})
        name = "/".join(parts[4:])
        if name not in files:
            return self._missing("EntryNotFound")
        if self.command == "GET":
            hub.fetched.append(name)
        etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
        return self._answer(files[name], ETag=etag, X_Repo_Commit=commit)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        hub, parts = self.server, [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not body and self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if parts[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            hub.files.setdefault(name, {})
            return self._answer({"url": f"{hub.address}/{name}", "id": name})
        if parts[:2] == ["api", "validate-yaml"]:
            return self._answer({"errors": [], "warnings": []})
        repository = "/".join(parts[2:4])
        if parts[4] == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return self._answer({"files": modes})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                hub.files[repository][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commit = hub.commit(repository)
        url = f"{hub.address}/{repository}/commit/{commit}"
        return self._answer({"success": True, "commitUrl": url, "commitOid": commit})


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that serves during the block."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
