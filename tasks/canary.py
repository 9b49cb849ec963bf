"""Canary: draw a few of a promoted run's samples again, and compare them with the recorded ones.

Served pictures differ from a run's samples when the model changes, and also when people ask for other things. The same
prompts and seeds, drawn again, differ only when the model does: its files, the libraries, or the device.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from naruto_core.artifacts import sha256_bytes
from naruto_core.domain import Finding, Sample, Variant
from naruto_core.errors import NarutoError
from naruto_core.generation import Job
from naruto_core.prompts import insert_tokens
from naruto_core.refiner import BatchDrawing
from naruto_core.scoring.findings import find_model_change
from naruto_core.store.database import open_database
from naruto_core.store.promotions import CHAMPION
from tasks.context import RunContext, TaskContext, exclusive_device, recorded_run, task_context, with_run
from tasks.generate import load_painter
from tasks.progress import say, unit_reporter


@task(cache_policy=NO_CACHE)
def check_canaries() -> list[str]:
    """Compare the canary pictures of the promoted run; a sentence, and an event if the model has changed.

    The finding is recorded with the run. Without a promoted run, or where its pictures cannot be drawn or read (which
    is reported), there is no sentence.
    """
    with task_context() as context:
        if not context.settings.canary_pictures:
            return []
        with open_database(context.settings.database_url).ratings as ratings:
            promotions = ratings.promotions(CHAMPION)
        if not promotions:
            return []
        run_id = promotions[0].run_id
        try:
            finding = _check_run(context, run_id)
        except (NarutoError, OSError) as error:
            say(f"{run_id}: canary pictures cannot be compared: {error}")
            return []
    sentence = f"{run_id}: {finding.sentence}"
    say(sentence)
    if finding.warning:
        resource = {"prefect.resource.id": f"naruto.run.{run_id}", "prefect.resource.name": run_id}
        emit_event("naruto.quality.model_changed", resource, payload={"sentence": finding.sentence})
    return [sentence]


def _check_run(context: TaskContext, run_id: str) -> Finding:
    opened = recorded_run(context, run_id)
    run, expected = with_run(context, opened), context.settings.canary_pictures
    with exclusive_device(context, f"canary {run_id}"):
        samples = _canaries(run, expected)
        pictures = _draw(run, samples)
    finding = find_model_change(run_id, _differences(run, samples, pictures), expected)
    context.store.add_finding(finding)
    return finding


def _canaries(context: RunContext, count: int) -> list[Sample]:
    """At most `count` samples of the adapted model, evenly spaced over prompts and seeds: the same ones each time."""
    samples = sorted(
        context.store.samples(context.run.id, Variant.ADAPTED), key=lambda sample: (sample.prompt, sample.seed)
    )
    if not samples:
        raise NarutoError("the run has no samples of the adapted model: add adapted to generation.variants.")
    count = min(count, len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]


def _draw(context: RunContext, samples: Sequence[Sample]) -> list[NDArray[np.uint8]]:
    """The pixels (H, W, 3) of what the run's model draws now for the prompts and seeds of `samples`."""
    adapters, tokens = context.store.adapters(context.run.id), context.recipe.new_tokens
    texts = {prompt.slug: insert_tokens(prompt.text, tokens) for prompt in context.suite.prompts}
    jobs = [Job(texts[sample.prompt], sample.seed) for sample in samples]
    report, drawn = unit_reporter("canary", len(jobs), "picture"), dict[Job, NDArray[np.uint8]]()
    digest = sha256_bytes(("canary" + "".join(adapter.sha256 for adapter in adapters)).encode())
    drawing = BatchDrawing(
        context.recipe.generation, context.device, context.layout.latents(context.run.id, digest, Variant.ADAPTED)
    )
    for batch in drawing.draw(lambda: load_painter(context, Variant.ADAPTED, adapters, None), jobs):
        drawn |= {job: np.asarray(picture) for job, picture in batch}
        report(len(drawn))
    return [drawn[job] for job in jobs]


def _differences(context: RunContext, samples: Sequence[Sample], pictures: Sequence[NDArray[np.uint8]]) -> list[float]:
    """The mean absolute difference of the pixels of each picture from its sample, in grey levels from 0 to 255."""
    differences: list[float] = []
    for sample, drawn in zip(samples, pictures, strict=True):
        with Image.open(context.layout.absolute(sample.path)) as picture:
            recorded = np.asarray(picture.convert("RGB"))
        differences.append(float(np.abs(drawn.astype(np.int16) - recorded).mean()))
    return differences
