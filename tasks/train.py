"""Train: draw the class pictures, encode everything once, fit the adapters, write them, remember them."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from naruto_core import sdxl
from naruto_core.adapter_file import check_loads, read_adapter
from naruto_core.artifacts import LORA_FILE, sha256_file
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import Adapter, Split, StepRecord
from naruto_core.errors import TrainingDiverged
from naruto_core.git_info import training_code_digest
from naruto_core.recipe_training import TrainingSection
from naruto_core.store.verification import adapter_fault
from naruto_core.telemetry.tracking import LogSteps, tracking
from naruto_core.training import distributed
from naruto_core.training.checkpoint_selection import best_steps
from naruto_core.training.loop import TrainingCallbacks
from naruto_core.training.step import OnPreview
from naruto_core.training.weights import Weights, write_files
from tasks.context import OpenRun, RunContext, run_context
from tasks.distributed import TrainingCall, training_processes
from tasks.plan import add_phase_time, class_pictures_left, encoded_rows, preview_base_left, timed_phase
from tasks.preflight import check_init_adapter, memory_plan
from tasks.previews import Preview
from tasks.progress import reporter, say
from tasks.pruning import begin_halving, run_task
from tasks.training_data import StyleSource, TrainingPictures, class_pictures, style_sources
from tasks.truncation import check_new_tokens, find_truncated_text, limit_of, prompt_sentence, read_captions


@run_task()
def train(opened: OpenRun) -> list[Adapter]:
    """Fit one LoRA adapter, or one for each style.

    An interrupted training goes on from its checkpoint; an adapter that is already trained is not trained again.
    """
    with run_context(opened, "train") as context:
        styles, names = style_sources(context.recipe, context.datasets), context.recipe.adapter_names
        heads = [[style] for style in styles] if len(names) > 1 else [styles]
        trained = _trained_heads(context)
        if trained != set(names):
            _warn_of_truncated_text(context)
            _warn_of_small_pictures(context)
            with _trackers(context) as track, training_processes(context, context.recipe.training.processes):
                for number, (head, name) in enumerate(zip(heads, names, strict=True)):
                    if name not in trained:
                        _train_head(context, head, name, partial(_record_steps, context, number, track))
        return context.store.adapters(context.run.id)


def _trackers(context: RunContext) -> AbstractContextManager[LogSteps]:
    settings, section = context.settings, context.recipe.training
    return tracking(settings.trackers, settings.mlflow_uri, context.layout, context.run, section, say)


def _trained_heads(context: RunContext) -> set[str]:
    """The heads whose adapter files are as they were recorded, and finite; the others are trained again."""
    faults: dict[str, list[str]] = {}
    for adapter in context.store.adapters(context.run.id):
        faults.setdefault(adapter.style, []).append(adapter_fault(context.layout, adapter))
    for fault in (fault for of_head in faults.values() for fault in of_head if fault):
        say(f"the adapter is trained again: {fault}")
    return {style for style, of_head in faults.items() if not any(of_head)}


def _warn_of_truncated_text(context: RunContext) -> None:
    """Recorded before training starts; scoring adds its own findings to it. RecipeInvalid for useless new tokens."""
    recipe = context.recipe
    captions = read_captions(context.layout, recipe, context.datasets)
    check_new_tokens(recipe, captions)
    finding = find_truncated_text(context.run.id, recipe, captions, context.suite, limit_of(recipe))
    context.store.add_findings(context.run.id, [finding])
    if finding.warning:
        say(f"warning: {finding.sentence}")
    if known := prompt_sentence(captions):
        say(known)


def _warn_of_small_pictures(context: RunContext) -> None:
    """Say how many training pictures are enlarged: the adapter learns their blur too."""
    side = context.recipe.training.resolution
    for dataset in context.datasets:
        pictures = [p for p in read_pictures(context.layout, dataset) if p.split is Split.TRAIN]
        small = [p for p in pictures if min(p.width, p.height) < side]
        if small:
            least = min(small, key=lambda p: min(p.width, p.height))
            say(
                f"warning: {len(small)} of {len(pictures)} training pictures of {dataset.source} are smaller than "
                f"{side} pixels and are enlarged, the smallest from {least.width} x {least.height}: bring larger ones, "
                "or set training.resolution."
            )


def _record_steps(context: RunContext, head: int, track: LogSteps, steps: list[StepRecord]) -> None:
    """Steps of several heads follow each other in the database."""
    offset = head * context.recipe.training.max_train_steps
    records = [replace(step, step=step.step + offset) for step in steps]
    context.store.add_steps(context.run.id, records)
    track(records)


def _train_head(
    context: RunContext, styles: Sequence[StyleSource], name: str, record_steps: Callable[[list[StepRecord]], None]
) -> None:
    """Train the adapter called `name` on `styles`, and record its files."""
    recipe, checkpoint = context.recipe, context.layout.checkpoint(context.run.id, name)
    section = (
        memory_plan(recipe, context.settings, context.device).section
        if recipe.training.fit_memory
        else (recipe.training)
    )
    section = _with_initial_weights(context, section)
    with timed_phase(context, "class pictures", class_pictures_left(context)):
        drawn = class_pictures(context) if section.prior and section.prior.kind == "class_images" else None
    # before the pipeline: the base that draws the control pictures is gone again when training's own is loaded
    with timed_phase(context, "preview base", preview_base_left(context)):
        preview = section.previews and Preview(context, styles, context.layout.previews(context.run.id, name))
    clock = _TrainingClock()
    pipeline = sdxl.load_pipeline(recipe.model, section.mixed_precision, context.device)
    with clock.encoding(context):
        stages = TrainingPictures(context, pipeline, recipe).stages(styles, drawn)
    call = TrainingCall(recipe, section, tuple(styles), drawn, checkpoint, _identity(context, styles))
    distributed.broadcast_job(call)
    halving = begin_halving(context, name)
    on_preview = halving.observed(clock.timed(partial(preview, pipeline))) if preview else None
    report = reporter(stoppable=False)  # the loop stops at its own safe point, after a checkpoint
    callbacks = TrainingCallbacks(
        report, clock.counted(record_steps), on_preview, halving.is_stop_requested, halving.stop
    )
    weights = call.train(pipeline, stages, context.settings.checkpoint_seconds, callbacks)
    clock.record(context)
    _check_finite(weights, checkpoint)
    files = write_files(pipeline, weights, context.layout.adapter(context.run.id, name).parent)
    context.store.add_adapters([_checked_adapter(context, section, name, path) for path in files])
    checkpoint.unlink(missing_ok=True)  # the adapter is safe: nothing is left to resume
    best = best_steps(context.store.steps(context.run.id), recipe.adapter_names, section.max_train_steps).get(name)
    if best:
        say(f"best{f' of {name}' if name else ''}: {best.reason}")


def _with_initial_weights(context: RunContext, section: TrainingSection) -> TrainingSection:
    """`section` with the path of init_adapter in this program's form: converted, and kept by its content."""
    lora = check_init_adapter(context.recipe)
    if lora is None:
        return section
    path = context.layout.cache(f"init-{lora.sha256[:24]}") / LORA_FILE
    lora.write(path, context.recipe.model)
    say(f"training starts from {lora.path.name}: {lora.modules} modules of rank {lora.ranks[1]}")
    return section.model_copy(update={"init_adapter": str(path)})


class _TrainingClock:
    """The time of a training since it was made, divided among encoding, steps and previews."""

    def __init__(self) -> None:
        self._began, self._encoding, self._previewing = time.monotonic(), 0.0, 0.0
        self._steps, self._previews = 0, 0

    @contextmanager
    def encoding(self, context: RunContext) -> Generator[None]:
        """The block encodes pictures; what is in the cache already is not counted."""
        before, began = encoded_rows(context.layout), time.monotonic()
        yield
        self._encoding = time.monotonic() - began
        add_phase_time(context, "encode", encoded_rows(context.layout) - before, self._encoding)

    def counted(self, record_steps: Callable[[list[StepRecord]], None]) -> Callable[[list[StepRecord]], None]:
        """`record_steps`, with a count of the steps of this process."""

        def record(steps: list[StepRecord]) -> None:
            self._steps += len(steps)
            record_steps(steps)

        return record

    def timed(self, preview: OnPreview) -> OnPreview:
        """`preview`, with its time measured."""

        def draw(steps: int, weights: Weights) -> Mapping[str, float]:
            began = time.monotonic()
            metrics = preview(steps, weights)
            self._previewing += time.monotonic() - began
            self._previews += 1
            return metrics

        return draw

    def record(self, context: RunContext) -> None:
        """The training is done: record its steps and its previews."""
        seconds = time.monotonic() - self._began - self._encoding - self._previewing
        add_phase_time(context, "train", self._steps, seconds, distributed.world_size())
        add_phase_time(context, "previews", self._previews, self._previewing)


def _checked_adapter(context: RunContext, section: TrainingSection, style: str, path: Path) -> Adapter:
    """The record of a file that was written; diffusers must load every tensor of a LoRA file into the base model."""
    if path.name == LORA_FILE:
        check_loads(context.recipe.model, path, read_adapter(path))
    relative = context.layout.relative(path)
    return Adapter(context.run.id, relative, sha256_file(path), section.rank, section.max_train_steps, style)


def _check_finite(weights: Weights, checkpoint: Path) -> None:
    """Raise TrainingDiverged when a weight is not a number. Nothing is left then: the same command begins anew."""
    lost = next((name for name, weight in weights.named.items() if not weight.isfinite().all()), "")
    if lost:
        checkpoint.unlink(missing_ok=True)
        raise TrainingDiverged(
            f"the trained weights are not numbers ({lost}): nothing was recorded; run the same command again, and if "
            "it ends the same way, lower training.learning_rate."
        )


def _identity(context: RunContext, styles: Sequence[StyleSource]) -> str:
    """What a checkpoint belongs to: recipe, base model, pictures and code."""
    recipe, pictures = context.run.fingerprint[:12], "+".join(style.dataset.id for style in styles)
    base = sdxl.identity(context.recipe.model)[:12]  # another model may lie at the same path
    return f"recipe {recipe}, base {base}, dataset {pictures}, code {training_code_digest()[:12]}"
