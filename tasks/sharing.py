"""Sharing of recorded files between machines, by the bucket of NARUTO_STORE.

A dataset version is published when it is ingested, a run's files at the end of each step; before a step, what this
machine has not is fetched. A recorded file that is not in the bucket, because its machine died before it was published,
is made again like a lost one, with the same bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from naruto_core.artifact_store import ArtifactStore, StoredFile
from naruto_core.artifacts import Layout
from naruto_core.dataset.versions import is_intact, read_pictures, to_parquet, write_parquet
from naruto_core.domain import DatasetVersion, Picture
from naruto_core.errors import RecordDamaged
from naruto_core.store.embedding_cache import EmbeddingCache, shards_of

if TYPE_CHECKING:
    from tasks.context import RunContext, TaskContext


def publish_dataset(context: "TaskContext", version: DatasetVersion) -> None:
    """Copy the pictures of `version` to the bucket, then its rows; without a bucket, nothing is done."""
    if not context.settings.store:
        return
    bucket, pictures = ArtifactStore(context.settings.store), read_pictures(context.layout, version)
    bucket.publish(_picture_files(context.layout, pictures))
    bucket.write(_rows_name(version), to_parquet(pictures))


def fetch_run(context: "RunContext") -> None:
    """Write the recorded files of the run, and its datasets, that this machine has not."""
    bucket = ArtifactStore(context.settings.store)
    for version in context.datasets:
        _fetch_dataset(context, bucket, version)
    bucket.fetch(_run_files(context))
    if fused := context.store.find_fused(context.run.id):
        bucket.fetch_folder(context.layout.absolute(fused.path), fused.sha256)


def publish_run(context: "RunContext") -> None:
    """Copy the recorded files of the run to the bucket."""
    bucket = ArtifactStore(context.settings.store)
    bucket.publish(_run_files(context))
    if fused := context.store.find_fused(context.run.id):
        bucket.publish_folder(context.layout.absolute(fused.path), fused.sha256)


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


def _fetch_dataset(context: "TaskContext", bucket: ArtifactStore, version: DatasetVersion) -> None:
    if not is_intact(context.layout, version):
        rows = bucket.read(_rows_name(version))
        if rows is None:  # ingested before there was a bucket
            return
        write_parquet(context.layout, version, rows)
    bucket.fetch(_picture_files(context.layout, read_pictures(context.layout, version)))


def _rows_name(version: DatasetVersion) -> str:
    return f"datasets/{version.id}.parquet"


def _picture_files(layout: Layout, pictures: Iterable[Picture]) -> list[StoredFile]:
    """The files of `pictures`, each once: a picture with two captions is two rows."""
    paths = {layout.picture(picture.sha256, picture.suffix): picture.sha256 for picture in pictures}
    return [StoredFile(path, sha256) for path, sha256 in paths.items()]


def _run_files(context: "RunContext") -> Iterator[StoredFile]:
    """The run's recorded adapters and samples."""
    recorded = [*context.store.adapters(context.run.id), *context.store.samples(context.run.id)]
    return (StoredFile(context.layout.absolute(file.path), file.sha256) for file in recorded)
