"""A run: opened, closed, and presented as a contact sheet and a closing table."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from naruto_core.artifacts import remove_abandoned, sha256_file, write_atomically
from naruto_core.contact_sheet import SheetBlock, write_sheet
from naruto_core.domain import DatasetVersion, PromptSuite, Run, RunState, Variant, format_duration
from naruto_core.git_info import code_commit
from naruto_core.recipe import Recipe
from naruto_core.report.score_table import headline_table
from naruto_core.store.deletion import prune_cache
from tasks.context import OpenRun, run_context, task_context
from tasks.plan import announce_plan
from tasks.prefect_page import show_run_in_prefect, show_scores_in_prefect
from tasks.progress import say
from tasks.pruning import run_task
from tasks.run_lease import cpu_change, hold_run, release_run
from tasks.truncation import StyleCaptions, read_captions


@task(cache_policy=NO_CACHE)
def open_run(recipe: Recipe, suite: PromptSuite, datasets: Sequence[DatasetVersion]) -> OpenRun:
    """The run of this recipe on these datasets: a new run, or the unfinished one, which then continues."""
    resolved = recipe.model_dump_json(indent=2)
    with task_context() as context:
        captions = read_captions(context.layout, recipe, datasets) if recipe.training_section else []
        fingerprint = _fingerprint(recipe, datasets, captions)

        def open_recorded() -> Run:
            return context.store.open_run(
                profile=recipe.profile,
                recipe_json=resolved,
                fingerprint=fingerprint,
                dataset_id=datasets[0].id,
                git_commit=code_commit(),
                now=datetime.now(UTC),
            )

        run = open_recorded()
        if run.state is RunState.RUNNING and hold_run(context.store, context.settings, run.id, say):
            run = open_recorded()  # the other process may have finished it meanwhile
        if removed := remove_abandoned(context.layout.root):
            say(f"removed {len(removed)} unfinished files of processes that were killed")
        if pruned := prune_cache(context.layout, context.settings.cache_gib * 2**30):
            say(f"removed {pruned} old files from the cache, which had more than NARUTO_CACHE_GIB")
        show_run_in_prefect(run, datasets)
        write_atomically(context.layout.recipe(run.id), context.store.recipe_json(run.id).encode())
        say(f"run {run.id}")
        if run.state is RunState.RUNNING and (warning := cpu_change(context.store, run.id)):
            say(warning)
        announce_plan(context, run, recipe, suite, datasets)
    return OpenRun(run, recipe, suite, tuple(datasets))


@run_task()
def close_run(opened: OpenRun) -> Run:
    """Mark the run done."""
    with run_context(opened, "close", needs_device=False) as context:
        context.store.finish_run(opened.id, datetime.now(UTC))
        release_run(context.store, context.settings, opened.id)
        run, seconds = context.store.run(opened.id), context.store.worked_seconds(opened.id)
    if seconds is not None:
        say(f"run {run.id} done in {format_duration(seconds)}")
    return run


@run_task()
def present(opened: OpenRun) -> str:
    """Lay out the first seed of every prompt, base beside adapted; the path of the contact sheet."""
    with run_context(opened, "present", needs_device=False) as context:
        store, layout, suite = context.store, context.layout, opened.suite
        samples = [s for s in store.samples(opened.id) if s.seed == suite.seeds[0]]
        paths = {(s.prompt, s.variant): layout.root / s.path for s in samples}
        variants = [v for v in Variant if any(s.variant is v for s in samples)]
        blocks = [SheetBlock(p.text, tuple(paths.get((p.slug, v)) for v in variants)) for p in suite.prompts]
        sheet = layout.contact_sheet(opened.id)
        write_sheet(blocks, [str(variant) for variant in variants], sheet)
        scores, findings = store.scores(opened.id, of_samples=False), store.findings(opened.id)
        warnings = [finding for finding in findings if finding.warning]
        show_scores_in_prefect(opened.run, scores, warnings, sheet, context.settings.dashboard)
    warning_lines = "".join(f"\nwarning    {finding.name}: {finding.sentence}" for finding in warnings)
    next_steps = f"all of it  naruto scores {opened.id} --all\nlook at    {sheet}\nthen type  make dashboard"
    say(f"\n{headline_table(scores, findings)}\n{warning_lines}\n\n{next_steps}\n")
    return str(sheet)


def _fingerprint(recipe: Recipe, datasets: Sequence[DatasetVersion], captions: Sequence[StyleCaptions] = ()) -> str:
    """The recipe's own; of the other styles' dataset versions too, because the run itself names only the first; and of
    the adapter that training starts from, because the recipe has only its path. Another one where a caption begins with
    the instance prompt: earlier versions trained those with the prompt twice, which is another run.
    """
    parts = [dataset.id for dataset in datasets[1:]]
    if recipe.training_section and recipe.training.init_adapter:
        parts.append(sha256_file(Path(recipe.training.init_adapter).expanduser()))
    if any(style.n_with_prompt for style in captions):
        parts.append("instance prompt once")
    return hashlib.sha256(" ".join([recipe.fingerprint, *parts]).encode()).hexdigest() if parts else recipe.fingerprint
