"""One heavy job at a time on one device, by an operating-system lock.

`flock` belongs to the process: the kernel frees it however the process ends, `kill -9` included,
which no lease in a server can promise. It also covers programs that run without Prefect.
"""

import fcntl
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from naruto_core.artifacts import storage_errors

_held: set[Path] = set()


@contextmanager
def hold_device(folder: Path, device: str, purpose: str, on_wait: Callable[[str], None]) -> Generator[None]:
    """Hold the lock of `device` ("cpu", "cuda:0") for the length of the block.

    While another process has it, `on_wait` is told once by whom ("train 2026-11-23-mini-3f9c,
    process 4711"). Nested blocks of one process share the lock.
    """
    path = folder / f"{device.replace(':', '-')}.lock"
    if path in _held:
        yield
        return
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(handle, path, on_wait)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{purpose}, process {os.getpid()}".encode(), 0)
        _held.add(path)
        yield
    finally:
        _held.discard(path)
        os.close(handle)


def _acquire(handle: int, path: Path, on_wait: Callable[[str], None]) -> None:
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                on_wait(path.read_text(errors="replace") or "another process")
                told = True
            time.sleep(0.2)
        else:
            return
