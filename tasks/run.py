"""Open and close a run: the row that everything else belongs to."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

from prefect import task

from naruto_core.artifacts import write_atomically
from naruto_core.domain import DatasetVersion, Run
from naruto_core.recipe import Recipe
from tasks.place import working_place
from tasks.reporting import duration, say


def _commit() -> str:
    """The commit of this checkout, "" outside one."""
    here = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)  # noqa: S607
    return found.stdout.strip()


@task
def open_run(recipe: Recipe, dataset: DatasetVersion) -> Run:
    """The run of this recipe on this dataset: a new one, or the unfinished one to go on with."""
    resolved = recipe.model_dump_json(indent=2)
    with working_place() as place:
        run = place.store.open_run(
            profile=recipe.profile,
            recipe_json=resolved,
            fingerprint=recipe.fingerprint,
            dataset_id=dataset.id,
            git_commit=_commit(),
            now=datetime.now(UTC),
        )
        write_atomically(place.layout.recipe(run.id), resolved.encode())
    say(f"run {run.id}")
    return run


@task
def close_run(run: Run) -> Run:
    """Mark the run done."""
    with working_place() as place:
        place.store.finish_run(run.id, datetime.now(UTC))
        done = place.store.run(run.id)
    if done.finished_at:
        say(f"run {run.id} done in {duration((done.finished_at - done.started_at).total_seconds())}")
    return done
