"""Processes of their own without the seconds that imports take.

One process imports the libraries and then forks for every program that a test starts. Each program has its own memory,
environment and process group; it is killed like any other.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import IO, Any, TextIO


@dataclass
class Program:
    """A program that was started; it leads its own process group."""

    pid: int
    output: TextIO | None  # what it writes, unless that goes to a file
    _parent: "Preloaded"
    returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, -SIGNAL for one that was killed, or None while it runs."""
        self._parent.read_reports(0)
        return self.returncode

    def wait(self, seconds: float = 240) -> int:
        """The exit status; TimeoutExpired after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), seconds)
            self._parent.read_reports(0.5)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """Kill its process group, unless it has ended."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)


@dataclass
class Preloaded:
    """The process that has the libraries loaded."""

    _control: socket.socket
    _running: dict[int, Program] = field(default_factory=dict[int, Program])
    _newest: Program | None = None
    _unread: bytes = b""

    def start(
        self, module: str, *arguments: str, environment: Mapping[str, str], output: IO[Any] | None = None
    ) -> Program:
        """`python -m module arguments`; what it writes, errors too, goes to `output` or is read from the program's."""
        read, write = (None, os.dup(output.fileno())) if output else os.pipe()
        order = json.dumps({"module": module, "arguments": arguments, "environment": dict(environment)}).encode()
        socket.send_fds(self._control, [len(order).to_bytes(4)], [write])
        os.close(write)
        self._control.sendall(order)
        self._newest = None
        while self._newest is None:
            self.read_reports(60)
        if read is not None:
            self._newest.output = os.fdopen(read)
        return self._newest

    def read_reports(self, seconds: float) -> None:
        """Read what is reported within `seconds`: ids of programs that started, statuses of those that ended."""
        if not select.select([self._control], [], [], seconds)[0]:
            return
        data = self._control.recv(4096)
        assert data, "the process that starts programs has ended"
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            pid, status = json.loads(line)
            if status is None:
                self._newest = self._running[pid] = Program(pid, None, self)
            else:
                self._running.pop(pid).returncode = status


@contextmanager
def preloaded(modules: Sequence[str], environment: Mapping[str, str]) -> Iterator[Preloaded]:
    """Import `modules` in a process with this environment, which starts programs until the block ends."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "tests.preloaded", str(theirs.fileno()), *modules]
    with (
        subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]),
        ours,
    ):  # it ends when `ours` is closed
        theirs.close()
        yield Preloaded(ours)


def _order(control: socket.socket) -> dict[str, object]:
    """Fork for each order; return it in the forked process. The parent leaves when the other side has gone."""
    children = 0
    while True:
        if select.select([control], [], [], 0.05 if children else None)[0]:
            size, files, _, _ = socket.recv_fds(control, 4, 1)
            if not size:
                sys.exit()
            order = json.loads(_exactly(control, int.from_bytes(size)))
            pid = os.fork()
            if not pid:
                os.setsid()
                os.dup2(files[0], 1)
                os.dup2(files[0], 2)
            os.close(files[0])
            if not pid:
                control.close()
                return order
            children += 1
            control.sendall(json.dumps([pid, None]).encode() + b"\n")
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            children -= 1
            control.sendall(json.dumps([pid, os.waitstatus_to_exitcode(status)]).encode() + b"\n")


def _exactly(control: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += control.recv(size - len(data))
    return data


def _main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    gc.disable()
    for name in sys.argv[2:]:
        import_module(name)
    gc.freeze()  # what has been loaded stays: no program shall look through it, which would also copy its memory
    gc.enable()
    atexit.register(gc.unfreeze)  # some libraries complain of what is left at the end
    order = _order(control)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv[1:] = order["arguments"]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
