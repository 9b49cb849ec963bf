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


@contextmanager
def serving_postgres() -> Generator[str]:
    """The SQLAlchemy URL of an empty database, for as long as the block lasts."""
    psycopg = pytest.importorskip("psycopg", reason="the extra postgres is not installed")
    programs, folder = _programs(), Path(tempfile.mkdtemp(prefix="postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses root
        shutil.chown(folder, "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    initialize = [str(programs / "initdb"), "-D", data, "-A", "trust", "-U", USER, "--no-sync", "--no-instructions"]
    serve = [str(programs / "postgres"), "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-F"]
    address = f"postgresql://{USER}@127.0.0.1:{port}/postgres"
    try:
        subprocess.run([*as_user, *initialize], check=True, capture_output=True, cwd="/", timeout=120)
        with (folder / "log").open("w") as log:
            server = subprocess.Popen([*as_user, *serve], stdout=log, stderr=log, cwd="/")
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    psycopg.connect(address, connect_timeout=5).close()
                    break
                except psycopg.OperationalError:
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.05)
            yield address.replace("postgresql:", "postgresql+psycopg:")
        finally:
            server.send_signal(signal.SIGINT)  # closes the connections of clients; SIGTERM waits for them
            server.wait(30)
    finally:
        shutil.rmtree(folder)
