"""A model hub to download from: a local server with one repository at one commit."""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def downloads(
    folder: Path, name: str, commit: str, further: Mapping[str, Path] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that has the files of `folder` as repository `name`, and the paths it was asked for.

    `further` holds more repositories at the same commit, by name.
    """
    asked: list[str] = []
    folders = {f"/{name}/resolve/{commit}/": folder for name, folder in {name: folder, **(further or {})}.items()}

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            start = next((start for start in folders if self.path.startswith(start)), "")
            if start and (file := folders[start] / self.path.removeprefix(start)).is_file():
                self._answer(file.read_bytes())
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_HEAD = do_GET  # noqa: N815 (the standard library looks for this name)

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", hashlib.sha256(body).hexdigest())
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
