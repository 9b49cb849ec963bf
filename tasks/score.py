"""Score: every metric of every variant, and the risks that scores do not show, from features that are kept."""

from importlib.metadata import version

from prefect import task

from naruto_core.domain import DatasetVersion, PromptSuite, Run, Score, Variant
from naruto_core.recipe import Recipe, ScoringSection
from naruto_core.scoring.evaluation import evaluate
from tasks.captions import find_caption_noise
from tasks.gather import gather
from tasks.place import working_on
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
