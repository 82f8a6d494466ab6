"""Models of the Hugging Face hub, from a server on this machine."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from couplet.errors import UserError
from couplet.interop.convert import import_model

FOLDER = Path(__file__).parents[2] / "golden" / "published" / "diffusers_cd_imagenet64"
COMMIT = "0" * 40


def files() -> dict[str, bytes]:
    found = {}
    for path in FOLDER.rglob("*.*"):
        packed = path.suffix == ".xz"
        name = str((path.with_suffix("") if packed else path).relative_to(FOLDER))
        found[name] = lzma.decompress(path.read_bytes()) if packed else path.read_bytes()
    return found | {"README.md": b"not asked for"}


class Hub(BaseHTTPRequestHandler):
    """The parts of the hub's protocol that fetching a snapshot needs, for the one model `owner/name`."""

    asked: list[str] = []
    content = files()

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        name = path.removeprefix(f"/owner/name/resolve/{COMMIT}/")
        if path.startswith("/api/models/owner/name/revision/"):
            siblings = [{"rfilename": name} for name in self.content]
            content = json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode()
        elif path.startswith("/api/models/owner/name/tree/"):
            entries = [
                {"type": "file", "path": n, "size": len(c), "oid": COMMIT} for n, c in self.content.items()
            ]
            content = json.dumps(entries).encode()
        elif name in self.content:
            content = self.content[name]
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    Hub.asked.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def imported(name: str, hub: str, room: Path) -> subprocess.CompletedProcess[str]:
    """huggingface_hub reads its settings when it is imported, so in a process of its own."""
    environment = {
        **{key: value for key, value in os.environ.items() if "proxy" not in key.lower()},
        "HF_ENDPOINT": hub,
        "HF_HOME": str(room / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", "couplet", "import", name, "--out", str(room / "model")]
    return subprocess.run(command, env=environment, cwd=room, capture_output=True, text=True)


def test_a_model_of_the_hub(hub: str, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    ended = imported("owner/name", hub, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "owner/name: diffusers ConsistencyModelPipeline" in ended.stdout
    assert not any("README" in path for path in Hub.asked)
    assert (tmp_path / "model").exists()


def test_an_unknown_model_of_the_hub(hub: str, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    ended = imported("owner/other", hub, tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("couplet: owner/other: cannot be fetched from the Hugging Face hub")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_the_package_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"huggingface.hub is not installed; pip install huggingface.hub$"):
        import_model("owner/name", tmp_path / "model")
