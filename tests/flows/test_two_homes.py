"""Machines with a NARUTO_HOME each, one bucket and one PostgreSQL server."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import distributed
import pytest

from flows.train_naruto import train_naruto
from naruto_core.artifacts import Layout
from naruto_core.dataset.versions import read_picture, read_pictures
from naruto_core.domain import RunState
from naruto_core.store.database import Store, open_store
from tests.postgres import postgres_server, serving_postgres
from tests.preloaded import Preloaded
from tests.s3_bucket import objects, serving_bucket

SECONDS = 240
SOURCE = "world:naruto?count=12&seed=9"


@pytest.fixture(scope="module")
def shared() -> Iterator[dict[str, str]]:
    """The environment variables of both machines; they are in this process's environment too."""
    with serving_postgres() as database, serving_bucket() as bucket, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARUTO_DATABASE", database)
        patch.setenv("NARUTO_STORE", bucket)
        yield {name: value for name, value in os.environ.items() if name.startswith(("NARUTO_", "AWS_"))}


def test_two_first_ingests_of_one_dataset_at_once_record_one_version_that_both_machines_have(
    shared: dict[str, str], programs: Preloaded, environment: dict[str, str], tmp_path: Path
) -> None:
    """The database is empty too: both of them make its tables."""
    homes = [tmp_path / "first", tmp_path / "second"]
    arguments = ("ingest", SOURCE, "--set", "dataset.hold_out=4")
    begun = [
        programs.start("flows", *arguments, environment=environment | shared | {"NARUTO_HOME": str(home)})
        for home in homes
    ]
    printed = [program.output.read() for program in begun if program.output]
    assert [program.wait() for program in begun] == [0, 0], printed
    with open_store(shared["NARUTO_DATABASE"]) as store:
        (version,) = store.datasets()
    of_homes = [read_pictures(Layout(home), version) for home in homes]
    assert [len(pictures) for pictures in of_homes] == [12, 12]
    assert all(
        read_picture(Layout(home), picture) for home, rows in zip(homes, of_homes, strict=True) for picture in rows
    )
    names = {picture.sha256 for picture in of_homes[0]}
    stored = objects(shared["NARUTO_STORE"])
    assert {name.rpartition("/")[2] for name in stored if "/objects/" in name} == names
    assert any(name.endswith(f"/datasets/{version.id}.parquet") for name in stored)


@contextmanager
def drawing_workers(programs: Preloaded, environment: dict[str, str], homes: Sequence[Path]) -> Iterator[str]:
    """The address of a Dask scheduler whose workers have `homes`."""
    cluster: Any = distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address="127.0.0.1:0"
    )
    with cluster, ExitStack() as stack:
        for home in homes:
            home.mkdir()
            settings = environment | {"NARUTO_HOME": str(home), "NARUTO_LOCK_FOLDER": str(home / "locks")}
            arguments = [cluster.scheduler_address, "--no-nanny", "--nthreads", "1", "--no-dashboard"]
            log = stack.enter_context((home / "log").open("w"))
            worker = programs.start("distributed.cli.dask_worker", *arguments, environment=settings, output=log)
            stack.callback(worker.kill)
        with distributed.Client(cluster.scheduler_address) as client:
            client.wait_for_workers(len(homes), timeout=SECONDS)
        yield cluster.scheduler_address


def results(store: Store, run_id: str) -> dict[str, Any]:
    """What a run came to: digests of its files, and its scores."""
    return {
        "adapters": [(adapter.path, adapter.sha256) for adapter in store.adapters(run_id)],
        "samples": sorted((sample.path, sample.sha256) for sample in store.samples(run_id)),
        "scores": {(score.metric, score.variant, score.sample_id): score.value for score in store.scores(run_id)},
    }


def test_a_run_killed_after_training_ends_on_another_machine_and_its_cluster_with_the_bytes_of_one_machine(
    shared: dict[str, str],
    tiny_recipe: Path,
    tiny_run: tuple[Path, str],
    programs: Preloaded,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = environment | shared | {"NARUTO_HOME": str(tmp_path / "first")}
    with (tmp_path / "log").open("w") as log, open_store(shared["NARUTO_DATABASE"]) as store:
        program = programs.start("flows", "run", "--recipe", str(tiny_recipe), environment=first, output=log)
        deadline = time.monotonic() + SECONDS
        while not (runs := store.runs()) or not store.find_fused(runs[0].run.id):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            assert program.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        program.kill()
        program.wait()
        run_id = runs[0].run.id
        assert store.run(run_id).state is RunState.RUNNING
        monkeypatch.setenv("NARUTO_HOME", str(tmp_path / "second"))
        with drawing_workers(programs, environment | shared, [tmp_path / "third", tmp_path / "fourth"]) as scheduler:
            monkeypatch.setenv("NARUTO_RUNNER", f"dask:{scheduler}")
            assert train_naruto(str(tiny_recipe)) == run_id
        assert store.run(run_id).state is RunState.DONE
        trained = next(record for record in store.phases(run_id) if record.planned.phase == "train")
        assert trained.measured_units == 2, "the second machine trains nothing: it has the adapter from the bucket"
        ended = results(store, run_id)
        (phase,) = (record for record in store.phases(run_id) if record.planned.phase == "samples")
        assert phase.processes == 2
    for worker in ("third", "fourth"):
        drawn = list((tmp_path / worker).glob("runs/*/samples/*"))
        assert 0 < len(drawn) < len(ended["samples"]), "each draws a part"
    home, alone = tiny_run
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        assert ended == results(store, alone)


def test_a_database_that_goes_away_in_mid_run_is_one_sentence_and_the_same_command_goes_on(
    tiny_recipe: Path,
    tiny_run: tuple[Path, str],
    programs: Preloaded,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    with postgres_server() as server:
        variables = environment | {"NARUTO_DATABASE": server.url, "NARUTO_HOME": str(tmp_path / "home")}
        run = ("flows", "run", "--recipe", str(tiny_recipe))
        first = programs.start(*run, environment=variables)
        assert first.output
        lines: list[str] = []
        for line in first.output:
            lines.append(line.strip())
            if line.startswith("train "):
                server.stop()
                break
        lines += [line.strip() for line in first.output if line.strip()]
        assert first.wait() == 1, lines
        assert not any("Traceback" in line for line in lines), lines
        assert lines[-1].startswith(f"naruto: cannot use the database {server.url}: "), lines
        assert lines[-1].endswith("check NARUTO_DATABASE; the same command goes on where it ended."), lines
        server.start()
        second = programs.start(*run, environment=variables)
        assert second.output
        printed = second.output.read()
        assert second.wait() == 0, printed
        with open_store(server.url) as store:
            run_id = store.runs()[0].run.id
            ended = results(store, run_id)
    home, alone = tiny_run
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        assert ended == results(store, alone)
