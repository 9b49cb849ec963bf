"""`make up` and `make down`: a Prefect server, its deployments and one worker on this machine.

The server listens on 127.0.0.1 only. All its files are in NARUTO_HOME/prefect, none in the user's Prefect profile, so
that each NARUTO_HOME can have a server of its own, on a port of its own. `make up` leaves alone what runs already.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from deployments.prefect.daemon import Daemon
from deployments.prefect.deploy import POOL, PREFECT, PROJECT, deploy
from naruto_core.artifacts import exclusive_lock
from naruto_core.errors import NarutoError, ServiceFailed
from naruto_core.recipe_text import explain
from naruto_core.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

HOST = "127.0.0.1"
SERVER_SECONDS = 180.0  # the first start creates Prefect's database
WORKER_SECONDS = 90.0


class LocalSettings(Settings):
    """The settings of every command, and one that only `make up` and `make down` read."""

    prefect_port: int = Field(default=4200, ge=1, le=65535, description="Port of the local Prefect server.")


@dataclass(frozen=True, slots=True)
class LocalPrefect:
    """One Prefect server with its worker; `home` is NARUTO_HOME."""

    home: Path
    port: int

    @property
    def folder(self) -> Path:
        return self.home / "prefect"

    @property
    def server(self) -> Daemon:
        return Daemon("server", self.folder)

    @property
    def worker(self) -> Daemon:
        return Daemon("worker", self.folder)

    @property
    def ui(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def api(self) -> str:
        return f"{self.ui}/api"

    def environment(self) -> dict[str, str]:
        """The environment variables of server, worker and flow runs."""
        defaults = {"PREFECT_WORKER_QUERY_SECONDS": "2"}  # Prefect's 10 s suit many workers of one server
        inherited = defaults | {name: value for name, value in os.environ.items() if name != "PREFECT_PROFILE"}
        return inherited | {
            "NARUTO_HOME": str(self.home),
            "NARUTO_PROJECT": str(PROJECT),
            "PREFECT_HOME": str(self.folder),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # leases in memory would be lost when the server restarts, and the runs that hold them killed
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            # bare names are for people; in Prefect's own processes the start-up hook only prints a warning
            "PREFECT_PLUGINS_ENABLED": "false",
        }

    @contextmanager
    def client(self) -> "Iterator[SyncPrefectClient]":
        """Prefect's client of this server; ServiceFailed if the server does not answer in the block."""
        from httpx import HTTPError  # Prefect's client raises it
        from prefect.client.orchestration import SyncPrefectClient

        try:
            with SyncPrefectClient(self.api) as client:
                yield client
        except HTTPError as error:
            raise ServiceFailed(
                f"the Prefect server at {self.ui} did not answer ({error}); log: {self.server.log}"
            ) from None

    def healthy(self) -> bool:
        """Whether a Prefect server answers at this port."""
        try:
            with self.client() as client:
                return client.api_healthcheck() is None
        except ServiceFailed:
            return False


def read_local_prefect() -> LocalPrefect:
    """The local Prefect that the environment describes; ServiceFailed if a variable has no valid value."""
    try:
        settings = LocalSettings.from_environment()
    except ValidationError as error:
        raise ServiceFailed(f"a NARUTO_* environment variable is not valid: {explain(error, LocalSettings)}") from None
    return LocalPrefect(settings.root, settings.prefect_port)


def up(local: LocalPrefect) -> None:
    """Start what does not run, write what is missing, and print where it is."""
    changed = start_server(local)
    with local.client() as client:
        changed |= deploy(client, local.environment())
        changed |= start_worker(local, client)
    print("Prefect is up." if changed else "Prefect was already up; nothing changed.")
    print(addresses(local))


def down(local: LocalPrefect) -> None:
    """Stop the worker with its flow runs, then the server, and print what was stopped."""
    for daemon in (local.worker, local.server):
        pid, name = daemon.stop(), daemon.name
        print(f"Prefect {name} was not running." if pid is None else f"stopped the Prefect {name} (process {pid}).")


def start_server(local: LocalPrefect) -> bool:
    """Start the server; False if it runs already. ServiceFailed if its port is in use or it does not start."""
    pid = local.server.pid()
    if pid and not local.healthy():
        raise ServiceFailed(f"the Prefect server (process {pid}) does not answer at {local.ui}: run `make down` first.")
    if pid:
        return False
    check_port(local.port)
    print(f"starting the Prefect server at {local.ui} ...", flush=True)
    command = [*PREFECT, "server", "start", "--host", HOST, "--port", str(local.port)]
    local.server.start(command, local.environment(), PROJECT)
    local.server.wait_until(local.healthy, SERVER_SECONDS)
    return True


def check_port(port: int) -> None:
    """ServiceFailed if another program listens at `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise ServiceFailed(
                f"port {port} is used by another program, so no Prefect server was started: "
                f"stop that program or choose a port, e.g. NARUTO_PREFECT_PORT={port % 65535 + 1} make up."
            ) from None


def start_worker(local: LocalPrefect, client: "SyncPrefectClient") -> bool:
    """Start a worker and wait until the server knows it; False if one runs already."""
    if local.worker.pid():
        return False
    print(f"starting a worker for pool {POOL} ...", flush=True)
    mark_lost_runs(client)
    name = f"local-{os.getpid()}"
    command = [*PREFECT, "worker", "start", "--pool", POOL, "--type", "process", "--name", name]
    local.worker.start(command, local.environment(), PROJECT)
    local.worker.wait_until(lambda: name in online_workers(client), WORKER_SECONDS)
    return True


def mark_lost_runs(client: "SyncPrefectClient") -> None:
    """Mark runs that a stopped worker left unfinished as crashed: they would occupy a queue's only place for ever."""
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter, WorkPoolFilterName
    from prefect.states import Crashed

    unfinished = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}})
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    for run in client.read_flow_runs(flow_run_filter=unfinished, work_pool_filter=pool):
        client.set_flow_run_state(run.id, Crashed(message="Its worker was stopped."), force=True)


def online_workers(client: "SyncPrefectClient") -> set[str]:
    """Names of the workers that poll the pool."""
    workers = client.read_workers_for_work_pool(POOL)
    return {worker.name for worker in workers if worker.status == "ONLINE"}


def addresses(local: LocalPrefect) -> str:
    """Addresses, files and the next commands, for the terminal."""
    prefect = Path(sys.executable).with_name("prefect")
    command = prefect.relative_to(Path.cwd()) if prefect.is_relative_to(Path.cwd()) else prefect
    return "\n".join(
        [
            f"  UI      {local.ui}",
            f"  logs    {local.server.log}  {local.worker.log}",
            f"  pids    {local.server.pid_file}  {local.worker.pid_file}",
            "next:",
            f"  export PREFECT_API_URL={local.api}",
            f"  {command} deployment run train-naruto",
            "  make down",
        ]
    )


def main() -> None:
    """`up` or `down`, as the first argument says; one sentence and exit status 1 if it fails."""
    command = {"up": up, "down": down}[sys.argv[1]]
    try:
        local = read_local_prefect()
        os.environ.pop("PREFECT_PROFILE", None)
        os.environ |= local.environment()  # before Prefect is imported: it would read the user's profile
        with exclusive_lock(local.folder / "up.lock"):
            command(local)
    except NarutoError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
