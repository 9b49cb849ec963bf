"""Flow `rescore`: measure finished runs again from their stored embeddings, and print what changed."""

from typing import Annotated

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from tasks.score import finished_runs, rescore_run

RunId = Annotated[str | None, Field(description="A run's id; empty: every finished run.")]


@flow(name="rescore", result_serializer="json", task_runner=ThreadPoolTaskRunner(max_workers=1))
def rescore(run: RunId = None) -> list[str]:
    """Compute every set score anew; the ids of the runs that were measured."""
    runs = finished_runs(run)
    rescore_run.map(runs).result()
    return runs
