"""Score: the tasks of the flows that measure a run, or finished runs again."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.context import OpenRun, run_context, task_context
from tasks.evaluation import evaluate_run, rescore, runs_to_rescore
from tasks.plan import pictures_to_score, timed_phase


@task(cache_policy=NO_CACHE)
def score(opened: OpenRun) -> int:
    """Measure the run; the number of scores recorded. Embeddings that exist are not computed again."""
    with run_context(opened, "score") as context, timed_phase(context, "score", pictures_to_score(context)):
        return evaluate_run(context)


@task(cache_policy=NO_CACHE)
def finished_runs(name: str | None) -> list[str]:
    """The id of the run called `name`, or those of all runs that are done."""
    with task_context() as context:
        return runs_to_rescore(context, name)


@task(task_run_name="rescore-{run_id}", cache_policy=NO_CACHE)
def rescore_run(run_id: str) -> str:
    """Measure `run_id` again as its recipe says; a sentence that says which set scores changed."""
    return rescore(run_id)
