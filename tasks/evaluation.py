"""Evaluation: all scores and findings of a run, recorded; and those of a finished run, computed again.

Nothing here needs Prefect, so that `naruto rescore` starts without it; the tasks of the flows are in `score.py`; what
a run needs that did not change is in `rescore.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version

from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import Finding, RunState, Score, Variant
from naruto_core.recipe import Recipe
from naruto_core.report.score_table import with_changes
from naruto_core.scoring.evaluation import evaluate
from naruto_core.scoring.feature_set import RunFeatures
from naruto_core.scoring.features import load_extractor
from naruto_core.scoring.findings import FUSED_MODEL, MODEL_CHANGE, TRUNCATED_FOR_SCORES, TRUNCATED_TEXT
from naruto_core.store.scores_digest import write_scores_digest
from tasks.captions import find_caption_noise
from tasks.compare import compare_sides, side_of
from tasks.context import RunContext, TaskContext, recorded_run, task_context, with_run
from tasks.features import run_features
from tasks.results import keep_recorded_scores, recorded_scores_are_current

SetScores = dict[tuple[str, str], float]  # by metric and variant
_OF_TRAINING = ("overfitting", "memorization")  # findings that compare with training pictures
_KEPT = (TRUNCATED_TEXT, TRUNCATED_FOR_SCORES, FUSED_MODEL, MODEL_CHANGE)  # findings that are recorded once


def evaluate_run(context: RunContext) -> int:
    """Measure the run; the number of scores recorded. Embeddings that exist are not computed again."""
    recipe, store, run_id = context.recipe, context.store, context.run.id
    features = run_features(context, risks=True)
    evaluation = evaluate(features, context.suite, recipe.scoring, _score_template(context))
    store.add_scores(_with_changes(context, features, evaluation.scores))
    recorded = store.scores(run_id)
    write_scores_digest(context.layout, run_id, recorded)
    noise = find_caption_noise(context, run_id, context.dataset, recipe)
    kept = [finding for finding in store.findings(run_id) if finding.name in _KEPT]
    if not any(finding.name == TRUNCATED_FOR_SCORES for finding in kept):
        kept.append(_find_text_beyond_scores(context))
    findings = [*evaluation.findings, noise, *kept]
    store.add_findings(run_id, about_import(run_id, recipe, findings) if recipe.imported else findings)
    keep_recorded_scores(context.layout, store, context.run, recorded)
    return len(evaluation.scores)


def _with_changes(context: RunContext, features: RunFeatures, scores: Sequence[Score]) -> list[Score]:
    """The adapted model's scores with what the adapter changed: the paired difference from the base."""
    if not {Variant.BASE, Variant.ADAPTED} <= features.samples.keys():
        return list(scores)
    base, adapted = (side_of(context, v.value, v, features) for v in (Variant.BASE, Variant.ADAPTED))
    return with_changes(scores, compare_sides(context.layout, base, adapted, context.recipe.scoring))


def _find_text_beyond_scores(context: RunContext) -> Finding:
    """Prompts and captions that the CLIP scores see only in part: a finding that is recorded once, as texts stay."""
    from tasks.truncation import find_text_beyond_scores  # imports the tokenizers

    extractor = load_extractor(context.recipe.scoring.pair_extractor, lambda: context.device)
    captions = {picture.caption for picture in read_pictures(context.layout, context.dataset)}
    texts = {"prompts": [prompt.text for prompt in context.suite.prompts], "captions": sorted(captions)}
    return find_text_beyond_scores(context.run.id, extractor, texts)


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


def runs_to_rescore(context: TaskContext, name: str | None) -> list[str]:
    """The id of the run called `name`, or those of all runs that are done."""
    if name is not None:
        return [context.store.run(name).id]
    return [summary.run.id for summary in context.store.runs() if summary.run.state is RunState.DONE]


def measure_again(name: str) -> str:
    """Measure the run called `name` as its recipe says, unless nothing changed; a sentence that says which set scores
    did."""
    with task_context() as machine:
        context = with_run(machine, recorded_run(machine, name))
        layout, store, run = context.layout, context.store, context.run
        before = store.scores(run.id)
        if recorded_scores_are_current(layout, store, run, before):
            write_scores_digest(layout, run.id, before)  # where that file was altered
            after = before
        else:
            evaluate_run(context)
            after = store.scores(run.id)
    changes = score_changes(_set_scores(before), _set_scores(after))
    return f"{run.id}: {', '.join(changes) if changes else 'nothing moved'}"


def score_changes(before: SetScores, after: SetScores) -> list[str]:
    """The scores that differ by more than rounding, in words; libraries and thread counts change the last digits."""
    return [
        f"{metric} {variant} new {value:.5g}" if old is None else f"{metric} {variant} {old:.5g} -> {value:.5g}"
        for (metric, variant), value in after.items()
        if (old := before.get((metric, variant))) is None or not math.isclose(old, value, rel_tol=1e-4, abs_tol=1e-6)
    ]


def _set_scores(scores: Sequence[Score]) -> SetScores:
    return {(s.metric, str(s.variant)): s.value for s in scores if s.sample_id is None}
