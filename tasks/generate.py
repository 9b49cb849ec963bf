"""Generate: every prompt of the suite, every seed, by every variant; nothing cherry-picked."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL.Image import Image
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from naruto_core import sdxl
from naruto_core.artifacts import is_intact, link_or_copy, sha256_bytes, sha256_file
from naruto_core.domain import Adapter, FusedModel, Progress, Prompt, Sample, Variant
from naruto_core.fusion import load_adapters, load_fused, scaled_adapters
from naruto_core.generation import Job, Painter, sample_id, save_picture
from naruto_core.picture_cache import PictureCache
from naruto_core.prompts import insert_tokens
from naruto_core.refiner import BatchDrawing
from tasks.context import OpenRun, RunContext, run_context
from tasks.plan import samples_left, timed_phase
from tasks.progress import reporter, say


@dataclass(frozen=True, slots=True)
class _SampleRequest:
    """A sample of the run: who draws it, and what; `text` is what the text encoders read."""

    variant: Variant
    prompt: Prompt
    seed: int
    text: str

    @property
    def job(self) -> Job:
        return Job(self.text, self.seed)


def _task_name() -> str:
    """E.g. "generate base, adapted": what the task is called in Prefect."""
    opened: OpenRun = task_run.parameters["opened"]
    return f"generate {', '.join(opened.recipe.generation.variants)}"


@task(cache_policy=NO_CACHE, task_run_name=_task_name)
def generate(opened: OpenRun, adapters: Sequence[Adapter], fused: FusedModel | None) -> int:
    """Draw the samples of the run that are missing; the number of samples that exist then.

    The base model's pictures come from the picture cache: another run of this NARUTO_HOME may have drawn them. In
    prompts for the adapted and the fused model the words of `recipe.new_tokens` become the new tokens; the base model,
    which has none, reads them as they are.
    """
    with run_context(opened, "generate") as context, timed_phase(context, "samples", samples_left(context)):
        context.store.add_prompts(opened.id, context.suite)
        requests = _requests(context)
        missing = _missing(context, requests)
        counter = _Counter(len(requests), len(requests) - len(missing), reporter())
        for variant in dict.fromkeys(request.variant for request in missing):
            of_variant = [request for request in missing if request.variant is variant]
            if variant is Variant.BASE:
                _add_base_pictures(context, of_variant, counter)
            else:
                _draw_variant(context, variant, of_variant, adapters, fused, counter)
        return len(requests)


def _requests(context: RunContext) -> list[_SampleRequest]:
    """Every sample that the recipe asks for, variant by variant."""
    tokens = context.recipe.new_tokens
    return [
        _SampleRequest(
            Variant(variant), prompt, seed, prompt.text if variant == "base" else insert_tokens(prompt.text, tokens)
        )
        for variant in context.recipe.generation.variants
        for prompt in context.suite.prompts
        for seed in context.suite.seeds
    ]


def _missing(context: RunContext, requests: Sequence[_SampleRequest]) -> list[_SampleRequest]:
    """Those that are not recorded, or whose file is not the recorded one; says how many of these there are."""
    recorded = context.store.samples(context.run.id)
    intact = {
        (sample.variant, sample.prompt, sample.seed)
        for sample in recorded
        if is_intact(context.layout.absolute(sample.path), sample.sha256)
    }
    if lost := len(recorded) - len(intact):
        say(f"{lost} of {len(recorded)} samples are made again: their files are missing or altered")
    return [request for request in requests if (request.variant, request.prompt.slug, request.seed) not in intact]


def _add_base_pictures(context: RunContext, requests: Sequence[_SampleRequest], counter: "_Counter") -> None:
    """Record `requests`, all of the base model: those in the cache first, then the others, which are drawn."""
    section, steps = context.recipe.generation, context.recipe.generation.num_inference_steps
    cache = PictureCache(context.layout.picture_cache, context.recipe.model, section, context.device)
    found = cache.find(request.job for request in requests)
    in_cache = [request for request in requests if request.job in found]
    _link_samples(context, in_cache, found)
    counter.skip(len(in_cache))
    others = [request for request in requests if request.job not in found]
    report = partial(counter.step, Variant.BASE, steps)
    for drawn in cache.draw((request.job for request in others), report):
        batch = [request for request in others if request.job in drawn]
        _link_samples(context, batch, drawn)
        counter.finish(len(batch))


def _link_samples(context: RunContext, requests: Sequence[_SampleRequest], files: Mapping[Job, Path]) -> None:
    """Record the cached `files` as samples, with a name of their own in the folder of the run."""
    samples: list[Sample] = []
    for request in requests:
        path = _sample_path(context, request)
        link_or_copy(files[request.job], path)
        samples.append(_sample(context, request, path))
    context.store.add_samples(samples)


def _draw_variant(
    context: RunContext,
    variant: Variant,
    requests: Sequence[_SampleRequest],
    adapters: Sequence[Adapter],
    fused: FusedModel | None,
    counter: "_Counter",
) -> None:
    """Draw and record `requests`, all of `variant`; its model is freed on return, before the next one loads."""
    section, digest = context.recipe.generation, sha256_bytes("".join(a.sha256 for a in adapters).encode())
    folder = context.layout.latents(context.run.id, digest, variant)
    load = partial(load_painter, context, variant, adapters, fused)
    report = partial(counter.step, variant, section.num_inference_steps)
    jobs = list(dict.fromkeys(request.job for request in requests))
    for batch in BatchDrawing(section, context.device, folder).draw(load, jobs, report):
        pictures = dict(batch)
        drawn = [request for request in requests if request.job in pictures]
        context.store.add_samples([_save_sample(context, request, pictures[request.job]) for request in drawn])
        counter.finish(len(drawn))


def load_painter(
    context: RunContext, variant: Variant, adapters: Sequence[Adapter], fused: FusedModel | None
) -> Painter:
    """The model of `variant`, ready to draw."""
    recipe, root = context.recipe, context.layout.root
    section = recipe.generation
    if variant is Variant.FUSED:
        assert fused is not None  # imported pictures have no fused model, and no such variant
        return Painter(load_fused(root / fused.path, section.mixed_precision, context.device), section)
    pipeline = sdxl.load_pipeline(recipe.model, section.mixed_precision, context.device)
    if variant is Variant.ADAPTED:
        load_adapters(pipeline, scaled_adapters(root, recipe.fusion, adapters))
    return Painter(pipeline, section)


def _save_sample(context: RunContext, request: _SampleRequest, picture: Image) -> Sample:
    """Save a picture that was drawn for `request`; its record."""
    path = _sample_path(context, request)
    facts: dict[str, object] = {
        "run": context.run.id,
        "variant": request.variant,
        "prompt": request.text,
        "seed": request.seed,
    }
    save_picture(picture, path, facts | context.recipe.generation.drawing_options)
    return _sample(context, request, path)


def _sample_path(context: RunContext, request: _SampleRequest) -> Path:
    return context.layout.sample(context.run.id, _sample_id(context, request))


def _sample_id(context: RunContext, request: _SampleRequest) -> str:
    return sample_id(context.run.id, request.variant, request.prompt.slug, request.seed)


def _sample(context: RunContext, request: _SampleRequest, path: Path) -> Sample:
    """The record of the file at `path`."""
    return Sample(
        id=_sample_id(context, request),
        run_id=context.run.id,
        variant=request.variant,
        prompt=request.prompt.slug,
        seed=request.seed,
        path=context.layout.relative(path),
        sha256=sha256_file(path),
    )


class _Counter:
    """Progress over all batches, and within a batch: on a T4 one batch may take half a minute."""

    def __init__(self, total: int, done: int, report: Callable[[Progress], None]) -> None:
        self.total, self.done, self.first, self.report = total, done, done, report
        self.began = time.monotonic()

    def step(self, variant: Variant, steps: int, pictures: int, step: int) -> None:
        """`step` of `steps` steps of a batch of `pictures` is done."""
        self._report(self.done + pictures * step / (steps + 1), variant)

    def skip(self, pictures: int) -> None:
        """Count pictures that took no time."""
        self.first += pictures
        self.finish(pictures)

    def finish(self, pictures: int) -> None:
        self.done += pictures
        self._report(self.done, None)

    def _report(self, done: float, variant: Variant | None) -> None:
        elapsed = time.monotonic() - self.began
        left = elapsed / (done - self.first) * (self.total - done) if done > self.first else None
        self.report(Progress("generate", int(done), self.total, "picture", elapsed, left, variant or ""))
