"""`python -m deployments.prefect.deploy`: write pool, deployments and automations to the server at PREFECT_API_URL.

`make up` and compose run it at every start. It writes nothing while prefect.yaml, automations.yaml and the flows are as
they were when it last wrote: their digest is a Prefect variable. A schedule or an automation that somebody switched on
or off keeps that state.
"""

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from naruto_core.errors import NarutoError, ServiceFailed
from naruto_core.settings import read_settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

PROJECT = Path(__file__).resolve().parents[2]
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]
POOL = "gpu"
POOL_LIMIT = 2  # flow runs at once: a training, and a short flow beside it; the device is held by one of them at a time


@dataclass(frozen=True, slots=True)
class Queue:
    """A work queue of the pool, which runs one flow at a time; of what waits, priority 1 is first."""

    name: str
    priority: int
    description: str


QUEUES = (
    Queue("interactive", 1, "What somebody waits for: promotions."),
    Queue("nightly", 2, "Short flows on a schedule: scores, quality of served pictures."),
    Queue("training", 3, "Runs and sweeps, which take hours: they never hold the places of the other queues."),
)
_DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")
_AUTOMATIONS = Path(__file__).with_name("automations.yaml")
_NOTIFICATIONS = Path(__file__).with_name("notifications.yaml")
_DIGEST = "naruto_deployed"  # the Prefect variable

Schedule = tuple[UUID, str | None]  # a deployment's id, its schedule's slug


def deploy(client: "SyncPrefectClient", environment: Mapping[str, str] | None = None) -> bool:
    """Write what is missing or outdated, running `prefect deploy` in `environment`; True if anything was written.

    Raises ServiceFailed if Prefect refuses a deployment, httpx.HTTPError if the server does not answer.
    """
    created = create_pool(client)
    if url := read_settings().notifications.get_secret_value():
        write_notifications(client, url)
    digest, written = deployments_digest(), client.read_variable_by_name(_DIGEST)
    if written and written.value == digest:
        return created
    print("writing deployments ...", flush=True)
    active = schedules_active(client)
    _prefect_deploy(environment)
    restore_schedules(client, active)
    write_automations(client, read_automations())
    _write_digest(client, digest, exists=written is not None)
    return True


def create_pool(client: "SyncPrefectClient") -> bool:
    """Create the work pool and its queues where they are missing; whether anything was.

    A pool with the limit of earlier versions, 1, gets `POOL_LIMIT`; other changes that somebody made stay.
    """
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=POOL_LIMIT))
    existing = {queue.name for queue in client.read_work_queues(work_pool_name=POOL)}
    missing = [queue for queue in QUEUES if queue.name not in existing]
    if missing and client.read_work_pool(POOL).concurrency_limit == 1:
        client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=POOL_LIMIT))
    for queue in missing:
        client.create_work_queue(
            queue.name, queue.description, concurrency_limit=1, priority=queue.priority, work_pool_name=POOL
        )
    return bool(missing)


def deployments_digest() -> str:
    """sha256 of prefect.yaml, automations.yaml, the flows, whose signatures become forms, and the recipes' names."""
    flows = PROJECT / "flows"
    sources = [_DEPLOYMENTS, _AUTOMATIONS, *sorted(flows.glob("*.py"))]
    recipes = " ".join(sorted(path.stem for path in flows.glob("recipes/*.yaml")))  # choices of the forms
    return hashlib.sha256(b"\0".join([*(source.read_bytes() for source in sources), recipes.encode()])).hexdigest()


def schedules_active(client: "SyncPrefectClient") -> dict[Schedule, bool]:
    """Which schedules are switched on."""
    return {
        (deployment.id, schedule.slug): schedule.active
        for deployment in client.read_deployments()
        for schedule in deployment.schedules
    }


def restore_schedules(client: "SyncPrefectClient", active: Mapping[Schedule, bool]) -> None:
    """Switch each schedule to its state in `active`; one that is not in there keeps what prefect.yaml says."""
    for deployment in client.read_deployments():
        for schedule in deployment.schedules:
            state = active.get((deployment.id, schedule.slug), schedule.active)
            if schedule.id and state != schedule.active:
                client.update_deployment_schedule(deployment.id, schedule.id, active=state)


def read_automations() -> "list[AutomationCore]":
    """The automations of automations.yaml."""
    import yaml
    from prefect.events.schemas.automations import AutomationCore

    return [AutomationCore.model_validate(item) for item in yaml.safe_load(_AUTOMATIONS.read_text())["automations"]]


def write_automations(client: "SyncPrefectClient", automations: "list[AutomationCore]") -> None:
    """Create or replace each by its name; one that somebody switched off stays off."""
    for automation in automations:
        existing = client.read_automations_by_name(automation.name)
        if existing:
            enabled = existing[0].enabled
            client.update_automation(existing[0].id, automation.model_copy(update={"enabled": enabled}))
        else:
            client.create_automation(automation)


def write_notifications(client: "SyncPrefectClient", url: str) -> None:
    """Write the automations of notifications.yaml, which post {"text": ...} to `url`, as Slack's webhooks take it.

    The address is a secret of the notification block "naruto". PREFECT_API_URL must be the server of `client`.
    """
    import yaml
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.events.schemas.automations import AutomationCore
    from prefect.types import SecretDict

    text = {"text": "{{subject}}: {{body}}"}
    block = CustomWebhookNotificationBlock(
        name="naruto", url="{{url}}", json_data=text, secrets=SecretDict({"url": url})
    )
    action = {"type": "send-notification", "block_document_id": str(block.save("naruto", overwrite=True))}
    described = yaml.safe_load(_NOTIFICATIONS.read_text())["automations"]
    filled = [{**item, "actions": [action | {"subject": item["name"], **item["actions"][0]}]} for item in described]
    write_automations(client, [AutomationCore.model_validate(item) for item in filled])


def _prefect_deploy(environment: Mapping[str, str] | None) -> None:
    command = [*PREFECT, "deploy", "--all", "--prefect-file", str(_DEPLOYMENTS.relative_to(PROJECT))]
    process = subprocess.run(  # noqa: S603 (our own Python, fixed arguments)
        command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if process.returncode:
        print(process.stdout, process.stderr, sep="\n", file=sys.stderr)
        raise ServiceFailed(f"`prefect deploy` of {_DEPLOYMENTS} failed; its output is above.")


def _write_digest(client: "SyncPrefectClient", digest: str, *, exists: bool) -> None:
    from prefect.client.schemas.actions import VariableCreate, VariableUpdate

    if exists:
        client.update_variable(VariableUpdate(name=_DIGEST, value=digest))
    else:
        client.create_variable(VariableCreate(name=_DIGEST, value=digest))


def main() -> None:
    """Write everything to PREFECT_API_URL; one sentence and exit status 1 if that fails."""
    from json import JSONDecodeError

    from httpx import HTTPError  # Prefect's client raises both
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            deploy(client)
    except NarutoError as error:
        sys.exit(f"error: {error}")
    except JSONDecodeError:
        sys.exit("error: what answers is not Prefect's API: set PREFECT_API_URL to its address, which ends with /api.")
    except HTTPError as error:
        sys.exit(f"error: the Prefect server did not answer, so its deployments may be incomplete: {error}")


if __name__ == "__main__":
    main()
