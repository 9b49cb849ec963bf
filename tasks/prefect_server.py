"""Prefect's temporary server ends with the process that started it, also after `kill -9`."""

import atexit
import subprocess
import sys

_guarded: set[int] = set()


def end_server_with_this_process() -> None:
    """Start a guard for each temporary server of this process: a shell that stops the server when this process ends.

    Prefect itself stops the server only where Python's exit handlers run. Calling it again starts no second guard.
    """
    module = sys.modules.get("prefect.server.api.server")  # a process without a server has not imported it
    servers = module.SubprocessASGIServer._instances.values() if module else ()  # noqa: SLF001 (there is no other way)
    for process in [server.server_process for server in servers]:
        if process is not None and process.pid not in _guarded:
            _guarded.add(process.pid)
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
