"""Read dataset versions. A version never changes, so its content is cached."""

from collections.abc import Sequence
from itertools import islice

import streamlit as st

from dashboard.queries.database import database
from dashboard.queries.thumbnails import webp
from naruto_core.artifact_store import SHORT_PATIENCE
from naruto_core.artifacts import Layout, sha256_bytes
from naruto_core.dataset.caption_audit import CaptionFinding, audit_captions
from naruto_core.dataset.shared_versions import fetch_version
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import DatasetVersion, Picture
from naruto_core.errors import RecordDamaged, ServiceFailed
from naruto_core.settings import read_settings


def versions() -> list[DatasetVersion]:
    """Every version, by source."""
    return database().runs.datasets()


def pictures(version: DatasetVersion) -> tuple[Picture, ...]:
    """The pictures of a version. Raises RecordDamaged without its table, ServiceFailed when a bucket is away."""
    return _pictures(str(read_settings().root), version)


def caption_findings(version: DatasetVersion) -> list[CaptionFinding]:
    """Findings about captions that need no model; `naruto captions` also compares them with the pictures."""
    return _caption_findings(str(read_settings().root), version)


def style_references(run_ids: Sequence[str], count: int = 3) -> list[tuple[str, bytes]]:
    """Captions and thumbnails of `count` training pictures of the first of these runs: the first by sha256, so always
    the same. Fewer when files are missing."""
    for run_id in run_ids:
        version = database().runs.find_dataset(database().runs.run(run_id).dataset_id)
        if version is None:
            continue
        try:
            by_digest = sorted(pictures(version), key=lambda picture: picture.sha256)
        except (RecordDamaged, ServiceFailed):
            continue
        thumbnails = ((picture.caption, thumbnail(picture)) for picture in by_digest)
        if references := list(islice(((text, data) for text, data in thumbnails if data), count)):
            return references
    return []


@st.cache_data(max_entries=600, show_spinner=False)
def thumbnail(picture: Picture) -> bytes | None:
    """A WebP of at most 256 pixels; None when the file is missing or was changed."""
    try:
        data = Layout(read_settings().root).picture(picture.sha256, picture.suffix).read_bytes()
    except OSError:
        return None
    return webp(data, 256) if sha256_bytes(data) == picture.sha256 else None


@st.cache_resource(max_entries=4, show_spinner="Reading the dataset …")
def _pictures(root: str, version: DatasetVersion) -> tuple[Picture, ...]:
    del root
    settings = read_settings()
    layout = Layout(settings.root, settings.store)
    fetch_version(layout, version, SHORT_PATIENCE)
    return tuple(read_pictures(layout, version))


@st.cache_data(max_entries=4, show_spinner="Checking the captions …")
def _caption_findings(root: str, version: DatasetVersion) -> list[CaptionFinding]:
    return audit_captions(_pictures(root, version), None)
