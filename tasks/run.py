"""Open and close a run: the row that everything else belongs to."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from prefect import task

from naruto_core.artifacts import write_atomically
from naruto_core.domain import DatasetVersion, Run
from naruto_core.git_info import code_commit
from naruto_core.recipe import Recipe
from tasks.place import working_place
from tasks.reporting import duration, say


@task
def open_run(recipe: Recipe, datasets: Sequence[DatasetVersion]) -> Run:
    """The run of this recipe on these datasets: a new one, or the unfinished one to go on with."""
    resolved = recipe.model_dump_json(indent=2)
    with working_place() as place:
        run = place.store.open_run(
            profile=recipe.profile,
            recipe_json=resolved,
            fingerprint=_fingerprint(recipe, datasets),
            dataset_id=datasets[0].id,
            git_commit=code_commit(),
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


def _fingerprint(recipe: Recipe, datasets: Sequence[DatasetVersion]) -> str:
    """The recipe's own; of the other styles' dataset versions too, because the run itself names only the first."""
    if len(datasets) == 1:
        return recipe.fingerprint
    versions = " ".join(dataset.id for dataset in datasets[1:])
    return hashlib.sha256(f"{recipe.fingerprint} {versions}".encode()).hexdigest()
