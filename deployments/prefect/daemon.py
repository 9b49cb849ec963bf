"""A background process: start it, find it again from a later command, stop it.

The process holds an OS lock on its pid file while it lives, and the kernel releases the lock however the process ends.
A pid file that is left over from a crash or a reboot is therefore never mistaken for a running process, even if another
process has that id now. (`prefect server stop` trusts the number in its file.)
"""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from naruto_core.artifacts import storage_errors
from naruto_core.errors import ServiceFailed


@dataclass(frozen=True, slots=True)
class Daemon:
    """The background process called `name`; its pid file and its log are below `folder`."""

    name: str
    folder: Path

    @property
    def pid_file(self) -> Path:
        return self.folder / f"{self.name}.pid"

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.name}.log"

    def pid(self) -> int | None:
        """The process id while the process runs, else None."""
        with suppress(FileNotFoundError), self.pid_file.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
        return None

    def start(self, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        """Run `command` in `directory`, detached from this terminal; append its output to the log.

        Raises StorageFailed if the pid file or the log cannot be written.
        """
        with storage_errors(self.folder):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.pid_file.open("w") as pid_file, self.log.open("ab") as log:
                fcntl.flock(pid_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                process = subprocess.Popen(  # noqa: S603 (the command is a list that our own code wrote)
                    command,
                    env=dict(environment),
                    cwd=directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[pid_file.fileno()],  # the child keeps the lock after this process has ended
                    start_new_session=True,  # Ctrl-C in this terminal does not reach it
                )
                pid_file.write(str(process.pid))

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return when `ready()` is true; ServiceFailed if the process ends first or after `seconds`."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.pid() is None:
                raise ServiceFailed(f"the Prefect {self.name} stopped while starting: {self.last_log_line()}")
            if time.monotonic() > deadline:
                raise ServiceFailed(f"the Prefect {self.name} was not ready after {seconds:.0f} s; log: {self.log}")
            time.sleep(0.2)

    def last_log_line(self) -> str:
        """The last line of the log, and the path of the log."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{lines[-1] if lines else 'no output'} (log: {self.log})"

    def stop(self, seconds: float = 20.0) -> int | None:
        """Send SIGTERM, and SIGKILL after `seconds`; return the process id, or None if no process ran."""
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
