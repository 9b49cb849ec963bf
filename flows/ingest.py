"""Flow `ingest`: only the first step, for whoever wants to see what a picture set is like."""

from typing import Any

from prefect import flow

from flows.profiles import choose_recipe
from tasks.ingest import ingest


@flow(name="ingest", flow_run_name="ingest-{profile}", result_serializer="json")
def ingest_pictures(profile: str = "mini", dataset: str | None = None, overrides: dict[str, Any] | None = None) -> str:
    """Check and store a captioned picture set; the id of its version."""
    return ingest(choose_recipe(profile, dataset, overrides).dataset).id
