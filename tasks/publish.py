"""Publish: push adapter, model card and pictures to a model hub, when the recipe asks for it."""

import os
from collections.abc import Sequence

from prefect import task

from naruto_core.domain import Adapter, Run
from naruto_core.hub import push_folder
from naruto_core.recipe import PublishSection
from tasks.assemble import assemble
from tasks.place import recording
from tasks.reporting import say


@task
def publish(run: Run, section: PublishSection, adapters: Sequence[Adapter]) -> str:
    """Push the run's folder, private by default, tagged with the run's id; its address, or "" when not asked to."""
    if not section.push_to_hub or not section.hub_model_id:
        return ""
    with recording(run, "publish") as place:
        folder = place.layout.published(run.id)
        assemble(place.store, place.layout, run, adapters, folder, for_comfyui=True)
        address = push_folder(folder, section.hub_model_id, section.private, run.id, hub_token())
    say(f"pushed to {address}")
    return address


def hub_token() -> str:
    """The hub's token from the environment, "" when there is none; it is handed on, never kept or shown."""
    return os.environ.get("HF_TOKEN", "").strip()
