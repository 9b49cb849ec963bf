"""Publish: push the adapter to a model hub, when the recipe asks for it."""

import os
from collections.abc import Sequence

from prefect import task

from naruto_core.domain import Adapter, Run
from naruto_core.export import push_adapter
from naruto_core.recipe import PublishSection
from tasks.place import working_on
from tasks.reporting import say


@task(retries=2, retry_delay_seconds=10)
def publish(run: Run, section: PublishSection, adapters: Sequence[Adapter]) -> str:
    """Upload the adapter, private by default, tagged with the run's id; its address, or "" when not asked to."""
    if not section.push_to_hub or not section.hub_model_id:
        return ""
    with working_on(run, "publish") as place:
        folder = (place.layout.root / adapters[0].path).parent
        address = push_adapter(folder, section.hub_model_id, section.private, run.id, os.environ["HF_TOKEN"])
    say(f"pushed to {address}")
    return address
