"""Faults of the machine, on a real run: what they leave behind, what finds it, and what mends it."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from flows.listings import verify_all
from naruto_core.artifacts import Layout
from naruto_core.domain import RunState
from naruto_core.store.database import open_database
from tasks.rescore import rescore
from tests.faults.catalogue import KINDS, flip
from tests.flows.conftest import SMALL, flags
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


def test_a_signal_to_the_whole_process_group_ends_a_run_in_one_sentence_as_cancelled(
    programs: Preloaded, environment: dict[str, str], tmp_path: Path
) -> None:
    """As a terminal or a container's runtime sends it, to Prefect's server too; here between two steps of the run."""
    variables = environment | {"NARUTO_HOME": str(tmp_path / "home")}
    few = {"dataset.source": "world:naruto?count=4&seed=5", "dataset.hold_out": 0, "training.validation": "null"}
    run = programs.start("tests.faults.own_server", "run", *flags(SMALL | few), environment=variables)
    assert run.output
    last = ""
    for line in run.output:
        last = line.strip() or last
        if line.startswith("run "):
            os.killpg(run.pid, signal.SIGTERM)
    assert (run.wait(), last) == (128 + signal.SIGTERM, "naruto: stopped; the same command resumes it.")
    with open_database(f"sqlite:///{tmp_path / 'home' / 'naruto.db'}") as database:
        stopped = database.runs.runs()[0].run
    assert (stopped.state, "stopped by a signal" in stopped.failure) == (RunState.CANCELLED, True)


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


def test_rescore_mends_the_digest_of_scores_that_are_still_those_of_the_run(
    small_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shutil.copytree(small_run[0], tmp_path / "home")
    monkeypatch.setenv("NARUTO_HOME", str(home))
    flip(Layout(home).scores_digest(small_run[1]), 3)
    assert [row["what"] for row in verify_all().rows] == [f"scores of {small_run[1]} in the database"]
    assert rescore(small_run[1]) == f"{small_run[1]}: nothing moved"
    assert verify_all().rows == []
