"""The device lock: one process at a time on a device, also when a process is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from naruto_core.devices import hold_device

HOLDER = """
import sys, time
from pathlib import Path
from naruto_core.devices import hold_device
with hold_device(Path(sys.argv[1]), "cuda:0", "train some-run", print):
    print("held", flush=True)
    time.sleep(60)
"""


def _holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
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
    first.wait()


def test_two_devices_do_not_wait_for_each_other(tmp_path: Path):
    first = _holder(tmp_path)
    with hold_device(tmp_path, "cuda:1", "score", lambda holder: (_ for _ in ()).throw(AssertionError(holder))):
        pass
    first.kill()
    first.wait()


def test_one_process_may_hold_its_device_twice(tmp_path: Path):
    with hold_device(tmp_path, "cpu", "train", print), hold_device(tmp_path, "cpu", "encode", print):
        pass
