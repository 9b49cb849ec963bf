"""Publish: push the adapter to a model hub, when the recipe asks for it."""

import os

from huggingface_hub import HfApi
from prefect import task

from naruto_core.domain import Adapter, Run
from naruto_core.recipe import PublishSection
from tasks.place import working_on
from tasks.reporting import say


@task(retries=2, retry_delay_seconds=10)
def publish(run: Run, section: PublishSection, adapter: Adapter) -> str:
    """Upload the adapter's folder, private by default, and tag it with the run; the address, or ""."""
    if not section.push_to_hub or not section.hub_model_id:
        return ""
    with working_on(run, "publish") as place:
        api = HfApi(token=os.environ["HF_TOKEN"])
        address = api.create_repo(section.hub_model_id, private=section.private, exist_ok=True)
        folder = (place.layout.root / adapter.path).parent
        api.upload_folder(repo_id=section.hub_model_id, folder_path=folder, allow_patterns=["*.safetensors"])
        api.create_tag(section.hub_model_id, tag=run.id, exist_ok=True)
        say(f"pushed to {address}")
        return str(address)
