"""Sharing of recorded files between machines, by the bucket of NARUTO_STORE.

A dataset version is published when it is ingested, a run's files at the end of each step; before a step, what this
machine has not is fetched. A worker of a cluster fetches the files that its shard needs, and publishes what it drew. A
recorded file that is not in the bucket, because its machine died before it was published, is made again like a lost
one, with the same bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from naruto_core.artifact_store import ArtifactStore, StoredFile
from naruto_core.artifacts import Layout
from naruto_core.dataset.shared_versions import fetch_version, picture_files
from naruto_core.domain import Adapter, FusedModel, Picture, Sample
from naruto_core.errors import RecordDamaged
from naruto_core.store.embedding_cache import EmbeddingCache, shards_of

if TYPE_CHECKING:
    from tasks.context import RunContext, TaskContext


def fetch_run(context: "RunContext") -> None:
    """Write the recorded files of the run, and its datasets, that this machine has not."""
    bucket = ArtifactStore(context.settings.store)
    for version in context.datasets:
        fetch_version(context.layout, version)
    bucket.fetch(_run_files(context))
    if fused := context.store.find_fused(context.run.id):
        bucket.fetch_folder(context.layout.absolute(fused.path), fused.sha256)


def publish_run(context: "RunContext") -> None:
    """Copy the recorded files of the run to the bucket."""
    bucket = ArtifactStore(context.settings.store)
    bucket.publish(_run_files(context))
    if fused := context.store.find_fused(context.run.id):
        bucket.publish_folder(context.layout.absolute(fused.path), fused.sha256)


def fetch_models(context: "TaskContext", adapters: Sequence[Adapter], fused: FusedModel | None) -> None:
    """Write `adapters` and the fused model where this machine has them not; without a bucket, nothing is done."""
    if not context.settings.store:
        return
    bucket = ArtifactStore(context.settings.store)
    bucket.fetch(_stored(context.layout, adapters))
    if fused:
        bucket.fetch_folder(context.layout.absolute(fused.path), fused.sha256)


def fetch_sources(context: "TaskContext", sources: Sequence[Sample | Picture]) -> None:
    """Write those of `sources`, pictures of a run or of a dataset, that this machine has not; as `fetch_models`."""
    if not context.settings.store:
        return
    pictures = [source for source in sources if isinstance(source, Picture)]
    samples = [source for source in sources if isinstance(source, Sample)]
    files = [*picture_files(context.layout, pictures), *_stored(context.layout, samples)]
    ArtifactStore(context.settings.store).fetch(files)


def publish_samples(context: "TaskContext", samples: Sequence[Sample]) -> None:
    """Copy `samples` to the bucket; without one, nothing is done."""
    if context.settings.store:
        ArtifactStore(context.settings.store).publish(_stored(context.layout, samples))


def fetch_embeddings(context: "TaskContext", cache: EmbeddingCache, extractor: str, contents: Sequence[str]) -> bool:
    """Add the embeddings of `contents` that another machine has published; False without any, or without a bucket."""
    if not context.settings.store:
        return False
    bucket, found = ArtifactStore(context.settings.store), False
    for name in shards_of(extractor, contents):
        if (data := bucket.read(name)) is not None:
            found = True
            try:
                cache.add_parquet(extractor, data)
            except RecordDamaged as error:
                raise RecordDamaged(f"{bucket.url}/{name} is damaged: {error}; delete it from the bucket.") from None
    return found


def publish_embeddings(context: "TaskContext", cache: EmbeddingCache, extractor: str, contents: Sequence[str]) -> None:
    """Copy the embeddings of `contents` to the bucket, unless it has them; without a bucket, nothing is done."""
    if not context.settings.store:
        return
    bucket = ArtifactStore(context.settings.store)
    for name, part in shards_of(extractor, contents).items():
        bucket.write(name, cache.to_parquet(extractor, part))


def _run_files(context: "RunContext") -> Iterator[StoredFile]:
    """The run's recorded adapters and samples."""
    return _stored(context.layout, [*context.store.adapters(context.run.id), *context.store.samples(context.run.id)])


def _stored(layout: Layout, recorded: Iterable[Adapter | Sample]) -> Iterator[StoredFile]:
    return (StoredFile(layout.absolute(file.path), file.sha256) for file in recorded)
