"""Faults of the machine, on a real run: what they leave behind, what finds it, and what mends it."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from flows.listings import verify_all
from tests.faults.catalogue import KINDS, flip
from tests.preloaded import Preloaded


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def _command(pid: int) -> str:
    """The command line of a process; "" when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="this system does not tell what a process is")
def test_a_killed_run_leaves_no_server_even_while_that_starts(
    programs: Preloaded, environment: dict[str, str], tmp_path: Path
) -> None:
    """The real command, with `kill -9` as soon as Prefect has started its server."""
    variables = environment | {"NARUTO_HOME": str(tmp_path / "home")}
    with Path(os.devnull).open("wb") as nowhere:
        run = programs.start("tests.faults.own_server", "run", environment=variables, output=nowhere)
    deadline, servers = time.monotonic() + 120, list[int]()
    while not servers and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
        servers = [pid for pid in _children(run.pid) if "prefect.server" in _command(pid)]
    assert servers
    time.sleep(0.5)  # the guard looks every 0.05 s
    os.kill(run.pid, 9)  # not its group, as a closed terminal would
    while any(map(_command, servers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_command, servers))


def test_one_flipped_bit_is_found_in_every_kind_of_file_that_a_run_leaves(
    small_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shutil.copytree(small_run[0], tmp_path / "home")
    monkeypatch.setenv("NARUTO_HOME", str(home))
    assert verify_all().rows == []
    unseen: list[str] = []
    for kind in KINDS:  # `make bench-faults` tries more positions, and mends each
        path = kind.files(home)[0]
        at, whole = kind.positions(path)[-1], path.read_bytes()
        flip(path, at)
        if not any(kind.named in str(row["what"]) for row in verify_all().rows):
            unseen.append(kind.pattern)
        path.write_bytes(whole)
    assert unseen == []
    assert verify_all().rows == []
