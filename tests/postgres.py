"""A PostgreSQL server of its own: Debian's, or the one that is on the PATH."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "naruto"


def _programs() -> Path:
    """The folder of initdb and postgres; skips the test where there is none."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = shutil.which("initdb")
    if not found and not installed:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    return Path(found).resolve().parent if found else installed[-1].parent


class PostgresServer:
    """A server with an empty database at the SQLAlchemy URL `url`, on a port of 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        programs, data = _programs(), str(folder / "data")
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # the server refuses root
            shutil.chown(folder, "postgres")
            self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        initialize = [str(programs / "initdb"), "-D", data, "-A", "trust", "-U", USER, "--no-sync", "--no-instructions"]
        subprocess.run([*self._as_user, *initialize], check=True, capture_output=True, cwd="/", timeout=120)
        self._serve = [str(programs / "postgres"), "-D", data, "-h", "127.0.0.1", "-p", port, "-k", str(folder), "-F"]
        self._address, self._log = f"postgresql://{USER}@127.0.0.1:{port}/postgres", folder / "log"
        self.url = self._address.replace("postgresql:", "postgresql+psycopg:")

    def start(self) -> None:
        """Returns when it answers."""
        psycopg = pytest.importorskip("psycopg", reason="the extra postgres is not installed")
        with self._log.open("a") as log:
            self._process = subprocess.Popen([*self._as_user, *self._serve], stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self._address, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        """Closes the connections of clients."""
        self._process.send_signal(signal.SIGINT)  # SIGTERM waits for them
        self._process.wait(30)


@contextmanager
def postgres_server() -> Generator[PostgresServer]:
    """A server that is running when the block begins, and is stopped after it."""
    pytest.importorskip("psycopg", reason="the extra postgres is not installed")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = PostgresServer(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@contextmanager
def serving_postgres() -> Generator[str]:
    """The SQLAlchemy URL of an empty database, for as long as the block lasts."""
    with postgres_server() as server:
        yield server.url
