"""Who works on a run: one process at a time, on any machine; and how long."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier

import pytest
from recorded import NOON, open_run

from naruto_core.domain import DatasetVersion, Run, RunState
from naruto_core.errors import NotRecorded, RecipeInvalid
from naruto_core.store.database import open_store
from naruto_core.store.leases import LEASE_SECONDS, LeaseOwner, this_process
from naruto_core.store.writes import Store

ELSEWHERE = LeaseOwner("0123abcd:7:99", "pod-b", 7)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def test_a_run_has_one_owner_until_it_releases_the_lease(store: Store, run: Run) -> None:
    mine = store.acquire_lease(run.id, this_process(), 2, NOON)
    assert (mine.owner, mine.process, mine.threads) == (this_process().id, os.getpid(), 2)
    assert store.acquire_lease(run.id, ELSEWHERE, 8, NOON + seconds(5)) == mine
    assert store.acquire_lease(run.id, this_process(), 2, NOON + seconds(5)) == mine
    store.release_lease(mine.id, NOON + seconds(6))
    theirs = store.acquire_lease(run.id, ELSEWHERE, 8, NOON + seconds(7))
    assert (theirs.host, store.live_lease(run.id, NOON + seconds(8))) == ("pod-b", theirs)
    with pytest.raises(NotRecorded):
        store.acquire_lease("nobody", ELSEWHERE, 1, NOON)


def test_a_lease_of_another_machine_is_over_when_its_heartbeats_end(store: Store, run: Run) -> None:
    theirs = store.acquire_lease(run.id, ELSEWHERE, 8, NOON)
    beat = NOON + seconds(60)
    assert store.renew_lease(theirs.id, beat).heartbeat_at == beat
    late = beat + seconds(LEASE_SECONDS)
    assert store.acquire_lease(run.id, this_process(), 2, late).owner == ELSEWHERE.id
    mine = store.acquire_lease(run.id, this_process(), 2, late + seconds(1))
    assert mine.owner == this_process().id
    assert store.renew_lease(theirs.id, late + seconds(2)).released_at == beat  # and it learns that it lost the run


def test_a_lease_of_a_killed_process_of_this_machine_is_over_at_once(store: Store, run: Run) -> None:
    code = "from naruto_core.store.leases import this_process as p; print(p().id, p().process, flush=True); input()"
    pipe = subprocess.PIPE
    other = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
    assert other.stdout
    owner, process = other.stdout.readline().split()
    lease = store.acquire_lease(run.id, LeaseOwner(owner, "here", int(process)), 2, NOON)
    assert store.acquire_lease(run.id, this_process(), 2, NOON + seconds(1)) == lease
    other.kill()
    other.communicate()
    assert store.acquire_lease(run.id, this_process(), 2, NOON + seconds(1)).owner == this_process().id
    of_an_earlier_process = replace(this_process(), id=this_process().id + "0")  # with the number that is mine now
    store.release_lease(store.leases(run.id)[-1].id, NOON)
    store.acquire_lease(run.id, of_an_earlier_process, 2, NOON + seconds(1))
    assert store.acquire_lease(run.id, this_process(), 2, NOON + seconds(1)).owner == this_process().id


def test_of_two_machines_that_open_a_run_at_the_same_moment_one_gets_it(store: Store, run: Run, url: str) -> None:
    start = Barrier(4)

    def acquire(number: int) -> str:
        with open_store(url) as mine:
            start.wait()
            return mine.acquire_lease(run.id, LeaseOwner(f"{number:08x}:1:1", "pod", 1), 1, NOON).owner

    with ThreadPoolExecutor(4) as machines:
        assert len(set(machines.map(acquire, range(4)))) == 1


def test_pauses_and_waiting_are_no_work(store: Store, run: Run) -> None:
    first = store.acquire_lease(run.id, this_process(), 2, NOON)
    store.add_lease_wait(first.id, 15.0)
    assert store.worked_seconds(run.id) is None
    store.release_lease(first.id, NOON + seconds(60))
    store.acquire_lease(run.id, ELSEWHERE, 1, NOON + seconds(1000))  # killed after its heartbeat at 1030 s
    store.renew_lease(store.leases(run.id)[-1].id, NOON + seconds(1030))
    third = store.acquire_lease(run.id, this_process(), 2, NOON + seconds(2000))
    store.finish_run(run.id, NOON + seconds(2005))
    store.release_lease(third.id, NOON + seconds(2007))
    store.acquire_lease(run.id, this_process(), 2, NOON + seconds(9000))  # to score it again: no work on the run itself
    assert store.worked_seconds(run.id) == 60 - 15 + 30 + 5
    assert store.runs()[0].seconds == 80


def test_a_run_of_an_older_version_took_from_its_start_to_its_end(store: Store, run: Run) -> None:
    store.finish_run(run.id, NOON + seconds(90))
    assert store.worked_seconds(run.id) == 90


def test_a_request_to_stop_reaches_the_owner_and_a_run_without_one_is_cancelled(
    store: Store, run: Run, dataset: DatasetVersion
) -> None:
    theirs = store.acquire_lease(run.id, ELSEWHERE, 8, NOON)
    assert store.request_stop(run.id, "lea", NOON + seconds(1)) == replace(theirs, stop_requested_by="lea")
    assert store.read_lease(theirs.id).stop_requested_by == "lea"
    store.cancel_run(run.id, "train: lea asked it to stop", NOON + seconds(2))
    store.release_lease(theirs.id, NOON + seconds(2))
    assert store.run(run.id).state is RunState.CANCELLED
    assert store.acquire_lease(run.id, ELSEWHERE, 8, NOON + seconds(3)).stop_requested_by == ""
    assert open_run(store, dataset.id).state is RunState.RUNNING

    assert store.request_stop(run.id, "lea", NOON + timedelta(days=1)) is None
    assert (store.run(run.id).state, "its process had ended" in store.run(run.id).failure) == ("cancelled", True)
    store.resume_run(run.id)
    assert store.run(run.id).state is RunState.RUNNING
    store.finish_run(run.id, NOON)
    store.cancel_run(run.id, "too late", NOON)
    store.resume_run(run.id)
    assert store.run(run.id).state is RunState.DONE


def test_tags_are_a_set_and_notes_a_list(store: Store, run: Run) -> None:
    assert store.change_tags(run.id, ["good", "draft", "good"], []) == ["draft", "good"]
    assert store.change_tags(run.id, ["good"], ["draft"]) == ["good"]
    for add, remove, sentence in (
        (["Two words"], [], "is no tag"),
        (["new"], ["draft"], "has no tag draft; its tags: good"),
    ):
        with pytest.raises(RecipeInvalid, match=sentence):
            store.change_tags(run.id, add, remove)
    assert (store.tags(run.id), store.runs()[0].tags) == (["good"], ("good",))
    store.add_note(run.id, " hands are better ", NOON)
    store.add_note(run.id, "too dark", NOON + seconds(1))
    assert [note.text for note in store.notes(run.id)] == ["hands are better", "too dark"]
    with pytest.raises(RecipeInvalid, match="empty"):
        store.add_note(run.id, "  ", NOON)
