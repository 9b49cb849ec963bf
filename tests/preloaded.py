"""Processes of their own without the seconds that imports take.

When the tests' modules are imported, pytest's process forks one that waits (`fork_parent`). From that, processes are
forked which import what is still missing, and they fork for every program that a test starts. Each program has its own
memory, environment and process group; it is killed like any other.
"""

import atexit
import gc
import json
import logging
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn, TextIO

_parent: list[socket.socket] = []  # the socket of the process that `fork_parent` made


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
        _send(self._control, [write], module=module, arguments=arguments, environment=dict(environment))
        os.close(write)
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
    if not _parent:
        fork_parent()
    ours, theirs = socket.socketpair()
    with ours:  # the process ends when `ours` is closed
        with theirs:
            _send(_parent[0], [theirs.fileno(), 2], modules=modules, environment=dict(environment))
        yield Preloaded(ours)


def fork_parent() -> None:
    """Fork the process that those of `preloaded` are forked from: while this one has no other thread of Python's."""
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        _parent.append(ours)
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for name in [
        path.name for path in Path("/dev/fd").iterdir()
    ]:  # pipes of pytest's: whoever reads them waits until all copies are closed
        if int(name) not in (theirs.fileno(), nothing):
            os.dup2(nothing, int(name))  # not closed, else an object of pytest's might close what has the number later
    _forget_finalizers()
    logging.getLogger().handlers.clear()  # pytest's, because of which programs would not set up their own
    _at_end(_serve, theirs)


def _serve(control: socket.socket) -> None:
    """Fork for each set of modules; the forked process imports them, and returns when it has run its program."""
    order, files = _next_order(control, lambda pid, status: None)
    control.close()
    _become(order["environment"], files[1])
    if "prefect.context" in sys.modules:  # it has read its settings when it was imported
        from prefect.context import refresh_global_settings_context
        from prefect.logging.configuration import setup_logging

        refresh_global_settings_context()
        setup_logging()
    gc.disable()
    for name in order["modules"]:
        import_module(name)
    gc.freeze()  # what has been loaded stays: no program shall look through it, which would also copy its memory
    gc.enable()
    programs = socket.socket(fileno=files[0])

    def report(pid: int, status: int | None) -> None:
        with suppress(BrokenPipeError):  # nobody asks any more
            programs.sendall(json.dumps([pid, status]).encode() + b"\n")

    order, files = _next_order(programs, report)
    programs.close()
    os.setsid()
    _become(order["environment"], files[0])
    sys.argv[1:] = order["arguments"]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


def _next_order(control: socket.socket, report: Any) -> tuple[dict[str, Any], list[int]]:
    """Fork for each order, and return it with its files in the forked process. Leaves when the other side has gone."""
    children = 0
    while True:
        if select.select([control], [], [], 0.05 if children else None)[0]:
            size, files = b"", list[int]()
            with suppress(ConnectionResetError):  # the other side was killed
                size, files, _, _ = socket.recv_fds(control, 4, 2)
            if not size:
                os._exit(0)
            order = json.loads(_exactly(control, int.from_bytes(size)))
            pid = os.fork()
            if not pid:
                _forget_finalizers()
                return order, files
            for file in files:
                os.close(file)
            children += 1
            report(pid, None)
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            children -= 1
            report(pid, os.waitstatus_to_exitcode(status))


def _forget_finalizers() -> None:
    """What the parent process cleans up when it ends, such as its temporary folders, stays when this process ends."""
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.detach()


def _become(environment: Mapping[str, str], output: int) -> None:
    """Write to the file `output`, and forget what environment and streams this process had."""
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115 (open as long as the process)
    sys.__stdout__ = sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stderr__ = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)


def _at_end(act: Any, control: socket.socket) -> NoReturn:
    """End this process as Python ends: pytest's functions, in which it was forked, must not go on."""
    status = 1
    try:
        act(control)
        status = 0
    except SystemExit as left:
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 (as Python itself does)
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _send(control: socket.socket, files: Sequence[int], **order: object) -> None:
    data = json.dumps(order).encode()
    socket.send_fds(control, [len(data).to_bytes(4)], files)
    control.sendall(data)


def _exactly(control: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += control.recv(size - len(data))
    return data
