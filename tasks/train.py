"""Train: draw the class pictures, encode everything once, fit the adapters, write them, remember them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from prefect import task

from naruto_core import sdxl
from naruto_core.adapter_file import check_loads, read_adapter
from naruto_core.artifacts import LORA_FILE, sha256_file
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import Adapter, DatasetVersion, PromptSuite, Run, StepRecord
from naruto_core.errors import TrainingDiverged
from naruto_core.git_info import training_code
from naruto_core.recipe import Recipe
from naruto_core.store.verification import adapter_fault
from naruto_core.telemetry.tracking import LogSteps, tracking
from naruto_core.training import distributed
from naruto_core.training.checkpoint_selection import best_of_heads
from naruto_core.training.loop import Listeners
from naruto_core.training.weights import Weights, write_files
from tasks.context import TaskContext, working_on
from tasks.distributed import TrainingCall
from tasks.preflight import planned
from tasks.previews import CheckpointLook
from tasks.progress import reporter, say
from tasks.training_data import Material, StyleSource, class_pictures, style_sources
from tasks.truncation import find_truncated_text, limit_of, read_captions


@task
def train(run: Run, recipe: Recipe, datasets: Sequence[DatasetVersion], suite: PromptSuite) -> list[Adapter]:
    """Fit one LoRA adapter, or one for each style; goes on from checkpoints, and finds adapters already trained.

    `datasets` are those of the recipe's own style and of the others, in its order. `suite` gives the prompts that
    checkpoints are looked at with, when the recipe asks for it.
    """
    with working_on(run, "train") as place:
        styles = style_sources(recipe, datasets)
        names = recipe.heads
        heads = [[style] for style in styles] if len(names) > 1 else [styles]
        trained = _trained(place, run)
        if trained != set(names):
            _tell_truncated_text(place, run, recipe, datasets, suite)
            settings = place.settings
            with tracking(settings.trackers, settings.mlflow_uri, place.layout, run, recipe.training, say) as tell:
                for number, (head, name) in enumerate(zip(heads, names, strict=True)):
                    if name not in trained:
                        _fit(
                            place, run, recipe, suite, head, name, partial(_remember, place, run, recipe, number, tell)
                        )
        return place.store.adapters(run.id)


def _trained(place: TaskContext, run: Run) -> set[str]:
    """The heads whose adapter files are there as they were recorded, and hold numbers; others are trained again."""
    faults: dict[str, list[str]] = {}
    for adapter in place.store.adapters(run.id):
        faults.setdefault(adapter.style, []).append(adapter_fault(place.layout, adapter))
    for fault in (fault for of_head in faults.values() for fault in of_head if fault):
        say(f"the adapter is trained again: {fault}")
    return {style for style, of_head in faults.items() if not any(of_head)}


def _tell_truncated_text(
    place: TaskContext, run: Run, recipe: Recipe, datasets: Sequence[DatasetVersion], suite: PromptSuite
) -> None:
    """Kept on the run before anything is learnt; scoring adds its own findings to it."""
    captions = read_captions(place.layout, recipe, datasets)
    finding = find_truncated_text(run.id, recipe, captions, suite, limit_of(recipe))
    place.store.add_findings(run.id, [finding])
    if finding.warning:
        say(f"warning: {finding.sentence}")


def _remember(place: TaskContext, run: Run, recipe: Recipe, head: int, tell: LogSteps, steps: list[StepRecord]) -> None:
    """Steps of several heads stand one after the other in the record."""
    placed = [replace(step, step=step.step + head * recipe.training.max_train_steps) for step in steps]
    place.store.add_steps(run.id, placed)
    tell(placed)


def _fit(
    place: TaskContext,
    run: Run,
    recipe: Recipe,
    suite: PromptSuite,
    styles: Sequence[StyleSource],
    name: str,
    remember: Callable[[list[StepRecord]], None],
) -> None:
    """Train the adapter called `name` on `styles`, and record its files."""
    layout = place.layout
    section = planned(recipe, place.settings, place.device).section if recipe.training.fit_memory else recipe.training
    wanted = section.prior if section.prior and section.prior.kind == "class_images" else None
    drawn = wanted and class_pictures(place, recipe.model, wanted, recipe.generation, section.seed)
    looks, folder = section.checkpoints, layout.checkpoints(run.id, name)
    # before the pipeline: the base that draws the control pictures is gone again when training's own is loaded
    pictures = [picture for style in styles for picture in read_pictures(layout, style.dataset)]
    look = looks and CheckpointLook(place, recipe, looks, suite, pictures, folder)
    pipeline = sdxl.load_pipeline(recipe.model, section.mixed_precision, place.device)
    stages = Material(place, pipeline, recipe).stages(styles, drawn)
    call = TrainingCall(recipe, section, tuple(styles), drawn, layout.checkpoint(run.id, name), _identity(run, styles))
    distributed.call_followers(call)
    listeners = Listeners(reporter(), remember, look and partial(look, pipeline))
    weights = call.train(pipeline, stages, place.settings.checkpoint_seconds, listeners)
    _check_finite(weights, layout.checkpoint(run.id, name))
    files = write_files(pipeline, weights, layout.adapter(run.id, name).parent)
    for path in files:
        if path.name == LORA_FILE:  # what is recorded is what everybody's diffusers will draw with
            check_loads(recipe.model, path, read_adapter(path))
    adapters = [
        Adapter(run.id, layout.relative(path), sha256_file(path), section.rank, section.max_train_steps, name)
        for path in files
    ]
    place.store.add_adapters(adapters)
    layout.checkpoint(run.id, name).unlink(missing_ok=True)  # the adapter is safe: nothing is left to resume
    bests = best_of_heads(place.store.steps(run.id), recipe.heads, section.max_train_steps)
    if best := bests.get(name):
        say(f"best{f' of {name}' if name else ''}: {best.reason}")


def _check_finite(weights: Weights, checkpoint: Path) -> None:
    """Raise TrainingDiverged when a weight is not a number. Nothing is left then: the same command begins anew."""
    lost = next((name for name, weight in weights.named.items() if not weight.isfinite().all()), "")
    if lost:
        checkpoint.unlink(missing_ok=True)
        raise TrainingDiverged(
            f"the trained weights are not numbers ({lost}): nothing was recorded; run the same command again, and if "
            "it ends the same way, lower training.learning_rate."
        )


def _identity(run: Run, styles: Sequence[StyleSource]) -> str:
    """What a checkpoint belongs to: recipe, pictures and code."""
    pictures = "+".join(style.dataset.id for style in styles)
    return f"recipe {run.fingerprint[:12]}, dataset {pictures}, code {training_code()[:12]}"
