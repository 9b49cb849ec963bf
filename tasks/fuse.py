"""Fuse: the adapter goes into the base weights; and a check that the fused model draws what the adapted model draws."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from naruto_core import sdxl
from naruto_core.artifacts import is_intact_folder, sha256_of_all
from naruto_core.domain import Adapter, FusedModel, Sample, Variant
from naruto_core.fusion import fuse_adapters, load_fused, scaled_adapters
from naruto_core.generation import Job, Painter
from naruto_core.prompts import insert_tokens
from naruto_core.refiner import BatchDrawing
from naruto_core.scoring.findings import FUSED_MODEL, find_fused_difference
from tasks.context import OpenRun, RunContext, run_context
from tasks.plan import timed_phase
from tasks.progress import say, unit_reporter
from tasks.pruning import run_task

Pixels = NDArray[np.uint8]


@run_task()
def fuse(opened: OpenRun, adapters: Sequence[Adapter]) -> FusedModel:
    """Merge the adapters, each at the recipe's scale, into a model for plain diffusers.

    A fused model that is already there, as it was recorded, is not made again.
    """
    with run_context(opened, "fuse") as context:
        run, recipe = context.run, context.recipe
        recorded, folder = context.store.find_fused(run.id), context.layout.fused(run.id)
        if recorded and is_intact_folder(folder, recorded.sha256):
            return recorded
        if recorded:
            say(f"the fused model is made again: a file in {folder} is missing or altered")
        with timed_phase(context, "fuse", 1):
            pipeline = sdxl.load_pipeline(recipe.model, recipe.weights_precision, context.device)
            fuse_adapters(pipeline, scaled_adapters(context.layout.root, recipe.fusion, adapters), folder)
        fused = FusedModel(run.id, context.layout.relative(folder), sha256_of_all(folder), recipe.fusion.lora_scale)
        context.store.add_fused(fused)
        say(f"fused model at {folder}")
        return fused


@run_task()
def check_fused(opened: OpenRun, fused: FusedModel) -> None:
    """Compare pictures of the fused model with the adapted model's of the same prompts and seeds; record the finding.

    Where the recipe draws samples of the fused model, all of them are compared; else `fusion.check_pictures` pictures
    are drawn for this and not kept. Nothing is done where the recipe asks for none, or draws no adapted samples, or the
    finding is recorded: it is deleted with the model that it is about.
    """
    with run_context(opened, "check fused") as context:
        store, run_id = context.store, context.run.id
        adapted = store.samples(run_id, Variant.ADAPTED)
        is_recorded = any(finding.name == FUSED_MODEL for finding in store.findings(run_id))
        if is_recorded or not adapted or not context.recipe.fusion.check_pictures:
            return
        samples = {(sample.prompt, sample.seed): sample for sample in store.samples(run_id, Variant.FUSED)}
        pairs = (
            _sample_pairs(context, adapted, samples)
            if samples
            else _drawn_pairs(context, _spread(context, adapted), fused)
        )
        with timed_phase(context, "fused check", 0 if samples else len(_spread(context, adapted))):
            differences = [np.abs(first.astype(np.int16) - second) for first, second in pairs]
        largest, mean = ([float(reduce(d)) for d in differences] for reduce in (np.max, np.mean))
        finding = find_fused_difference(run_id, largest, mean)
        store.add_finding(finding)
        if finding.warning:
            say(f"warning: {finding.sentence}")


def _spread(context: RunContext, samples: Sequence[Sample]) -> list[Sample]:
    """At most `fusion.check_pictures` of `samples`, evenly spaced over prompts and seeds."""
    count = min(context.recipe.fusion.check_pictures, len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]


def _sample_pairs(
    context: RunContext, adapted: Sequence[Sample], fused: dict[tuple[str, int], Sample]
) -> Iterator[tuple[Pixels, Pixels]]:
    """The pixels (H, W, 3) of the adapted and the fused model, for each prompt and seed that both drew."""
    for sample in adapted:
        if other := fused.get((sample.prompt, sample.seed)):
            yield _pixels(context, sample), _pixels(context, other)


def _drawn_pairs(context: RunContext, adapted: Sequence[Sample], fused: FusedModel) -> Iterator[tuple[Pixels, Pixels]]:
    """The pixels (H, W, 3) of `adapted`, and of what the fused model draws for the same prompts and seeds."""
    section, tokens = context.recipe.generation, context.recipe.new_tokens
    texts = {prompt.slug: insert_tokens(prompt.text, tokens) for prompt in context.suite.prompts}
    by_job = {Job(texts[sample.prompt], sample.seed): sample for sample in adapted}
    report_count, done = unit_reporter("check", len(by_job), "picture"), 0

    def load_painter() -> Painter:
        folder = context.layout.absolute(fused.path)
        return Painter(load_fused(folder, section.mixed_precision, context.device), section)

    latents = context.layout.latents(context.run.id, fused.sha256, Variant.FUSED)
    for batch in BatchDrawing(section, context.device, latents).draw(load_painter, list(by_job)):
        done += len(batch)
        report_count(done)
        for job, picture in batch:
            yield _pixels(context, by_job[job]), np.asarray(picture)


def _pixels(context: RunContext, sample: Sample) -> Pixels:
    path: Path = context.layout.absolute(sample.path)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
