"""Score: every metric of every variant, and the risks; and a finished run's scores, computed again."""

from importlib.metadata import version

from prefect import task

from naruto_core.domain import DatasetVersion, PromptSuite, Run, RunState, Score, Variant
from naruto_core.errors import NotRecorded
from naruto_core.recipe import Recipe, ScoringSection
from naruto_core.scoring.evaluation import evaluate
from tasks.captions import find_caption_noise
from tasks.context import working_on, working_place
from tasks.features import gather
from tasks.progress import say
from tasks.truncation import TRUNCATED_TEXT


@task
def score(run: Run, recipe: Recipe, suite: PromptSuite, dataset: DatasetVersion) -> int:
    """Measure the run; the number of scores kept. Embeddings that are already there are not computed again."""
    with working_on(run, "score") as place:
        features = gather(place, run, recipe, suite, dataset)
        found = evaluate(features, suite, recipe.scoring, _ruler(run, recipe.scoring, suite, dataset.id))
        place.store.add_scores(found.scores)
        noise = find_caption_noise(place, run.id, dataset, recipe)
        of_texts = [finding for finding in place.store.findings(run.id) if finding.name == TRUNCATED_TEXT]
        place.store.add_findings(run.id, [*found.findings, noise, *of_texts])
    return len(found.scores)


def _ruler(run: Run, section: ScoringSection, suite: PromptSuite, reference: str) -> Score:
    """What all scores of a run have in common; the rest is still to be measured."""
    details: dict[str, str | float] = {
        "suite": suite.fingerprint,
        "seeds": ", ".join(str(seed) for seed in suite.seeds),
        "interval_seed": section.seed,
        "libraries": ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "torchmetrics")),
    }
    return Score(run.id, "", Variant.BASE, 0.0, 0.0, 0.0, 0, "", "", reference, details=details)


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
