"""Flow `rescore`: measure finished runs again from their stored embeddings, and print what changed."""

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.score import finished_runs, rescore_run


@flow(name="rescore", result_serializer="json", task_runner=ThreadPoolTaskRunner(max_workers=1))
def rescore(run: str | None = None) -> list[str]:
    """Compute every set score anew; the ids of the runs that were measured.

    Args:
        run: The id of a run; empty: every finished run.
    """
    runs = finished_runs(run)
    rescore_run.map(runs).result()
    return runs
