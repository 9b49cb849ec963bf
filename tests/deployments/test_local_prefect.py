"""`make up` for real: server, pool, deployments, worker, a run by its bare name, rows in SQLite."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import VariableUpdate
from prefect.events.schemas.automations import EventTrigger
from prefect.settings import PREFECT_API_URL, Settings, temporary_settings

from deployments.prefect.deploy import PROJECT, QUEUES, read_automations, write_automations, write_notifications
from deployments.prefect.local import LocalPrefect
from tests.flows.conftest import TINY
from tests.preloaded import preloaded
from tests.tiny_sdxl import write_tiny_sdxl

pytestmark = pytest.mark.slow


def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def persons_environment(local: LocalPrefect) -> dict[str, str]:
    """The variables of a person with nothing but these settings; and Prefect's own kinds of blocks are not written."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NARUTO_", "PREFECT_"))}
    return inherited | {
        "NARUTO_HOME": str(local.home),
        "NARUTO_PREFECT_PORT": str(local.port),
        "PREFECT_API_URL": local.api,
        "PREFECT_HOME": str(local.home / "person"),
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",  # nobody here asks for them, and each start takes 2 s more
    }


def python_m(module: str, local: LocalPrefect, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m module` as a person with nothing but these settings would run it."""
    command, environment = [sys.executable, "-m", module, *arguments], persons_environment(local)
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


@cache
def client(address: str) -> SyncPrefectClient:
    """One for all requests: each new one reads certificates. It asks again where the server's database is locked."""
    return SyncPrefectClient(address).__enter__()


def request(local: LocalPrefect, method: str, path: str, body: Any = None) -> Any:
    """The decoded answer of the server's API; HTTPStatusError for an error status."""
    answer = client(local.api).request(method, path, json=body)  # type: ignore[arg-type]
    return answer.json() if answer.content else None


def post(local: LocalPrefect, path: str, body: dict[str, Any]) -> Any:
    return request(local, "POST", path, body)


def deployments_as_written(local: LocalPrefect) -> list[dict[str, Any]]:
    """All deployments, without what the server stamps on them whenever the worker polls."""
    stamped = ("last_polled", "status")
    return [
        {key: value for key, value in deployment.items() if key not in stamped}
        for deployment in post(local, "/deployments/filter", {})
    ]


def rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalPrefect:
    return LocalPrefect(tmp_path_factory.mktemp("home"), a_free_port())


Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def command(local: LocalPrefect) -> Iterator[Command]:
    """`python -m` as `python_m`, without the seconds that imports take: the exit status, and what was printed."""
    environment = persons_environment(local)
    # Prefect reads its settings when it is imported: those that `up` sets before it imports Prefect
    modules = ("deployments.prefect.deploy", "prefect.client.orchestration")
    with preloaded(modules, environment | local.environment()) as programs:

        def run(module: str, *arguments: str, of: LocalPrefect = local) -> tuple[int, str]:
            program = programs.start(module, *arguments, environment=persons_environment(of))
            assert program.output
            with program.output:
                printed = program.output.read()
            return program.wait(), printed

        yield run


@pytest.fixture(scope="module")
def up(local: LocalPrefect, command: Command) -> Iterator[LocalPrefect]:
    """A Prefect that `make up` started in a home of its own, stopped by `make down`."""
    try:
        started = python_m("deployments.prefect.local", local, "up")
        assert started.returncode == 0, started.stderr
        assert f"  export PREFECT_API_URL={local.api}\n" in started.stdout
        assert "prefect deployment run train-naruto\n" in started.stdout
        yield local
    finally:
        status, printed = command("deployments.prefect.local", "down")
    assert status == 0, printed
    assert (local.server.pid(), local.worker.pid()) == (None, None)


def test_a_run_started_by_its_bare_name_completes_and_is_in_sqlite(up: LocalPrefect, command: Command) -> None:
    overrides = TINY | {"model.base": str(write_tiny_sdxl(up.home / "base")), "generation.prompts": 2}
    status, printed = command(
        "prefect", "deployment", "run", "train-naruto", "--param", f"overrides={json.dumps(overrides)}"
    )
    assert status == 0, printed
    run_id = re.search(r"UUID: ([0-9a-f-]{36})", printed)
    assert run_id, printed
    deadline = time.monotonic() + 200
    while (run := request(up, "GET", f"/flow_runs/{run_id[1]}"))["state_type"] in ("SCHEDULED", "PENDING", "RUNNING"):
        assert time.monotonic() < deadline, f"still {run['state_type']}: {up.worker.log.read_text()[-3000:]}"
        time.sleep(0.3)
    assert run["state_type"] == "COMPLETED", up.worker.log.read_text()[-5000:]
    database = up.home / "naruto.db"
    ((name, state),) = rows(database, "select id, state from runs")
    assert state == "done"
    assert run["name"] == f"{name} on {overrides['dataset.source']}"
    assert {name, "naruto"} <= set(run["tags"])
    logs = post(up, "/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    assert f"run {name}" in {log["message"] for log in logs}
    assert rows(database, "select variant, count(*) from samples group by variant order by variant") == [
        ("adapted", 2),
        ("base", 2),
    ]
    assert {metric for (metric,) in rows(database, "select distinct metric from scores")} >= {"mmd", "clip"}


def test_up_a_second_time_changes_nothing_and_says_so(up: LocalPrefect, command: Command) -> None:
    before = (up.server.pid(), up.worker.pid(), deployments_as_written(up))
    status, printed = command("deployments.prefect.local", "up")
    assert status == 0, printed
    assert printed.startswith("Prefect was already up; nothing changed.\n")
    assert (up.server.pid(), up.worker.pid(), deployments_as_written(up)) == before


def test_every_profile_has_its_deployment_in_a_queue_that_short_flows_need_not_wait_for(up: LocalPrefect) -> None:
    deployments = {d["name"]: d for d in post(up, "/deployments/filter", {})}
    assert {name: d["parameters"] for name, d in deployments.items()} == {
        "train-naruto": {"profile": "mini"},
        "mini": {"profile": "mini"},
        "t4": {"profile": "t4"},
        "t4-fast": {"profile": "t4-fast"},
        "t4-512": {"profile": "t4-512"},
        "sweep": {},
        "rescore": {},
        "watch": {},
        "promote": {},
    }
    assert {d["work_pool_name"] for d in deployments.values()} == {"gpu"}
    short = {"rescore": "nightly", "watch": "nightly", "promote": "interactive"}
    assert {
        name: d["work_queue_name"] for name, d in deployments.items() if d["work_queue_name"] != "training"
    } == short
    queues = {queue["name"]: queue for queue in post(up, "/work_pools/gpu/queues/filter", {})}
    waiting = sorted((queues[queue.name]["priority"], queue.name) for queue in QUEUES)
    assert [name for _, name in waiting] == ["interactive", "nightly", "training"]
    assert {queues[queue.name]["concurrency_limit"] for queue in QUEUES} == {1}
    assert request(up, "GET", "/work_pools/gpu")["concurrency_limit"] == 2


def test_nightly_flows_are_scheduled_and_the_weekly_t4_is_switched_off(up: LocalPrefect) -> None:
    deployments = {d["name"]: d for d in post(up, "/deployments/filter", {})}
    assert [(s["slug"], s["active"]) for s in deployments["t4"]["schedules"]] == [("weekly", False)]
    nightly = [deployments[name] for name in ("rescore", "watch")]
    assert [(s["slug"], s["active"]) for d in nightly for s in d["schedules"]] == [("nightly", True)] * 2
    deadline = time.monotonic() + 120
    planned = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    expected, scheduled = {deployment["id"] for deployment in nightly}, set[str]()
    while not expected <= scheduled:
        scheduled = {run["deployment_id"] for run in post(up, "/flow_runs/filter", planned)}
        assert time.monotonic() < deadline, f"the scheduler planned nothing: {up.server.log.read_text()[-3000:]}"
        time.sleep(0.3)
    assert scheduled == expected


def test_a_port_in_use_is_one_sentence(command: Command, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        local = LocalPrefect(tmp_path, other.getsockname()[1])
        status, printed = command("deployments.prefect.local", "up", of=local)
    assert status == 1
    assert re.fullmatch(r"error: port \d+ is used by another program, .* NARUTO_PREFECT_PORT=\d+ make up\.\n", printed)


def test_a_port_that_is_no_number_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments.prefect.local import read_local_prefect
    from naruto_core.errors import ServiceFailed

    monkeypatch.setenv("NARUTO_PREFECT_PORT", "http")
    with pytest.raises(ServiceFailed, match=r"prefect_port: .* \(got 'http'\)"):
        read_local_prefect()


def test_after_a_crash_up_starts_a_new_worker_and_marks_the_lost_run_as_crashed(
    up: LocalPrefect, command: Command
) -> None:
    mini = next(d["id"] for d in post(up, "/deployments/filter", {}) if d["name"] == "mini")
    lost = post(up, f"/deployments/{mini}/create_flow_run", {"state": {"type": "RUNNING"}})
    worker = up.worker.pid()
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    while up.worker.pid() is not None:
        time.sleep(0.05)
    status, printed = command("deployments.prefect.local", "up")
    assert status == 0, printed
    assert "starting a worker" in printed
    assert up.worker.pid() not in (None, worker)
    assert request(up, "GET", f"/flow_runs/{lost['id']}")["state_type"] == "CRASHED"


def test_only_a_run_without_heartbeats_is_marked_as_crashed(up: LocalPrefect) -> None:
    mini = next(d["id"] for d in post(up, "/deployments/filter", {}) if d["name"] == "mini")

    def begin(state: str) -> str:
        return post(up, f"/deployments/{mini}/create_flow_run", {"state": {"type": state}})["id"]

    def state(run: str) -> str:
        return request(up, "GET", f"/flow_runs/{run}")["state_type"]

    def beat(run: str) -> None:
        event = {
            "id": str(uuid.uuid4()), "event": "prefect.flow-run.heartbeat", "occurred": datetime.now(UTC).isoformat(),
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        }  # fmt: skip
        request(up, "POST", "/events", [event])

    def automations() -> dict[str, tuple[str, float]]:
        automations = post(up, "/automations/filter", {})
        return {each["name"]: (each["id"], each["trigger"]["within"]) for each in automations}

    written = automations()
    for automation in read_automations():  # with 10 seconds in place of minutes
        sooner = automation.model_dump(mode="json", exclude_unset=True)
        sooner["trigger"]["within"] = 10.0
        request(up, "PUT", f"/automations/{written[automation.name][0]}", sooner)
    silent, stuck, alive, done = begin("RUNNING"), begin("PENDING"), begin("RUNNING"), begin("RUNNING")
    post(up, f"/flow_runs/{done}/set_state", {"state": {"type": "COMPLETED"}})
    beat(done)  # the last heartbeat of a process may come after the end of its run
    judged = time.monotonic() + 13
    deadline = time.monotonic() + 120
    while not state(silent) == state(stuck) == "CRASHED" or time.monotonic() < judged:
        assert time.monotonic() < deadline, (state(silent), state(stuck))
        beat(alive)
        time.sleep(1)
    assert (state(alive), state(done)) == ("RUNNING", "COMPLETED")
    post(up, f"/flow_runs/{alive}/set_state", {"state": {"type": "COMPLETED"}})

    with up.client() as client:
        write_automations(client, read_automations())
    assert automations() == written
    assert {seconds for _, seconds in written.values()} == {600, 3600}


def test_a_schedule_that_somebody_switched_on_stays_on_when_deployments_are_written_again(
    up: LocalPrefect, command: Command
) -> None:
    def schedules() -> dict[str, tuple[str, str, bool]]:
        deployments = post(up, "/deployments/filter", {})
        return {d["name"]: (d["id"], s["id"], s["active"]) for d in deployments for s in d["schedules"]}

    for name, active in (("t4", True), ("rescore", False)):
        deployment, schedule, _ = schedules()[name]
        request(up, "PATCH", f"/deployments/{deployment}/schedules/{schedule}", {"active": active})
    with up.client() as client:
        client.update_variable(VariableUpdate(name="naruto_deployed", value="of an older prefect.yaml"))
    status, printed = command("deployments.prefect.local", "up")
    assert status == 0, printed
    assert printed.startswith("writing deployments ...\nPrefect is up.")
    assert {name: active for name, (_, _, active) in schedules().items()} == {
        "t4": True,
        "rescore": False,
        "watch": True,
    }


@contextmanager
def webhook(posted: list[str]) -> Iterator[str]:
    """The address of a receiver that appends each text to `posted`."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *given: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/secret"
        finally:  # also after a failure: on a closed socket the thread would turn for ever, and slow down later tests
            server.shutdown()


def test_a_failed_run_and_drift_are_posted_to_the_address_of_notifications(up: LocalPrefect) -> None:
    """Prefect forgets an event that comes while its SQLite database is locked, so both may be sent more than once."""
    posted: list[str] = []
    expected = {"a-run: Failed train: the disk is full. h", "naruto drift: r clip: drifted"}
    failed = {"type": "FAILED", "message": "train: the disk is full."}
    with webhook(posted) as address:
        with temporary_settings({PREFECT_API_URL: up.api}), up.client() as client:
            write_notifications(client, address)
            write_notifications(client, address)
        assert address not in json.dumps(post(up, "/block_documents/filter", {}))
        mini = next(d["id"] for d in post(up, "/deployments/filter", {}) if d["name"] == "mini")
        deadline, again = time.monotonic() + 60, 0.0
        while {text[:40] for text in posted} != expected:
            assert time.monotonic() < deadline, (posted, up.server.log.read_text()[-3000:])
            if time.monotonic() > again:
                again = time.monotonic() + 10
                run = post(up, f"/deployments/{mini}/create_flow_run", {"name": "a-run", "state": {"type": "RUNNING"}})
                post(up, f"/flow_runs/{run['id']}/set_state", {"state": failed, "force": True})
                drifted = {
                    "id": str(uuid.uuid4()), "event": "naruto.quality.drifted",
                    "occurred": datetime.now(UTC).isoformat(), "resource": {"prefect.resource.id": "naruto.run.r"},
                    "payload": {"sentence": "r clip: drifted"},
                }  # fmt: skip
                request(up, "POST", "/events", [drifted])
            time.sleep(0.2)


def test_a_worker_asks_for_runs_every_two_seconds_unless_the_environment_has_another_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_WORKER_QUERY_SECONDS", raising=False)
    local = LocalPrefect(tmp_path, 4200)
    assert local.environment()["PREFECT_WORKER_QUERY_SECONDS"] == "2"
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "30")
    assert local.environment()["PREFECT_WORKER_QUERY_SECONDS"] == "30"


def test_deploying_without_a_server_is_one_sentence(tmp_path: Path) -> None:
    refused = python_m("deployments.prefect.deploy", LocalPrefect(tmp_path, a_free_port()))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert re.fullmatch(r"error: the Prefect server did not answer.*\n", refused.stderr)


def test_the_time_without_heartbeats_is_much_longer_than_their_interval() -> None:
    frequency = Settings().flows.heartbeat_frequency
    assert frequency
    for automation in read_automations():
        assert isinstance(automation.trigger, EventTrigger)
        assert automation.trigger.within > 3 * timedelta(seconds=frequency)
