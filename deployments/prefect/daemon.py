"""A program kept in the background: started, found again by a later command, stopped.

It holds an OS lock on its pid file while it lives, and the kernel lets go of the lock however it
dies. So neither a pid file left over from a crash nor a recycled process id looks like a running program.
"""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from naruto_core.artifacts import storage_errors
from naruto_core.errors import ServiceFailed


@dataclass(frozen=True, slots=True)
class Daemon:
    """The background program called `name`, whose pid file and log lie below `folder`."""

    name: str
    folder: Path

    @property
    def pid_file(self) -> Path:
        return self.folder / f"{self.name}.pid"

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.name}.log"

    def pid(self) -> int | None:
        """Its process id while it runs, else None."""
        with suppress(FileNotFoundError), self.pid_file.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
        return None

    def start(self, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        """Run `command` in `directory`, apart from this terminal; its output is added to the log."""
        with storage_errors(self.folder):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.pid_file.open("w") as held, self.log.open("ab") as log:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                process = subprocess.Popen(  # noqa: S603 (the command is a list that our own code wrote)
                    command,
                    env=dict(environment),
                    cwd=directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[held.fileno()],  # the lock outlives this process in the child
                    start_new_session=True,  # Ctrl-C here is not meant for it
                )
                held.write(str(process.pid))

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return once `ready()`; ServiceFailed when the program ends first or `seconds` have passed."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.pid() is None:
                raise ServiceFailed(f"the Prefect {self.name} stopped while starting: {self.last_words()}")
            if time.monotonic() > deadline:
                raise ServiceFailed(
                    f"the Prefect {self.name} was not ready after {seconds:.0f} s; its log is {self.log}."
                )
            time.sleep(0.2)

    def last_words(self) -> str:
        """The last line of its log, and where the rest is."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{lines[-1] if lines else 'it said nothing'} (log: {self.log})"

    def stop(self, seconds: float = 20.0) -> int | None:
        """Ask it to end, after `seconds` force it; returns the process id it had, None if it did not run."""
        pid = self.pid()
        if pid is None:
            return None
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while self.pid() is not None and time.monotonic() < deadline:
            time.sleep(0.1)
        if self.pid() == pid:
            os.killpg(pid, signal.SIGKILL)
        self.pid_file.unlink(missing_ok=True)
        return pid


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock file `path` during the block; a second process waits for the first."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
