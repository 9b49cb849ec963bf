"""A run: opened, closed, and presented as a contact sheet and a closing table."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from prefect import task

from naruto_core.artifacts import write_atomically
from naruto_core.contact_sheet import SheetBlock, write_sheet
from naruto_core.domain import HEADLINE_METRICS, DatasetVersion, PromptSuite, Run, Score, Variant, format_duration
from naruto_core.git_info import code_commit
from naruto_core.recipe import Recipe
from naruto_core.report.tables import interval_text
from tasks.context import working_place
from tasks.progress import say


@task
def present(run: Run, suite: PromptSuite) -> str:
    """Lay out the first seed of every prompt, base beside adapted beside fused; the sheet's path."""
    with working_place() as place:
        samples = [s for s in place.store.samples(run.id) if s.seed == suite.seeds[0]]
        paths = {(s.prompt, s.variant): place.layout.root / s.path for s in samples}
        variants = [v for v in Variant if any(s.variant is v for s in samples)]
        blocks = [SheetBlock(p.text, tuple(paths.get((p.slug, v)) for v in variants)) for p in suite.prompts]
        sheet = place.layout.contact_sheet(run.id)
        write_sheet(blocks, [str(variant) for variant in variants], sheet)
        scores = [s for s in place.store.scores(run.id) if s.sample_id is None and s.metric in HEADLINE_METRICS]
        findings = [finding for finding in place.store.findings(run.id) if finding.warning]
    warnings = "".join(f"\nwarning    {finding.name}: {finding.sentence}" for finding in findings)
    more = f"all of it  naruto scores {run.id}\nlook at    {sheet}\nthen type  make dashboard"
    say(f"\n{table(scores)}{warnings}\n\n{more}\n")
    return str(sheet)


def table(scores: list[Score]) -> str:
    """Set scores and means as aligned text, one line each, with interval, n and ruler."""
    lines = [f"{'metric':<19} {'model':<8} {'value':>8}   {'95 % interval':<18} {'n':>4}  measured by"]
    for one in sorted(scores, key=lambda s: (s.metric, list(Variant).index(s.variant))):
        digits = 1 if one.metric == "fid" else 3
        interval = interval_text(one.interval, f".{digits}f")
        ruler = f"{one.extractor}, {one.version}"
        lines.append(f"{one.metric:<19} {one.variant:<8} {one.value:>8.{digits}f}   {interval:<18} {one.n:>4}  {ruler}")
    return "\n".join(lines)


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
        say(f"run {run.id} done in {format_duration((done.finished_at - done.started_at).total_seconds())}")
    return done


def _fingerprint(recipe: Recipe, datasets: Sequence[DatasetVersion]) -> str:
    """The recipe's own; of the other styles' dataset versions too, because the run itself names only the first."""
    if len(datasets) == 1:
        return recipe.fingerprint
    versions = " ".join(dataset.id for dataset in datasets[1:])
    return hashlib.sha256(f"{recipe.fingerprint} {versions}".encode()).hexdigest()
