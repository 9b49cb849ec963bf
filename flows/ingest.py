"""Flow `ingest`: only the first step, to check a picture set before a run."""

from typing import Any

from prefect import flow

from flows.profiles import choose_recipe
from tasks.ingest import ingest
from tasks.truncation import say_long_captions


@flow(name="ingest", flow_run_name="ingest-{profile}", result_serializer="json")
def ingest_pictures(profile: str = "mini", dataset: str | None = None, overrides: dict[str, Any] | None = None) -> str:
    """Check and store a captioned picture set; the id of its version."""
    recipe = choose_recipe(profile, dataset, overrides)
    version = ingest(recipe.dataset)
    say_long_captions(recipe, version)
    return version.id
