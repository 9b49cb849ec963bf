"""Dataset versions in the bucket of NARUTO_STORE: their rows as one parquet file, their pictures by content."""

from collections.abc import Iterable

from naruto_core.artifact_store import PATIENCE, ArtifactStore, StoredFile, rows_name
from naruto_core.artifacts import Layout
from naruto_core.dataset.versions import is_intact, read_pictures, to_parquet, write_parquet
from naruto_core.domain import DatasetVersion, Picture


def publish_version(layout: Layout, version: DatasetVersion) -> None:
    """Copy the pictures of `version` to the bucket, then its rows; without a bucket, nothing is done."""
    if not layout.bucket:
        return
    bucket, pictures = ArtifactStore(layout.bucket), read_pictures(layout, version)
    bucket.publish(picture_files(layout, pictures))
    bucket.write(rows_name(version.id), to_parquet(pictures))


def fetch_version(layout: Layout, version: DatasetVersion, patience: float = PATIENCE) -> None:
    """Write the rows and pictures of `version` that this machine has not, if they were published.

    Raises ServiceFailed when the bucket is away for `patience` seconds, and RecordDamaged for what has other bytes than
    its name says.
    """
    if layout.bucket and fetch_rows(layout, version, patience):
        ArtifactStore(layout.bucket, patience).fetch(picture_files(layout, read_pictures(layout, version)))


def fetch_rows(layout: Layout, version: DatasetVersion, patience: float = PATIENCE) -> bool:
    """Write the rows of `version` if this machine has them not, without its pictures; whether it has them now.

    Raises as `fetch_version`.
    """
    if is_intact(layout, version):
        return True
    rows = ArtifactStore(layout.bucket, patience).read(rows_name(version.id)) if layout.bucket else None
    if rows is None:  # ingested before there was a bucket
        return False
    write_parquet(layout, version, rows)
    return True


def picture_files(layout: Layout, pictures: Iterable[Picture]) -> list[StoredFile]:
    """The files of `pictures`, each once: a picture with two captions is two rows."""
    paths = {layout.picture(picture.sha256, picture.suffix): picture.sha256 for picture in pictures}
    return [StoredFile(path, sha256) for path, sha256 in paths.items()]
