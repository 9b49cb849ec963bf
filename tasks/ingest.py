"""Ingest: a source becomes a checked, recorded dataset version."""

from typing import Any

from prefect import State, task
from prefect.cache_policies import NO_CACHE

from naruto_core.dataset.ingest import ingest as read_and_check
from naruto_core.dataset.shared_versions import publish_version
from naruto_core.dataset.versions import check_table_folder, is_intact
from naruto_core.domain import DatasetVersion
from naruto_core.recipe_sections import DatasetSection
from naruto_core.settings import read_settings
from tasks.context import task_context
from tasks.progress import reporter, say

SHOWN = 10


def hub_may_recover(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether a failed ingest is tried again: only where the hub or the network failed in a way that may pass."""
    from naruto_core.hub import explain_error

    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and explain_error(error).retryable


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[3, 10], retry_condition_fn=hub_may_recover)
def ingest(section: DatasetSection) -> DatasetVersion:
    """Check every record of the source, store the pictures, write the version's table, remember it."""
    check_table_folder(read_settings().root)  # before the database, so that nothing is left there
    with task_context() as context:
        shared = bool(context.settings.store)
        result = read_and_check(section, context.layout, reporter(), say, table_per_version=shared)
        publish_version(context.layout, result.version)
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
