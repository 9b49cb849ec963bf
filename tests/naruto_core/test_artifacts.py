"""Files and folders that several processes write at once, or that a killed process left."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from naruto_core import artifacts
from naruto_core.artifacts import atomic_folder, exclusive_lock, write_atomically
from naruto_core.errors import StorageFailed

HOLD = """
import sys
from pathlib import Path
from naruto_core.artifacts import atomic_folder, exclusive_lock
with atomic_folder(Path(sys.argv[1])) as scratch:
    (scratch / "first").write_text("first")
    print("writing", flush=True)
    sys.stdin.readline()
    (scratch / "second").write_text("second")
"""


def writer(folder: Path) -> subprocess.Popen[str]:
    """A process that is writing `folder`, and waits."""
    pipe = subprocess.PIPE
    started = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=pipe, stdout=pipe, text=True)
    assert started.stdout
    assert started.stdout.readline() == "writing\n"
    return started


def make_old(folder: Path) -> None:
    for path in folder.parent.glob(f".{folder.name}.*"):
        os.utime(path, (time.time() - 3600,) * 2)


def test_a_folder_that_another_process_writes_is_not_taken_from_it(tmp_path: Path) -> None:
    other = writer(tmp_path / "fused")
    make_old(tmp_path / "fused")
    with atomic_folder(tmp_path / "fused") as scratch:
        (scratch / "ours").write_text("ours")
    other.communicate("go on\n", timeout=30)
    assert other.returncode == 0
    assert {path.name for path in (tmp_path / "fused").iterdir()} == {"first", "second"}
    assert [path.name for path in tmp_path.iterdir()] == ["fused"]


def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    other = writer(tmp_path / "fused")
    other.kill()
    other.communicate(timeout=30)
    make_old(tmp_path / "fused")
    with atomic_folder(tmp_path / "fused") as scratch:
        (scratch / "ours").write_text("ours")
    assert [path.name for path in tmp_path.iterdir()] == ["fused"]


KILLED = """
import os, sys
from pathlib import Path
from naruto_core.artifacts import atomic_file
with atomic_file(Path(sys.argv[1])) as scratch:
    scratch.write_text("half of it")
    os.kill(os.getpid(), 9)
"""


def test_the_scratch_files_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a" / "weights.bin")], check=False)
    (left,) = (tmp_path / "a").iterdir()
    mine = artifacts.scratch_path(tmp_path / "b.png")
    mine.touch()
    earlier = tmp_path / f".c.{artifacts.host_id()}-0123456789ab.png"  # of an earlier version, without a process
    earlier.touch()
    (tmp_path / ".gitignore").touch()
    assert artifacts.remove_abandoned(tmp_path) == []  # it may be on its way to its name
    for path in (left, mine, earlier):
        os.utime(path, (time.time() - 120,) * 2)
    assert artifacts.remove_abandoned(tmp_path) == [left]
    assert mine.exists()
    assert earlier.exists()
    os.utime(earlier, (time.time() - 30 * 3600,) * 2)
    assert artifacts.remove_abandoned(tmp_path) == [earlier]


def test_the_scratch_folder_of_another_machine_on_the_same_volume_is_left_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock cannot be seen here: a lock that is free says nothing. Its folder's own time stands still for hours."""
    with monkeypatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "another")
        scratch = tmp_path / f".fused.{artifacts._scratch_token()}"
    scratch.mkdir()
    (scratch / "unet").mkdir()
    written = scratch / "unet" / "weights"
    written.write_text("half of it")
    for path in (scratch, scratch / "unet"):
        os.utime(path, (time.time() - 30 * 3600,) * 2)
    with atomic_folder(tmp_path / "fused"):
        pass
    assert written.read_text() == "half of it"
    os.utime(written, (time.time() - 30 * 3600,) * 2)
    with atomic_folder(tmp_path / "fused"):
        pass
    assert not scratch.exists()


def test_a_folder_that_cannot_be_filled_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "fused").mkdir()
    (tmp_path / "fused" / "old").touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "fused"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["fused", "old"]


ADD_KEY = """
import sys
from pathlib import Path
from deployments.service.keys import Keys
print("ready", flush=True)
sys.stdin.readline()
for turn in range(10):
    Keys(Path(sys.argv[1])).add(f"{sys.argv[2]}-{turn}")
"""


def test_a_place_that_cannot_be_written_is_a_sentence_whose_remedy_fits_exports_too(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path, reason in {"folder": "a folder is where a file is", "file/x": "a file is where a folder is"}.items():
        with pytest.raises(StorageFailed, match=f"{reason} needed; use another folder"):
            write_atomically(tmp_path / path, b"x")


def test_keys_that_are_added_at_the_same_time_are_all_stored(tmp_path: Path) -> None:
    from deployments.service.keys import Keys

    path, pipe = tmp_path / "keys.json", subprocess.PIPE
    command = [sys.executable, "-c", ADD_KEY, str(path)]
    processes = [subprocess.Popen([*command, f"k{i}"], stdin=pipe, stdout=pipe, text=True) for i in range(4)]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert len(Keys(path).names()) == 40
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    code = "import sys, pathlib; from naruto_core.artifacts import exclusive_lock\n"
    code += "with exclusive_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.readline()"
    pipe = subprocess.PIPE
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdin=pipe, stdout=pipe, text=True)
    assert other.stdout
    assert other.stdout.readline() == "held\n"
    other.kill()
    other.communicate(timeout=30)
    with exclusive_lock(tmp_path / "lock"):
        pass
