"""Faults of the machine against the real command on a small run: each tried, what saw it, and whether the run survived.

A fault is survived when the same command ends well afterwards, the adapter has the bytes of an undisturbed run, and
`naruto verify` has nothing to say; or, where nothing can be mended, when the command ends in one sentence that names
the remedy, and the remedy works. `python -m tests.benchmarks.bench_faults disk clock` tries those whose names begin so.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from flows.listings import verify_all
from naruto_core.artifacts import sha256_file
from tests.faults.catalogue import KINDS, FileKind, flip
from tests.flows.conftest import SMALL, flags

STAGES = ("train", "score")  # tests kill the others
SHARES = (0.2, 0.5)  # of the disk that the run needs
_COMMAND = [sys.executable, "-m", "flows"]
_RUN = ("run", *flags(SMALL))
_SECONDS = 900  # a command that takes longer hangs
_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t kind, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(kind, time);
    if (kind == CLOCK_REALTIME) time->tv_sec += atol(getenv("CLOCK_OFFSET"));
    return status;
}
"""


@dataclass(frozen=True)
class Outcome:
    """Whether a fault was noticed by `naruto verify` or in a sentence, and survived; `words` say what was seen."""

    found: bool
    survived: bool
    words: str = ""


@dataclass(frozen=True)
class Bench:
    """An undisturbed home, the sha256 of its adapter, and a folder for copies."""

    whole: Path
    adapter: str
    scratch: Path

    @contextmanager
    def copy(self) -> Iterator[Path]:
        """A copy of the undisturbed home, removed afterwards."""
        home = shutil.copytree(self.whole, self.scratch / "copy")
        try:
            yield home
        finally:
            shutil.rmtree(home, ignore_errors=True)

    @contextmanager
    def empty(self) -> Iterator[Path]:
        """An empty home, removed afterwards."""
        home = self.scratch / "empty"
        home.mkdir()
        try:
            yield home
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def is_whole(self, home: Path) -> bool:
        """Whether the run in `home` has the adapter of the undisturbed run, and `verify` has nothing to say."""
        adapters = [sha256_file(path) for path in home.glob("runs/*/adapter/*.safetensors")]
        return adapters == [self.adapter] and naruto(home, "verify").returncode == 0


def naruto(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; TimeoutExpired when it hangs."""
    environment = os.environ | {"NARUTO_HOME": str(home), "NARUTO_CHECKPOINT_SECONDS": "0.05"} | variables
    return subprocess.run(
        [*_COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS
    )


@contextmanager
def _one_server(home: Path) -> Iterator[None]:
    """One Prefect server for all commands: a temporary server for each would take a third of the time."""
    with temporary_settings({PREFECT_HOME: home}), prefect_test_harness(server_startup_timeout=240):
        os.environ["PREFECT_API_URL"] = PREFECT_API_URL.value()
        yield


def _sentence(ended: subprocess.CompletedProcess[str]) -> str:
    """The sentence that a failed command ended in; "" when it did not fail, or in a traceback."""
    last = ended.stderr.strip().rpartition("\n")[2]
    return last if ended.returncode == 1 and last.startswith("naruto: ") and "Traceback" not in ended.stderr else ""


def _is_seen(home: Path, kind: FileKind) -> bool:
    """Whether `verify` names a damaged file, in this process: a process for each would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARUTO_HOME", str(home))
        return any(kind.named in str(row["what"]) for row in verify_all().rows)


def flipped(bench: Bench, kind: FileKind) -> Outcome:
    """A bit of a file is flipped at each of its positions; `verify` names it, and the remedy mends it."""
    with bench.copy() as home:
        backup = bench.scratch / "backup"
        if kind.remedy == "restore" and not backup.exists():
            naruto(home, "backup", str(backup))
        path = kind.files(home)[0]
        whole, seen = path.read_bytes(), list[bool]()
        for at in kind.positions(path):
            path.write_bytes(whole)
            flip(path, at)
            seen.append(_is_seen(home, kind))
        match kind.remedy:
            case "run":
                ended = naruto(home, *_RUN)
            case "ingest":
                ended = naruto(home, "ingest", *flags({"dataset.hold_out": SMALL["dataset.hold_out"]}),
                               str(SMALL["dataset.source"]))  # fmt: skip
            case "rescore":
                ended = naruto(home, "rescore", next(home.glob("runs/*")).name)
            case "restore":
                for part in home.glob("naruto.db*"):
                    part.unlink()
                ended = naruto(home, "restore", str(backup))
            case _:
                path.unlink()
                ended = naruto(home, *_RUN)
        return Outcome(all(seen), bench.is_whole(home), ended.stderr.strip()[-200:])


def run_deleted_by_hand(bench: Bench) -> Outcome:
    with bench.copy() as home:
        shutil.rmtree(next(home.glob("runs/*")))
        found = naruto(home, "verify").returncode == 1
        naruto(home, *_RUN)
        return Outcome(found, bench.is_whole(home))


def killed(bench: Bench, stage: str) -> Outcome:
    """`kill -9` when a stage begins; then the same command."""
    with bench.empty() as home:
        environment = os.environ | {"NARUTO_HOME": str(home), "NARUTO_CHECKPOINT_SECONDS": "0.05"}
        with subprocess.Popen([*_COMMAND, *_RUN], env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            found = any(line.startswith(f"{stage} ") for line in process.stderr)
            process.send_signal(signal.SIGKILL)
        naruto(home, *_RUN)
        return Outcome(found, bench.is_whole(home))


def disk_full(bench: Bench, share: float) -> Outcome:
    """A disk of a share of what the run needs; then it grows, and the same command goes on."""
    size = sum(path.stat().st_size for path in bench.whole.rglob("*") if path.is_file())
    with bench.empty() as home:
        command = " ".join(f"'{part}'" for part in [*_COMMAND, *_RUN])
        verify = " ".join([*_COMMAND, "verify"])
        script = (
            f"mount -t tmpfs -o size={int(size * share)} tmpfs {home} && {{ {command} 2>{bench.scratch}/first; "
            f"echo status $?; mount -o remount,size={size * 4} {home}; {command} 2>{bench.scratch}/second; "
            f"echo status $?; sha256sum {home}/runs/*/adapter/*.safetensors; {verify} >&2; echo status $?; }}"
        )
        ended = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script], env=os.environ | {"NARUTO_HOME": str(home)},
            capture_output=True, text=True, check=False, timeout=2 * _SECONDS,
        )  # fmt: skip
        first = (bench.scratch / "first").read_text().strip().rpartition("\n")[2]
        statuses = [line for line in ended.stdout.splitlines() if line.startswith("status")]
        return Outcome(
            found=first.startswith("naruto: ") and "disk is full" in first,
            survived=statuses == ["status 1", "status 0", "status 0"] and bench.adapter in ended.stdout,
            words=first[-200:],
        )


def clock_moved(bench: Bench, days: int) -> Outcome:
    """Killed in training; the clock is moved; the same command goes on."""
    source, library = bench.scratch / "clock.c", bench.scratch / "clock.so"
    source.write_text(_CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    with bench.empty() as home:
        environment = os.environ | {"NARUTO_HOME": str(home), "NARUTO_CHECKPOINT_SECONDS": "0.05"}
        with subprocess.Popen([*_COMMAND, *_RUN], env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            for line in process.stderr:
                if line.startswith("train "):
                    break
            process.kill()
        ended = naruto(home, *_RUN, LD_PRELOAD=str(library), CLOCK_OFFSET=str(days * 86_400))
        return Outcome(ended.returncode == 0, bench.is_whole(home), ended.stderr.strip()[-200:])


def two_at_once(bench: Bench) -> Outcome:
    with bench.empty() as home:
        results: list[int] = []
        threads = [threading.Thread(target=lambda: results.append(naruto(home, *_RUN).returncode)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Outcome(found=len(list(home.glob("runs/*"))) == 1, survived=results == [0, 0] and bench.is_whole(home))


def locked(bench: Bench, seconds: float) -> Outcome:
    """Somebody else writes to the database for so long: patience, or one sentence, and never a hang."""
    with bench.copy() as home:
        other = sqlite3.connect(home / "naruto.db", check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(seconds, other.rollback).start()
        (run,) = (path.name for path in home.glob("runs/*"))
        began = time.monotonic()
        ended = naruto(home, "tag", run, "+seen")
        waited = time.monotonic() - began
        patient = ended.returncode == 0 and waited < seconds + 60
        time.sleep(max(0.0, seconds - waited))
        again = naruto(home, "tag", run, "+seen").returncode == 0
        return Outcome(patient or "another process" in _sentence(ended), again, _sentence(ended))


def unusable_database(bench: Bench, address: str) -> Outcome:
    with bench.empty() as home:
        words = _sentence(naruto(home, "runs", NARUTO_DATABASE=address))
        return Outcome(words != "", list(home.iterdir()) == [], words)


def read_only(bench: Bench) -> Outcome:
    """The home is on a read-only file system: what writes says so, and nothing is lost."""
    with bench.copy() as home:
        run = " ".join(f"'{part}'" for part in [*_COMMAND, *_RUN, "--set", "training.seed=9"])
        script = f"mount --bind {home} {home} && mount -o remount,bind,ro {home} && {run}"
        ended = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script], env=os.environ | {"NARUTO_HOME": str(home)},
            capture_output=True, text=True, check=False, timeout=_SECONDS,
        )  # fmt: skip
        return Outcome(_sentence(ended) != "", bench.is_whole(home), ended.stderr.strip()[-200:])


def faults() -> dict[str, Callable[[Bench], Outcome]]:
    """Every fault by its name."""
    tried: dict[str, Callable[[Bench], Outcome]] = {}
    tried |= {f"flip {kind.pattern}": lambda bench, kind=kind: flipped(bench, kind) for kind in KINDS}
    tried |= {f"killed in {stage}": lambda bench, stage=stage: killed(bench, stage) for stage in STAGES}
    tried |= {f"disk {share:.0%}": lambda bench, share=share: disk_full(bench, share) for share in SHARES}
    tried |= {f"clock {days} days": lambda bench, days=days: clock_moved(bench, days) for days in (-3, 4000)}
    tried |= {f"locked {seconds} s": lambda bench, seconds=seconds: locked(bench, seconds) for seconds in (5, 60)}
    addresses = ("sqlite://", "sqlite:///file:x?mode=memory&uri=true", "nonsense")
    tried |= {f"database {text}": lambda bench, text=text: unusable_database(bench, text) for text in addresses}
    return tried | {
        "run deleted by hand": run_deleted_by_hand, "two commands at once": two_at_once, "read-only": read_only
    }  # fmt: skip


def main() -> None:
    """Print each fault, then one line of JSON; the exit status is 1 when one was not found or not survived."""
    chosen = {
        name: fault for name, fault in faults().items() if name.startswith(tuple(sys.argv[1:])) or not sys.argv[1:]
    }
    results: dict[str, Outcome] = {}
    spent = sum(os.times()[:4])  # CPU of this process and of those that have ended
    with tempfile.TemporaryDirectory() as folder, _one_server(Path(folder) / "prefect"):
        whole = Path(folder) / "whole"
        made = naruto(whole, *_RUN)
        assert made.returncode == 0, made.stderr
        bench = Bench(whole, sha256_file(next(whole.glob("runs/*/adapter/*.safetensors"))), Path(folder))
        for name, fault in chosen.items():
            try:
                results[name] = fault(bench)
            except (subprocess.TimeoutExpired, OSError, AssertionError) as error:
                results[name] = Outcome(False, False, f"{type(error).__name__}: {error}"[:200])
            outcome, began = results[name], spent
            spent = sum(os.times()[:4])
            words = "" if outcome.found and outcome.survived else f"  {outcome.words!r}"
            print(
                f"{name:45} found {outcome.found}  survived {outcome.survived}  {spent - began:4.0f} s{words}",
                flush=True,
            )
    missed = {name: o.words for name, o in results.items() if not (o.found and o.survived)}
    print(
        json.dumps(
            {"bench": "faults", "tried": len(results), "found": sum(o.found for o in results.values()),
             "survived": sum(o.survived for o in results.values()), "missed": sorted(missed),
             "cpu_seconds": round(spent)}
        )
    )  # fmt: skip
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
