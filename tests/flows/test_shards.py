"""Shards on a Dask cluster: the bytes of one process, also when a worker is killed; and what people are told."""

import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import distributed
import pytest
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Failed

from flows.train_naruto import train_naruto
from naruto_core.errors import DeviceUnfit, RecipeInvalid, RunStopped, ServiceFailed, StorageFailed
from naruto_core.settings import Settings, read_settings
from naruto_core.store.database import open_store
from tasks import run_lease, shards
from tasks.context import task_context
from tasks.run_lease import hold_run, release_run
from tasks.shards import (
    GPU_TAG,
    conditions_of,
    in_batches,
    may_pass,
    open_cluster,
    plan_shards,
    shard_task,
    worker_context,
)
from tests.flows.conftest import SMALL
from tests.preloaded import Preloaded, Program

SECONDS = 120


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def scheduler(prefect_server: None) -> Iterator[Any]:  # its own type may be a coroutine
    """A Dask scheduler without workers."""
    with distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


def start_worker(
    programs: Preloaded, environment: dict[str, str], address: str, home: Path, name: str, threads: int = 1
) -> Program:
    """A worker process with a device of its own."""
    settings = {"NARUTO_HOME": str(home), "NARUTO_LOCK_FOLDER": str(home / f"locks-{name}")}
    arguments = [address, "--no-nanny", "--nthreads", str(threads), "--no-dashboard", "--name", name]
    with (home / f"{name}.log").open("w") as log:
        return programs.start("distributed.cli.dask_worker", *arguments, environment=environment | settings, output=log)


# the record of a run that is trained and fused
UNDRAWN = """
    delete from scores;
    delete from samples;
    update phases set measured_units = 0 where phase in ('samples', 'score');
    update runs set state = 'running', finished_at = null;
"""


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def recorded(home: Path) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Digests of all samples, and of all embeddings of pictures."""
    return (
        rows(home / "naruto.db", "select path, sha256 from samples order by path"),
        rows(
            home / "cache" / "embeddings.db",
            "select extractor, content, digest from embeddings where content not like 'text:%' "
            "and extractor not like 'pixels:%' order by extractor, content",
        ),
    )


def test_a_cluster_whose_worker_is_killed_in_mid_shard_ends_with_the_bytes_of_one_process(
    scheduler: Any,
    small_run: tuple[Path, str],
    programs: Preloaded,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first_home, run_id = small_run
    home = tmp_path / "home"
    shutil.copytree(first_home, home)
    before = recorded(home)
    for lost in (home / "cache" / "pictures", home / "runs" / run_id / "samples", home / "cache" / "results"):
        shutil.rmtree(lost)
    (home / "cache" / "embeddings.db").unlink()
    with closing(sqlite3.connect(home / "naruto.db")) as database:
        database.executescript(UNDRAWN)
    monkeypatch.setattr(shards, "_SHARDS_PER_WORKER", 1)  # three batches in a shard
    monkeypatch.setenv("NARUTO_HOME", str(home))
    monkeypatch.setenv("NARUTO_RUNNER", f"dask:{scheduler.scheduler_address}")
    workers = [start_worker(programs, environment, scheduler.scheduler_address, home, "first")]
    drawn: list[int] = []

    def replace_worker() -> None:
        pictures, deadline = home / "cache" / "pictures", time.monotonic() + SECONDS
        while not list(pictures.glob("*/[!.]*")) and time.monotonic() < deadline:
            time.sleep(0.002)
        workers[0].kill()
        drawn.append(len(list(pictures.glob("*/[!.]*"))))
        workers.extend(
            start_worker(programs, environment, scheduler.scheduler_address, home, name) for name in ("second", "third")
        )

    killer = threading.Thread(target=replace_worker)
    killer.start()
    try:
        assert train_naruto("mini", None, SMALL) == run_id
    finally:
        killer.join()
        for worker in workers:
            worker.kill()
    assert 0 < drawn[0] < 6  # of the base's six pictures
    assert recorded(home) == before
    measured = "select phase from phases where phase in ('samples', 'score') and measured_units = units"
    assert sorted(rows(home / "naruto.db", measured)) == [("samples",), ("score",)]


@task(cache_policy=NO_CACHE)
def never_ends(shard: str) -> None:
    """Create the file `shard`; a shard that is at work when its worker is killed."""
    Path(shard).touch()
    time.sleep(SECONDS)


@flow
def one_shard(address: str, begun: Path) -> None:
    with open_cluster(Settings(runner=f"dask:{address}")) as cluster:
        list(cluster.map(never_ends, [str(begun)], {}))


def test_a_worker_or_a_scheduler_that_ends_during_a_shard_is_named_in_one_sentence(
    programs: Preloaded, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "CONNECT_SECONDS", 60.0)
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    with (tmp_path / "scheduler.log").open("w") as log:
        started = programs.start("distributed.cli.dask_scheduler", *options, environment=environment, output=log)
    running = [started]
    try:
        for lost, patience, sentence in (
            (
                "worker",
                1.0,
                f"the last worker of the Dask scheduler at {address} has gone: start one with  dask worker",
            ),
            ("scheduler", SECONDS, f"the Dask scheduler at {address} has ended: start it again; the same command"),
        ):
            monkeypatch.setattr(shards, "WORKER_SECONDS", patience)
            worker = start_worker(programs, environment, address, tmp_path, lost)
            running.append(worker)
            killed = worker if lost == "worker" else started
            killer = threading.Thread(target=kill_when, args=(killed, tmp_path / lost))
            killer.start()
            with pytest.raises(ServiceFailed, match=sentence):
                one_shard(address, tmp_path / lost)
            killer.join()
    finally:
        for program in running:
            program.kill()


def kill_when(program: Program, path: Path) -> None:
    """Kill `program` as soon as `path` exists."""
    wait_until(path.exists)
    program.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    """Until `condition` holds, for two minutes at most."""
    deadline = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


@shard_task(lambda: "takes a place")
def takes_a_place(shard: str) -> tuple[float, float]:
    """When this shard began and when it ended."""
    began = time.monotonic()
    time.sleep(0.3)
    return began, time.monotonic()


@flow
def three_shards(address: str) -> list[tuple[float, float]]:
    with open_cluster(Settings(runner=f"dask:{address}")) as cluster:
        return sorted(result for _, result in cluster.map(takes_a_place, ["a", "b", "c"], {}))


@flow
def shards_of_a_run(address: str, run_id: str, begun: Path) -> None:
    settings = read_settings()
    with open_store(settings.database_url) as store, open_cluster(Settings(runner=f"dask:{address}")) as cluster:
        hold_run(store, settings, run_id, print)
        try:
            list(cluster.map(never_ends, [str(begun / str(number)) for number in range(6)], {}))
        finally:
            release_run(store, settings, run_id)


def test_the_limit_of_the_tag_gpu_counts_shards_and_naruto_stop_cancels_those_that_have_not_begun(
    scheduler: Any,
    small_run: tuple[Path, str],
    programs: Preloaded,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, (home, run_id) = scheduler.scheduler_address, small_run
    shutil.copyfile(home / "naruto.db", tmp_path / "naruto.db")
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path))
    monkeypatch.setattr(run_lease, "_LOOK_SECONDS", 0.1)
    worker = start_worker(programs, environment, address, tmp_path, "two-threads", threads=2)

    def stop_when_begun() -> None:
        wait_until(lambda: any((tmp_path / str(number)).exists() for number in range(6)))
        with open_store(read_settings().database_url) as store:
            store.request_stop(run_id, "lea", datetime.now(UTC))

    stopper = threading.Thread(target=stop_when_begun)
    try:
        with get_client(sync_client=True) as client:
            client.create_concurrency_limit(tag=GPU_TAG, concurrency_limit=1)
            try:
                times = three_shards(address)
            finally:
                client.delete_concurrency_limit_by_tag(GPU_TAG)
        assert all(before[1] <= after[0] for before, after in pairwise(times)), "one at a time, of two threads"
        stopper.start()
        with pytest.raises(RunStopped, match=f"run {run_id} stopped: lea asked it to stop"):
            shards_of_a_run(address, run_id, tmp_path)
        stopper.join()
        wait_until(lambda: len(scheduler.scheduler.tasks) <= 2)
        assert sum((tmp_path / str(number)).exists() for number in range(6)) <= 2, "as many as have threads"
    finally:
        worker.kill()
        wait_until(lambda: not scheduler.scheduler.workers)  # the next test finds none


def test_a_cluster_that_cannot_be_used_is_named_in_one_sentence(
    scheduler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "CONNECT_SECONDS", 1.0)
    free = f"tcp://127.0.0.1:{free_port()}"
    for address, sentence in (
        (scheduler.scheduler_address, "has no worker: start one with  dask worker tcp"),
        (free, f"no Dask scheduler answers at {free}"),
        ("somewhere", "no Dask scheduler answers at somewhere"),
        ("nothing://here", "no Dask scheduler answers at nothing://here"),
    ):
        with pytest.raises(ServiceFailed, match=sentence), open_cluster(Settings(runner=f"dask:{address}")):
            pass
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ServiceFailed, match="needs a Prefect server"),
        open_cluster(Settings(runner=f"dask:{scheduler.scheduler_address}")),
    ):
        pass
    monkeypatch.setenv("NARUTO_RUNNER", "ray:8786")
    with pytest.raises(RecipeInvalid, match="NARUTO_RUNNER"):
        read_settings()


def test_shards_are_whole_batches_in_order_and_nearly_equal() -> None:
    batches = in_batches(list(range(17)), 2)
    planned = plan_shards(batches, 2)
    assert [batch for shard in planned for batch in shard] == batches
    assert [len(shard) for shard in planned] == [1, 2, 1, 2, 1, 2]
    assert plan_shards([], 2) == []
    assert plan_shards(batches[:2], 8) == [[batches[0]], [batches[1]]]


def test_a_worker_with_other_libraries_or_another_bucket_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path))
    with task_context() as context:
        own = conditions_of(context)
    for other, error, sentence in (
        (replace(own, device="cuda"), DeviceUnfit, "but the run on cuda"),
        (
            replace(own, store="s3://bucket/runs"),
            StorageFailed,
            r"has no bucket \(NARUTO_STORE\), but the run NARUTO_STORE=s3://bucket/runs: set NARUTO_STORE to the same",
        ),
    ):
        with pytest.raises(error, match=sentence), worker_context(other, "draw"):
            pass


def test_only_what_may_pass_is_tried_again() -> None:
    passing = [OSError("stale"), TimeoutError("late"), ServiceFailed("away")]
    lasting = [DeviceUnfit("other"), ValueError("bug"), StorageFailed("full")]
    tried = [may_pass(None, None, Failed(data=error)) for error in (*passing, *lasting)]
    assert tried == [True] * 3 + [False] * 3
