"""The device lock: one process at a time on a device, also when a process is killed."""

import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from naruto_core.devices import hold_device

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def _hold(folder: Path, ready: "Connection") -> None:
    with hold_device(folder, "cuda:0", "train some-run", print):
        ready.send("held")
        time.sleep(60)


def _holder(folder: Path) -> BaseProcess:
    """A process that holds the device; forked, because to import torch takes two seconds."""
    context = multiprocessing.get_context("fork")
    ready, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_hold, args=(folder, theirs))
    process.start()
    assert ready.recv() == "held"
    return process


def test_a_second_process_waits_and_gets_the_holders_name_until_the_first_is_killed(tmp_path: Path):
    first = _holder(tmp_path)
    holders: list[str] = []

    def waiting(holder: str) -> None:
        holders.append(holder)
        os.kill(first.pid, signal.SIGKILL)  # the kernel must free the lock

    began = time.monotonic()
    with hold_device(tmp_path, "cuda:0", "score other-run", waiting):
        assert time.monotonic() - began < 10
    assert holders == [f"train some-run, process {first.pid}"]
    first.join()


def test_two_devices_do_not_wait_for_each_other(tmp_path: Path):
    first = _holder(tmp_path)
    with hold_device(tmp_path, "cuda:1", "score", lambda holder: (_ for _ in ()).throw(AssertionError(holder))):
        pass
    first.kill()
    first.join()


def test_one_process_may_hold_its_device_twice(tmp_path: Path):
    with hold_device(tmp_path, "cpu", "train", print), hold_device(tmp_path, "cpu", "encode", print):
        pass
