"""Generate: every prompt of the suite, every seed, by every variant; nothing cherry-picked."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL.Image import Image
from prefect.runtime import task_run

from naruto_core import sdxl
from naruto_core.artifacts import is_intact, link_or_copy, sha256_bytes, sha256_file
from naruto_core.domain import Adapter, FusedModel, Progress, Prompt, Sample, Variant
from naruto_core.errors import GO_ON, StorageFailed
from naruto_core.fusion import load_adapters, load_fused, scaled_adapters
from naruto_core.generation import Job, Painter, sample_id, save_picture
from naruto_core.picture_cache import PictureCache
from naruto_core.prompts import insert_tokens
from naruto_core.refiner import BatchDrawing
from naruto_core.settings import read_settings
from tasks.context import OpenRun, RunContext, run_context, with_run
from tasks.plan import add_phase_time, samples_left, timed_phase
from tasks.progress import reporter, say
from tasks.pruning import run_task
from tasks.shards import (
    Conditions,
    conditions_of,
    in_batches,
    open_cluster,
    plan_shards,
    scheduler_address,
    shard_task,
    worker_context,
)
from tasks.sharing import fetch_models, fetch_sources, publish_samples


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """A sample of the run: who draws it, and what; `text` is what the text encoders read."""

    variant: Variant
    prompt: Prompt
    seed: int
    text: str

    @property
    def job(self) -> Job:
        return Job(self.text, self.seed)


@dataclass(frozen=True, slots=True)
class Models:
    """What the variants other than the base are drawn with; imported pictures have no fused model."""

    adapters: tuple[Adapter, ...]
    fused: FusedModel | None


def _task_name() -> str:
    """E.g. "generate base, adapted": what the task is called in Prefect."""
    opened: OpenRun = task_run.parameters["opened"]
    return f"generate {', '.join(opened.recipe.generation.variants)}"


@run_task(_task_name)
def generate(opened: OpenRun, adapters: Sequence[Adapter], fused: FusedModel | None) -> int:
    """Draw the samples of the run that are missing; the number of samples that exist then.

    The base model's pictures come from the picture cache: another run of this NARUTO_HOME may have drawn them. In
    prompts for the adapted and the fused model the words of `recipe.new_tokens` become the new tokens; the base model,
    which has none, reads them as they are. With a cluster (NARUTO_RUNNER) its workers draw, and nothing is missing
    after that.
    """
    models = Models(tuple(adapters), fused)
    if scheduler_address(read_settings()):
        with run_context(opened, "generate", needs_device=False) as context:
            _draw_in_shards(context, opened, models)
    with run_context(opened, "generate") as context, timed_phase(context, "samples", samples_left(context)):
        context.store.add_prompts(opened.id, context.suite)
        requests = _requests(context)
        missing = _missing(context, requests)
        counter = _Counter(len(requests), len(requests) - len(missing), reporter())
        for variant, of_variant in _by_variant(missing).items():
            others = _add_cached(context, of_variant, counter) if variant is Variant.BASE else of_variant
            steps = partial(counter.step, variant, context.recipe.generation.num_inference_steps)
            for samples in _draw(context, variant, others, models, steps):
                context.store.add_samples(samples)
                counter.finish(len(samples))
        return len(requests)


def _draw_in_shards(context: RunContext, opened: OpenRun, models: Models) -> None:
    """Draw and record the missing samples of the run on the workers of the cluster, in shards of whole batches."""
    context.store.add_prompts(opened.id, context.suite)
    requests = _requests(context)
    missing = _missing(context, requests)
    counter = _Counter(len(requests), len(requests) - len(missing), reporter())
    variants = _by_variant(missing)
    if Variant.BASE in variants:
        variants[Variant.BASE] = _add_cached(context, variants[Variant.BASE], counter)
    if not any(variants.values()):
        return
    units, began = samples_left(context), time.monotonic()
    with open_cluster(context.settings) as cluster:
        size, workers = context.recipe.generation.batch_size, cluster.workers
        shards = [
            [request for batch in shard for request in batch]
            for of_variant in variants.values()
            for shard in plan_shards(in_batches(of_variant, size), workers)
        ]
        say(f"{sum(map(len, shards))} samples are drawn in {len(shards)} shards by {workers} workers")
        shared = {"opened": opened, "models": models, "conditions": conditions_of(context)}
        for shard, samples in cluster.map(draw_shard, shards, shared):
            _receive(context, shard, samples)
            context.store.add_samples(samples)
            counter.finish(len(samples))
    add_phase_time(context, "samples", units, time.monotonic() - began, workers)


def _shard_name() -> str:
    """E.g. "draw adapted, 12 samples from forest 11"."""
    shard: list[SampleRequest] = task_run.parameters["shard"]
    return f"draw {shard[0].variant}, {len(shard)} samples from {shard[0].prompt.slug} {shard[0].seed}"


@shard_task(_shard_name)
def draw_shard(shard: list[SampleRequest], opened: OpenRun, models: Models, conditions: Conditions) -> list[Sample]:
    """Draw the samples of `shard`, which are of one variant, into NARUTO_HOME; their records, not yet written."""
    return _draw_shard(shard, opened, models, conditions)


def _draw_shard(
    shard: Sequence[SampleRequest], opened: OpenRun, models: Models, conditions: Conditions
) -> list[Sample]:
    with worker_context(conditions, f"generate {opened.id}") as machine:
        context, variant = with_run(machine, opened), shard[0].variant
        if variant is not Variant.BASE:
            fetch_models(context, models.adapters, models.fused if variant is Variant.FUSED else None)
        samples = [sample for batch in _draw(context, variant, shard, models) for sample in batch]
        publish_samples(context, samples)
        return samples


def _receive(context: RunContext, shard: Sequence[SampleRequest], samples: Sequence[Sample]) -> None:
    """Fetch the `samples` that a worker drew for `shard`; those of the base model go into this machine's cache, too.

    Raises StorageFailed where a file does not reach this process's NARUTO_HOME.
    """
    fetch_sources(context, samples)
    cache = _picture_cache(context)
    jobs = {(request.prompt.slug, request.seed): request.job for request in shard}
    for sample in samples:
        path = context.layout.absolute(sample.path)
        if not is_intact(path, sample.sha256):
            raise StorageFailed(
                f"a worker drew {sample.path}, but it is not in {context.layout.root}: NARUTO_HOME of all workers must "
                f"be one shared folder, or NARUTO_STORE of all one bucket; {GO_ON}"
            )
        if sample.variant is Variant.BASE:
            cache.add(jobs[sample.prompt, sample.seed], path)


def _requests(context: RunContext) -> list[SampleRequest]:
    """Every sample that the recipe asks for, variant by variant."""
    tokens = context.recipe.new_tokens
    return [
        SampleRequest(
            Variant(variant), prompt, seed, prompt.text if variant == "base" else insert_tokens(prompt.text, tokens)
        )
        for variant in context.recipe.generation.variants
        for prompt in context.suite.prompts
        for seed in context.suite.seeds
    ]


def _missing(context: RunContext, requests: Sequence[SampleRequest]) -> list[SampleRequest]:
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


def _by_variant(requests: Sequence[SampleRequest]) -> dict[Variant, list[SampleRequest]]:
    variants = dict.fromkeys(request.variant for request in requests)
    return {variant: [request for request in requests if request.variant is variant] for variant in variants}


def _picture_cache(context: RunContext) -> PictureCache:
    recipe = context.recipe
    return PictureCache(context.layout.picture_cache, recipe.model, recipe.generation, context.device)


def _add_cached(context: RunContext, requests: Sequence[SampleRequest], counter: "_Counter") -> list[SampleRequest]:
    """Record those of `requests`, all of the base model, whose picture is in the cache; the others."""
    files = _picture_cache(context).find(request.job for request in requests)
    samples = _link_samples(context, [request for request in requests if request.job in files], files)
    context.store.add_samples(samples)
    counter.skip(len(samples))
    return [request for request in requests if request.job not in files]


def _link_samples(context: RunContext, requests: Sequence[SampleRequest], files: Mapping[Job, Path]) -> list[Sample]:
    """Give the cached `files` names of their own in the folder of the run; their records."""
    samples: list[Sample] = []
    for request in requests:
        path = _sample_path(context, request)
        link_or_copy(files[request.job], path)
        samples.append(_sample(context, request, path))
    return samples


def _draw(
    context: RunContext,
    variant: Variant,
    requests: Sequence[SampleRequest],
    models: Models,
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[list[Sample]]:
    """Draw `requests`, all of `variant`; yields the records of each batch, whose files are written.

    The model is freed at the end, before the next one loads. `on_step` as of `BatchDrawing.draw`.
    """
    jobs = list(dict.fromkeys(request.job for request in requests))
    if variant is Variant.BASE:
        for files in _picture_cache(context).draw(jobs, on_step):
            yield _link_samples(context, [request for request in requests if request.job in files], files)
        return
    digest = sha256_bytes("".join(a.sha256 for a in models.adapters).encode())
    drawing = BatchDrawing(
        context.recipe.generation, context.device, context.layout.latents(context.run.id, digest, variant)
    )
    load = partial(load_painter, context, variant, models.adapters, models.fused)
    for batch in drawing.draw(load, jobs, on_step):
        pictures = dict(batch)
        drawn = [request for request in requests if request.job in pictures]
        yield [_save_sample(context, request, pictures[request.job]) for request in drawn]


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


def _save_sample(context: RunContext, request: SampleRequest, picture: Image) -> Sample:
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


def _sample_path(context: RunContext, request: SampleRequest) -> Path:
    return context.layout.sample(context.run.id, _sample_id(context, request))


def _sample_id(context: RunContext, request: SampleRequest) -> str:
    return sample_id(context.run.id, request.variant, request.prompt.slug, request.seed)


def _sample(context: RunContext, request: SampleRequest, path: Path) -> Sample:
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
