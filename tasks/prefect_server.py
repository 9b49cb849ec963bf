"""Prefect's temporary server ends with the process that started it, also after `kill -9`, and not before it."""

import atexit
import importlib.util
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

_MODULE = "prefect.server.api.server"
_guarded: set[int] = set()
_lock = threading.Lock()
_WATCHED = 120  # seconds; Prefect starts its server at the beginning of a flow


def watch_for_server() -> None:
    """From now on, guard a temporary server as soon as Prefect starts it, which takes seconds until it answers.

    It also gets a session of its own: Ctrl-C in a terminal and signals to the process group are for the command alone,
    which needs the server until it has ended.
    """
    if _MODULE not in sys.modules and not any(isinstance(finder, _ServerFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ServerFinder())
    if "guard of Prefect's server" not in [thread.name for thread in threading.enumerate()]:
        threading.Thread(target=_watch, name="guard of Prefect's server", daemon=True).start()


class _ServerFinder:
    """Changes the module that starts the server when it is imported: Prefect has no option for its session."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, with our change at the end of its execution; None for all other modules."""
        del path, target
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(_execute, spec.loader.exec_module)
        return spec


def _execute(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    execute(module)
    apart = partial(subprocess.Popen, start_new_session=True)
    module.subprocess = SimpleNamespace(Popen=apart, TimeoutExpired=subprocess.TimeoutExpired)  # type: ignore[attr-defined]


def _watch() -> None:
    deadline = time.monotonic() + _WATCHED
    while not _guarded and time.monotonic() < deadline:
        end_server_with_this_process()
        time.sleep(0.05)


def end_server_with_this_process() -> None:
    """Start a guard for each temporary server of this process: a shell that stops the server when this process ends.

    Prefect itself stops the server only where Python's exit handlers run. Calling it again starts no second guard.
    """
    module = sys.modules.get(_MODULE)  # a process without a server has not imported it
    servers = getattr(module, "SubprocessASGIServer", None)  # None also while another thread imports the module
    if servers is None:
        return
    for server in list(servers._instances.values()):  # noqa: SLF001 (there is no other way)
        process = getattr(server, "server_process", None)
        with _lock:
            is_new = process is not None and process.pid not in _guarded
            if is_new:
                _guarded.add(process.pid)
        if is_new:
            _guard(process.pid)


def _guard(pid: int) -> None:
    # the shell reads until the other end of its pipe is closed, which the kernel does however this process ends
    guard = subprocess.Popen(  # noqa: S603 (the number of a process of ours)
        ["/bin/sh", "-c", 'read -r word || kill "$0"', str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is for this process alone
    )
    atexit.register(_dismiss, guard)


def _dismiss(guard: "subprocess.Popen[bytes]") -> None:
    """End a guard without a signal: Prefect stops its server next, and its number may be given to another process."""
    guard.communicate(b"\n")
