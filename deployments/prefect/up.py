"""`make up`: Prefect server, work pool `gpu`, deployments and one worker on this machine.

Run again it changes nothing: what already runs is left alone, and deployments are written anew only
when prefect.yaml, automations.yaml or a flow file changed, so that a schedule switched on in the UI stays on.
"""

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from deployments.prefect.daemon import one_at_a_time
from deployments.prefect.local import HOST, PREFECT, PROJECT, LocalPrefect, read_local_prefect
from naruto_core.artifacts import write_atomically
from naruto_core.errors import NarutoError, ServiceFailed

POOL = "gpu"
SERVER_SECONDS = 180.0  # the first start creates Prefect's database
WORKER_SECONDS = 90.0
DEPLOYMENTS = Path("deployments") / "prefect" / "prefect.yaml"
AUTOMATIONS = Path("deployments") / "prefect" / "automations.yaml"


def main() -> None:
    """Bring everything up and say where it is; exit status 1 and one sentence if that fails."""
    try:
        local = read_local_prefect()
        with one_at_a_time(local.folder / "up.lock"):
            changed = bring_up(local)
    except NarutoError as error:
        sys.exit(f"error: {error}")
    print("Prefect is up." if changed else "Prefect was already up; nothing changed.")
    print(where(local))


def bring_up(local: LocalPrefect) -> bool:
    """Start or create what is missing, in the order things need each other; True if anything was."""
    return any([start_server(local), create_pool(local), deploy(local), start_worker(local)])


def start_server(local: LocalPrefect) -> bool:
    """Start the server unless it runs; ServiceFailed if its port is taken or it does not come up."""
    running = local.server.pid()
    if running and not local.healthy():
        raise ServiceFailed(
            f"the Prefect server (process {running}) does not answer at {local.ui}: run `make down` first."
        )
    if running:
        return False
    refuse_a_taken_port(local)
    print(f"starting the Prefect server at {local.ui} ...", flush=True)
    command = [*PREFECT, "server", "start", "--host", HOST, "--port", str(local.port)]
    local.server.start(command, local.environment(), PROJECT)
    local.server.wait_until(local.healthy, SERVER_SECONDS)
    return True


def refuse_a_taken_port(local: LocalPrefect) -> None:
    """ServiceFailed if another program listens at the server's port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, local.port))
        except OSError:
            raise ServiceFailed(
                f"port {local.port} is taken by another program, so no Prefect server was started: "
                f"stop that program or choose a port, e.g. NARUTO_PREFECT_PORT={local.port % 65535 + 1} make up."
            ) from None


def create_pool(local: LocalPrefect) -> bool:
    """Create the work pool that runs one flow at a time; True if it was not there."""
    status, answer = local.call("POST", "/work_pools/", {"name": POOL, "type": "process", "concurrency_limit": 1})
    if status not in (201, 409):
        raise ServiceFailed(f"the Prefect server did not create work pool {POOL}: {answer}")
    return status == 201


def deploy(local: LocalPrefect) -> bool:
    """Write deployments and automations to the server, unless they are there as they are now."""
    stamp = local.folder / "deployed"
    digest = deployments_digest()
    if stamp.exists() and stamp.read_text() == digest:
        return False
    print("writing deployments ...", flush=True)
    log, said = local.folder / "logs" / "deploy.log", ""
    for source, command in (
        (DEPLOYMENTS, [*PREFECT, "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)]),
        (AUTOMATIONS, [sys.executable, "-m", "deployments.prefect.automations"]),
    ):
        done = subprocess.run(  # noqa: S603 (our own Python, fixed arguments)
            command, env=local.environment(), cwd=PROJECT, capture_output=True, text=True, check=False
        )
        said += done.stdout + done.stderr
        write_atomically(log, said.encode())
        if done.returncode:
            raise ServiceFailed(f"what {source} says could not be written to the server; the reason is in {log}.")
    write_atomically(stamp, digest.encode())
    return True


def deployments_digest() -> str:
    """sha256 of what is written: prefect.yaml, automations.yaml and the flows, whose signatures become forms."""
    sources = [PROJECT / DEPLOYMENTS, PROJECT / AUTOMATIONS, *sorted((PROJECT / "flows").glob("*.py"))]
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()


def start_worker(local: LocalPrefect) -> bool:
    """Start the worker of pool `gpu` unless it runs; return when the server has heard of it."""
    if local.worker.pid():
        return False
    print(f"starting a worker for pool {POOL} ...", flush=True)
    give_up_lost_runs(local)
    name = f"local-{os.getpid()}"
    command = [*PREFECT, "worker", "start", "--pool", POOL, "--type", "process", "--name", name]
    local.worker.start(command, local.environment(), PROJECT)
    local.worker.wait_until(lambda: name in polling_workers(local), WORKER_SECONDS)
    return True


def give_up_lost_runs(local: LocalPrefect) -> None:
    """Mark what a worker that is gone left under way as crashed: it would hold the pool's only place for ever."""
    under_way = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
    lost = {"flow_runs": under_way, "work_pools": {"name": {"any_": [POOL]}}}
    crashed = {"state": {"type": "CRASHED", "message": "Its worker was stopped."}, "force": True}
    for run in local.call("POST", "/flow_runs/filter", lost)[1]:
        local.call("POST", f"/flow_runs/{run['id']}/set_state", crashed)


def polling_workers(local: LocalPrefect) -> set[str]:
    """Names of the workers that poll the pool."""
    status, workers = local.call("POST", f"/work_pools/{POOL}/workers/filter", {})
    return {worker["name"] for worker in workers if worker["status"] == "ONLINE"} if status == 200 else set()


def where(local: LocalPrefect) -> str:
    """Where everything is, and what to type next."""
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


if __name__ == "__main__":
    main()
