"""A background process is found while it lives, and only then."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.prefect.daemon import Daemon
from naruto_core.errors import ServiceFailed, StorageFailed

SLEEPS = "import time; print('awake', flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('awake', flush=True); time.sleep(60)"
)


def start(daemon: Daemon, source: str) -> int:
    daemon.start([sys.executable, "-c", source], os.environ, daemon.folder.parent)
    daemon.wait_until(lambda: "awake" in daemon.log.read_text(), 20)
    pid = daemon.pid()
    assert pid is not None
    return pid


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon("sleeper", tmp_path / "var")
    yield daemon
    daemon.stop(seconds=0)


def test_a_started_process_is_found_by_another_command_and_stopped(daemon: Daemon) -> None:
    assert daemon.pid() is None
    pid = start(daemon, SLEEPS)
    assert Daemon("sleeper", daemon.folder).pid() == pid
    assert daemon.stop() == pid
    assert daemon.pid() is None
    assert daemon.stop() is None


def test_a_killed_process_is_not_found_any_more(daemon: Daemon) -> None:
    os.kill(start(daemon, SLEEPS), signal.SIGKILL)
    deadline = time.monotonic() + 120
    while daemon.pid() is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert daemon.pid_file.exists()
    assert daemon.pid() is None


def test_the_pid_of_another_process_in_a_pid_file_is_ignored(daemon: Daemon) -> None:
    daemon.folder.mkdir()
    daemon.pid_file.write_text(str(os.getpid()))
    assert daemon.pid() is None
    assert daemon.stop() is None


def test_a_process_that_ignores_sigterm_is_killed(daemon: Daemon) -> None:
    pid = start(daemon, STUBBORN)
    assert daemon.stop(seconds=0.3) == pid
    deadline = time.monotonic() + 120
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_that_dies_while_starting_is_reported_with_its_last_line(daemon: Daemon) -> None:
    daemon.start(
        [sys.executable, "-c", "print('one'); raise SystemExit('no room left')"], os.environ, daemon.folder.parent
    )
    with pytest.raises(ServiceFailed, match="sleeper stopped while starting: no room left"):
        daemon.wait_until(lambda: False, 20)


def test_a_process_that_is_never_ready_is_an_error(daemon: Daemon) -> None:
    start(daemon, SLEEPS)
    with pytest.raises(ServiceFailed, match="not ready after 0 s; log: "):
        daemon.wait_until(lambda: False, 0)


def test_a_folder_that_cannot_be_created_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match=r"cannot write .*file"):
        Daemon("sleeper", tmp_path / "file").start(["true"], os.environ, tmp_path)
