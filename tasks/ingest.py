"""Ingest: a source becomes a checked, recorded dataset version."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from naruto_core.dataset.ingest import ingest as read_and_check
from naruto_core.dataset.versions import is_intact
from naruto_core.domain import DatasetVersion
from naruto_core.recipe_sections import DatasetSection
from tasks.context import task_context
from tasks.progress import reporter, say

SHOWN = 10


@task(cache_policy=NO_CACHE)
def ingest(section: DatasetSection) -> DatasetVersion:
    """Check every record of the source, store the pictures, write the version's table, remember it."""
    with task_context() as context:
        result = read_and_check(section, context.layout, reporter(), say)
        recorded = context.store.find_dataset(result.version.id)
        damaged = recorded is not None and not is_intact(context.layout, recorded)
        context.store.add_dataset(result.version, result.quarantined, replace=damaged)
    version = result.version
    say(
        f"dataset {version.id}: {version.n_pictures} kept ({version.n_train} train, {version.n_reference} reference), "
        f"{version.n_quarantined} quarantined, {version.n_duplicates} duplicates flagged"
    )
    for broken in result.quarantined[:SHOWN]:
        say(f"  left out: {broken.source} row {broken.row}: {broken.reason} ({broken.detail})")
    if len(result.quarantined) > SHOWN:
        say(f"  ... and {len(result.quarantined) - SHOWN} more; all of them are recorded with their reasons")
    return version
