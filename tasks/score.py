"""Score: every metric of every variant, and the risks; and a finished run's scores, computed again."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from math import isclose

from prefect import task
from prefect.cache_policies import NO_CACHE

from naruto_core.domain import Finding, RunState, Score, Variant
from naruto_core.recipe import Recipe
from naruto_core.scoring.evaluation import evaluate
from naruto_core.scoring.findings import FUSED_MODEL, MODEL_CHANGE
from tasks.captions import find_caption_noise
from tasks.context import OpenRun, RunContext, recorded_run, run_context, task_context
from tasks.features import run_features
from tasks.plan import pictures_to_score, timed_phase
from tasks.progress import say
from tasks.truncation import TRUNCATED_TEXT

_OF_OTHER_STEPS = (TRUNCATED_TEXT, FUSED_MODEL, MODEL_CHANGE)  # findings that scoring does not replace
SetScores = dict[tuple[str, str], float]  # by metric and variant
_OF_TRAINING = ("overfitting", "memorization")  # findings that compare with training pictures


@task(cache_policy=NO_CACHE)
def score(opened: OpenRun) -> int:
    """Measure the run; the number of scores recorded. Embeddings that exist are not computed again."""
    with run_context(opened, "score") as context, timed_phase(context, "score", pictures_to_score(context)):
        recipe, store = context.recipe, context.store
        evaluation = evaluate(run_features(context), context.suite, recipe.scoring, _score_template(context))
        store.add_scores(evaluation.scores)
        noise = find_caption_noise(context, opened.id, context.dataset, recipe)
        kept = [finding for finding in store.findings(opened.id) if finding.name in _OF_OTHER_STEPS]
        findings = [*evaluation.findings, noise, *kept]
        store.add_findings(opened.id, about_import(opened.id, recipe, findings) if recipe.imported else findings)
    return len(evaluation.scores)


def about_import(run_id: str, recipe: Recipe, findings: Sequence[Finding]) -> list[Finding]:
    """The findings of an imported run: what it is, and which of them take the dataset for what it was trained on."""
    assert recipe.imported is not None
    note = " Its training pictures are unknown: those of the dataset stand for them."
    return [
        Finding(run_id, "imported", False, recipe.imported.sentence),
        *(replace(f, sentence=f.sentence + note) if f.name in _OF_TRAINING else f for f in findings),
    ]


def _score_template(context: RunContext) -> Score:
    """What all scores of a run have in common; metric, variant and value are still to be filled in."""
    details: dict[str, str | float] = {
        "suite": context.suite.fingerprint,
        "seeds": ", ".join(str(seed) for seed in context.suite.seeds),
        "interval_seed": context.recipe.scoring.seed,
        "libraries": ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "torchmetrics")),
    }
    return Score(context.run.id, "", Variant.BASE, 0.0, 0.0, 0.0, 0, "", "", context.dataset.id, details=details)


@task(cache_policy=NO_CACHE)
def finished_runs(name: str | None) -> list[str]:
    """The id of the run called `name`, or those of all runs that are done."""
    with task_context() as context:
        if name is not None:
            return [context.store.run(name).id]
        return [summary.run.id for summary in context.store.runs() if summary.run.state is RunState.DONE]


@task(task_run_name="rescore-{run_id}", cache_policy=NO_CACHE)
def rescore_run(run_id: str) -> str:
    """Measure `run_id` again as its recipe says; a sentence that says which set scores changed."""
    with task_context() as context:
        opened = recorded_run(context, run_id)
        before = _set_scores(context.store.scores(run_id))
    score.fn(opened)
    with task_context() as context:
        after = _set_scores(context.store.scores(run_id))
    changes = score_changes(before, after)
    sentence = f"{run_id}: {', '.join(changes) if changes else 'nothing moved'}"
    say(sentence)
    return sentence


def score_changes(before: SetScores, after: SetScores) -> list[str]:
    """The scores that differ by more than rounding, in words; libraries and thread counts change the last digits."""
    return [
        f"{metric} {variant} new {value:.5g}" if old is None else f"{metric} {variant} {old:.5g} -> {value:.5g}"
        for (metric, variant), value in after.items()
        if (old := before.get((metric, variant))) is None or not isclose(old, value, rel_tol=1e-4, abs_tol=1e-6)
    ]


def _set_scores(scores: list[Score]) -> SetScores:
    return {(s.metric, str(s.variant)): s.value for s in scores if s.sample_id is None}
