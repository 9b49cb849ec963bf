"""Downloads by hub id, from a local server with the hub's protocol."""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from naruto_core.dataset.sources import open_source
from naruto_core.errors import DatasetUnusable
from naruto_core.recipe_sections import DatasetSection

COMMIT = "1ed13e8" + 33 * "0"
FILE = "data/train-00000-of-00001.parquet"


def _shard() -> bytes:
    rows = []
    for colour in ("red", "green", "blue"):
        png = io.BytesIO()
        Image.new("RGB", (70, 64), colour).save(png, "PNG")
        rows.append({"image": {"bytes": png.getvalue(), "path": None}, "text": f"a {colour} picture"})
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), table)
    return table.getvalue()


class _Hub(BaseHTTPRequestHandler):
    """Commits, repository info, and one file: what a pinned dataset download asks for."""

    shard = _shard()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        commit = {"id": COMMIT, "title": "t", "message": "m", "authors": [], "date": "2024-01-01T00:00:00.000Z"}
        info = {"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": FILE}, {"rfilename": "evil.py"}]}
        entry = {"type": "file", "path": FILE, "size": len(self.shard), "oid": "0" * 40}
        if path.startswith("/api/datasets/org/name/commits/"):
            self._json([commit])
        elif path == f"/api/datasets/org/name/revision/{COMMIT}":
            self._json(info)
        elif path.startswith(f"/api/datasets/org/name/tree/{COMMIT}"):
            self._json([entry])
        elif path == f"/datasets/org/name/resolve/{COMMIT}/{FILE}":
            self._respond(200, self.shard, "application/octet-stream")
        else:
            self._respond(404, b"{}", "application/json")

    do_HEAD = do_GET  # noqa: N815 (the name http.server looks for)

    def _json(self, value: object) -> None:
        self._respond(200, json.dumps(value).encode(), "application/json")

    def _respond(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def _read(endpoint: str, cache: Path, revision: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its address when it is imported."""
    program = """
import sys, time
time.sleep = lambda seconds: None  # the client waits longer and longer between its attempts
from naruto_core.dataset.sources import open_source
from naruto_core.errors import NarutoError
from naruto_core.recipe_sections import DatasetSection
try:
    source = open_source(DatasetSection(source="org/name", revision=sys.argv[1]))
    print(source.name, source.total, [record.caption for record in source.records()])
except NarutoError as error:
    sys.exit(f"naruto: {error}")
"""
    variables = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", program, revision]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


def test_a_pinned_dataset_is_downloaded_and_its_commit_is_part_of_its_name(hub: str, tmp_path: Path):
    done = _read(hub, tmp_path, COMMIT[:7])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"org/name@{COMMIT} 3 ['a red picture', 'a green picture', 'a blue picture']"
    assert not list(tmp_path.rglob("evil.py"))


def test_a_downloaded_file_that_was_damaged_is_refused_and_downloaded_again_once_it_is_deleted(
    hub: str, tmp_path: Path
):
    assert _read(hub, tmp_path, COMMIT).returncode == 0
    (blob,) = (path for path in tmp_path.rglob("blobs/*") if len(path.name) == 64)
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + b"x")
    refused = _read(hub, tmp_path, COMMIT)
    assert refused.returncode == 1
    assert f"train-00000-of-00001.parquet is damaged: delete {blob}, and the same command" in refused.stderr
    blob.unlink()
    assert _read(hub, tmp_path, COMMIT).returncode == 0
    assert blob.read_bytes() == whole


def test_a_dataset_without_parquet_files_is_named_with_where_the_hub_has_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "nothing was downloaded"))
    with pytest.raises(DatasetUnusable, match=r"org/name has no parquet files at 0.* refs/convert/parquet"):
        open_source(DatasetSection(source="org/name", revision="0" * 40))


def test_a_hash_no_commit_begins_with_is_refused(hub: str, tmp_path: Path):
    done = _read(hub, tmp_path, "abcdef1")
    assert done.returncode == 1
    assert "0 commits that begin with abcdef1" in done.stderr


def test_a_hub_that_cannot_be_reached_is_an_error(tmp_path: Path):
    for revision in (COMMIT[:7], COMMIT):
        done = _read("http://127.0.0.1:9", tmp_path, revision)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("naruto: cannot ")
        assert "Traceback" not in done.stderr
