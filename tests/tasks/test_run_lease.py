"""The steps of a run: one process at a time, stopped at a safe point, and what the record says afterwards."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from prefect.exceptions import TerminationSignal

from flows.profiles import choose_recipe, choose_suite
from naruto_core.artifacts import Layout
from naruto_core.domain import DatasetVersion, Progress, Run, RunState
from naruto_core.errors import RunStopped
from naruto_core.settings import read_settings
from naruto_core.store.database import open_database, open_store
from naruto_core.store.leases import LEASE_SECONDS, LeaseOwner
from naruto_core.store.writes import Store
from tasks import run_lease
from tasks.context import OpenRun, run_context
from tasks.progress import reporter
from tasks.run_lease import hold_run, release_run

ELSEWHERE = LeaseOwner("0123abcd:7:99", "pod-b", 7)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path))
    monkeypatch.setattr(run_lease, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(run_lease, "_WAIT_SECONDS", 0.02)
    with open_store(read_settings().database_url) as opened:
        yield opened


@pytest.fixture
def opened(store: Store) -> OpenRun:
    recipe, version = choose_recipe("mini"), DatasetVersion("d" * 64, "world:ninja", "datasets/world", 3, 80, 20, 2, 1)
    store.add_dataset(version, [])
    run = store.open_run(
        profile="mini", recipe_json=recipe.model_dump_json(), fingerprint="f" * 64, dataset_id=version.id,
        git_commit="", now=datetime.now(UTC),
    )  # fmt: skip
    return OpenRun(run, recipe, choose_suite(recipe.generation), (version,))


def recorded(store: Store, opened: OpenRun) -> Run:
    return store.run(opened.id)


@pytest.mark.parametrize(
    ("error", "state", "sentence"),
    [
        (ValueError("the disk is full."), RunState.FAILED, "train: the disk is full."),
        (KeyboardInterrupt(), RunState.CANCELLED, "train: stopped by a signal; the same command resumes it."),
        (TerminationSignal(signal=15), RunState.CANCELLED, "train: stopped by a signal; the same command resumes it."),
    ],
)
def test_a_cancelled_run_is_cancelled_a_failed_one_failed_and_a_step_tried_again_makes_it_run(
    store: Store, opened: OpenRun, error: BaseException, state: RunState, sentence: str
) -> None:
    def step() -> None:
        with run_context(opened, "train", needs_device=False):
            assert store.live_lease(opened.id, datetime.now(UTC)) is not None
            raise error

    with pytest.raises(type(error)):
        step()
    assert (recorded(store, opened).state, recorded(store, opened).failure) == (state, sentence)
    assert store.live_lease(opened.id, datetime.now(UTC)) is None
    with run_context(opened, "train", needs_device=False):
        assert recorded(store, opened).state is RunState.RUNNING
    assert store.live_lease(opened.id, datetime.now(UTC)) is not None  # kept for the next step
    release_run(store, read_settings(), opened.id)


def test_a_request_to_stop_ends_a_step_at_its_next_report(store: Store, opened: OpenRun) -> None:
    def step() -> None:
        with run_context(opened, "generate", needs_device=False):
            store.request_stop(opened.id, "lea", datetime.now(UTC))
            report, deadline = reporter(), time.monotonic() + 120
            while time.monotonic() < deadline:
                report(Progress("generate", 1, 2, "picture", 0.1, 0.1))
                time.sleep(0.01)

    with pytest.raises(RunStopped, match=f"run {opened.id} stopped: lea asked it to stop; the same command resumes"):
        step()
    assert (recorded(store, opened).state, "lea asked" in recorded(store, opened).failure) == ("cancelled", True)


def test_a_second_process_waits_for_the_first_and_says_for_whom(store: Store, opened: OpenRun) -> None:
    theirs = store.acquire_lease(opened.id, ELSEWHERE, 8, datetime.now(UTC))
    said: list[str] = []

    def waiting(sentence: str) -> None:
        said.append(sentence)
        threading.Timer(0.1, store.release_lease, (theirs.id, datetime.now(UTC))).start()

    settings = read_settings()
    assert hold_run(store, settings, opened.id, waiting)
    assert not hold_run(store, settings, opened.id, waiting)
    assert said == [f"waiting: process 7 on pod-b works on run {opened.id}; `naruto stop {opened.id}` asks it to stop"]
    assert "began with 8 CPU threads" in run_lease.cpu_change(store, opened.id)
    release_run(store, settings, opened.id)


def test_a_run_that_goes_on_with_other_vector_instructions_says_so(
    store: Store, opened: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cpu in ("", "AVX512 with bf16"):  # a lease of an earlier version names none
        theirs = store.acquire_lease(opened.id, ELSEWHERE, torch.get_num_threads(), datetime.now(UTC), cpu)
        store.release_lease(theirs.id, datetime.now(UTC))
        monkeypatch.setattr("naruto_core.devices.describe_cpu", lambda: "AVX2")
        warning = run_lease.cpu_change(store, opened.id)
        assert ("began on a CPU with AVX512 with bf16 and now has a CPU with AVX2" in warning) is bool(cpu)
    monkeypatch.setattr("naruto_core.devices.describe_cpu", lambda: "AVX512 with bf16")
    assert run_lease.cpu_change(store, opened.id) == ""


def test_a_process_whose_run_was_taken_over_stops(store: Store, opened: OpenRun) -> None:
    """It was asleep for longer than a lease: another machine works on the run by now."""
    settings = read_settings()
    hold_run(store, settings, opened.id, print)
    store.release_lease(store.leases(opened.id)[-1].id, datetime.now(UTC))
    deadline = time.monotonic() + 120
    while not run_lease.stop_requested() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(RunStopped, match="another process took it over"):
        run_lease.check_stop()
    release_run(store, settings, opened.id)


def _take_over(store: Store, run_id: str, now: datetime) -> None:
    store.acquire_lease(run_id, ELSEWHERE, 8, now)


def _delete(store: Store, run_id: str, now: datetime) -> None:
    settings = read_settings()
    with open_database(settings.database_url) as database:
        database.deletion.delete_run(run_id, now, Layout(settings.root))


@pytest.mark.parametrize(
    ("meanwhile", "sentence", "state"),
    [
        (_take_over, "another process took it over", RunState.RUNNING),
        (_delete, "somebody deleted it", RunState.DELETED),
    ],
)
def test_a_process_that_lost_its_run_stops_and_leaves_the_record_as_it_is(
    store: Store, opened: OpenRun, meanwhile: Callable[[Store, str, datetime], None], sentence: str, state: RunState
) -> None:
    """It was asleep for longer than a lease."""

    def step() -> None:
        with run_context(opened, "train", needs_device=False):
            lease = store.leases(opened.id)[-1]
            meanwhile(store, opened.id, lease.heartbeat_at + timedelta(seconds=LEASE_SECONDS + 1))
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                run_lease.check_stop()
                time.sleep(0.01)

    with pytest.raises(RunStopped, match=sentence):
        step()
    with sqlite3.connect(read_settings().root / "naruto.db") as database:
        assert database.execute("SELECT state FROM runs").fetchall() == [(state,)]
