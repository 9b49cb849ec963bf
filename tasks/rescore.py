"""Rescore: a finished run's scores, computed again; without new pictures, and usually without a model."""

from prefect import task

from naruto_core.domain import RunState, Score
from naruto_core.errors import NotRecorded
from naruto_core.recipe import Recipe
from tasks.place import working_place
from tasks.reporting import say
from tasks.score import score


@task
def finished_runs(name: str | None) -> list[str]:
    """The run called `name`, or all runs that are done."""
    with working_place() as place:
        if name is not None:
            return [place.store.run(name).id]
        return [one.run.id for one in place.store.runs() if one.run.state is RunState.DONE]


@task(task_run_name="rescore-{run_id}")
def rescore_run(run_id: str) -> str:
    """Measure `run_id` again as its recipe says; a sentence that says which set scores moved."""
    with working_place() as place:
        run, suite = place.store.run(run_id), place.store.prompts(run_id)
        dataset = place.store.find_dataset(run.dataset_id)
        recipe = Recipe.model_validate_json(place.store.recipe_json(run_id))
        before = _set_scores(place.store.scores(run_id))
        if suite is None or dataset is None:
            raise NotRecorded(f"run {run_id} has no samples yet; finish it with  naruto run --recipe {run.profile}")
    score.fn(run, recipe, suite, dataset)
    with working_place() as place:
        after = _set_scores(place.store.scores(run_id))
    moved = [f"{m} {v} {before.get((m, v), float('nan')):.4g} -> {new:.4g}" for (m, v), new in after.items()
             if before.get((m, v)) != new]  # fmt: skip
    told = f"{run_id}: {', '.join(moved) if moved else 'nothing moved'}"
    say(told)
    return told


def _set_scores(scores: list[Score]) -> dict[tuple[str, str], float]:
    return {(s.metric, str(s.variant)): s.value for s in scores if s.sample_id is None}
