"""Score: the tasks of the flows that measure a run, or finished runs again.

With a cluster (NARUTO_RUNNER) its workers embed the pictures first, in shards of whole batches.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from socket import gethostname

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from naruto_core.domain import Picture, Sample
from naruto_core.errors import GO_ON, ModelUnusable
from naruto_core.scoring.features import load_extractor
from naruto_core.settings import read_settings
from naruto_core.store.embedding_cache import EmbeddingCache
from tasks.context import OpenRun, RunContext, run_context, task_context
from tasks.evaluation import evaluate_run, runs_to_rescore
from tasks.features import EmbeddedBatch, embed_batches, missing_sources, run_pictures
from tasks.plan import pictures_to_score, timed_phase
from tasks.progress import unit_reporter
from tasks.pruning import run_task
from tasks.rescore import rescore
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
from tasks.sharing import fetch_sources


@run_task()
def score(opened: OpenRun) -> int:
    """Measure the run; the number of scores recorded. Embeddings that exist are not computed again."""
    if scheduler_address(read_settings()):
        with run_context(opened, "score", needs_device=False) as context:
            units, began = pictures_to_score(context), time.monotonic()
            workers = _embed_in_shards(context)
            seconds = time.monotonic() - began
        with run_context(opened, "score") as context, timed_phase(context, "score", units, workers, seconds):
            return evaluate_run(context)
    with run_context(opened, "score") as context, timed_phase(context, "score", pictures_to_score(context)):
        return evaluate_run(context)


@dataclass(frozen=True, slots=True)
class EmbedShard:
    """Batches of pictures that the extractor `name` embeds; its files must have the digests in `extractor_id`."""

    name: str
    extractor_id: str
    batches: Sequence[Sequence[Sample | Picture]]


def _embed_in_shards(context: RunContext) -> int:
    """Embed what the cache has not yet, on the workers of the cluster: in the same batches as on one machine.

    Returns the number of workers; 1 where nothing was missing.
    """
    with EmbeddingCache(context.layout.embeddings) as cache:
        work = _missing_batches(context, cache)
        if not any(whole.batches for whole in work):
            return 1
        with open_cluster(context.settings) as cluster:
            workers = cluster.workers
            shards = [
                EmbedShard(whole.name, whole.extractor_id, batches)
                for whole in work
                for batches in plan_shards(whole.batches, workers)
            ]
            total, done = sum(len(batch) for whole in work for batch in whole.batches), 0
            report = unit_reporter("score", total, "picture")
            shared: dict[str, object] = {
                "batch_size": context.recipe.scoring.batch_size,
                "resolution": context.recipe.generation.resolution,
                "conditions": conditions_of(context),
            }
            for shard, embedded in cluster.map(embed_shard, shards, shared):
                for batch in embedded:
                    cache.add(shard.extractor_id, batch.contents, batch.features, batch.blank)
                    done += len(batch.contents)
                report(done)
            return workers


def _missing_batches(context: RunContext, cache: EmbeddingCache) -> list[EmbedShard]:
    """What each extractor of the recipe has still to embed, as one shard."""
    section, resolution = context.recipe.scoring, context.recipe.generation.resolution
    samples, real = run_pictures(context)
    names = [section.set_extractor, section.pair_extractor, *section.more_set_extractors, section.cmmd_extractor]
    work: dict[str, EmbedShard] = {}
    for name in filter(None, names):
        extractor = load_extractor(name, context.device)  # its network is not loaded here
        missing = [
            missing_sources(cache, part, resolution, extractor)
            for part in (*samples.values(), real.reference, real.perfect)
        ]
        batches = [batch for part in missing for batch in in_batches(part, section.batch_size)]
        work.setdefault(extractor.id, EmbedShard(name, extractor.id, batches))
    return list(work.values())


def _shard_name() -> str:
    """E.g. "embed 64 pictures by inception"."""
    shard: EmbedShard = task_run.parameters["shard"]
    return f"embed {sum(map(len, shard.batches))} pictures by {shard.name}"


@shard_task(_shard_name)
def embed_shard(shard: EmbedShard, batch_size: int, resolution: int, conditions: Conditions) -> list[EmbeddedBatch]:
    """The features of the pictures of `shard`, batch by batch; nothing is written."""
    return _embed_shard(shard, batch_size, resolution, conditions)


def _embed_shard(shard: EmbedShard, batch_size: int, resolution: int, conditions: Conditions) -> list[EmbeddedBatch]:
    with worker_context(conditions, "score") as context:
        extractor = load_extractor(shard.name, context.device)
        if extractor.id != shard.extractor_id:
            raise ModelUnusable(
                f"the files of the extractor {shard.name} differ between the worker on {gethostname()} and the run's "
                f"machine: make them the same; {GO_ON}"
            )
        fetch_sources(context, [source for batch in shard.batches for source in batch])
        return [
            embedded
            for batch in shard.batches
            for embedded in embed_batches(context, batch, resolution, extractor, batch_size)
        ]


@task(cache_policy=NO_CACHE)
def finished_runs(name: str | None) -> list[str]:
    """The id of the run called `name`, or those of all runs that are done."""
    with task_context() as context:
        return runs_to_rescore(context, name)


@task(task_run_name="rescore-{run_id}", cache_policy=NO_CACHE)
def rescore_run(run_id: str) -> str:
    """Measure `run_id` again as its recipe says; a sentence that says which set scores changed."""
    return rescore(run_id)
