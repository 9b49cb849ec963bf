"""What is in dataset versions. A version never changes, so what was read once is kept."""

from collections.abc import Sequence
from itertools import islice

import streamlit as st

from dashboard.queries.database import the_store
from dashboard.queries.thumbnails import webp
from naruto_core.artifacts import Layout, sha256_bytes
from naruto_core.dataset.caption_audit import CaptionFinding, audit_captions
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import DatasetVersion, Picture
from naruto_core.errors import RecordDamaged
from naruto_core.settings import read_settings


def versions() -> list[DatasetVersion]:
    """Every version, by source."""
    return the_store().datasets()


def pictures(version: DatasetVersion) -> tuple[Picture, ...]:
    """What a version holds; RecordDamaged when its table is gone."""
    return _pictures(str(read_settings().root), version)


def caption_findings(version: DatasetVersion) -> list[CaptionFinding]:
    """What can be seen of captions without a model; `naruto captions` looks at the pictures too."""
    return _caption_findings(str(read_settings().root), version)


def style_references(run_ids: Sequence[str], count: int = 3) -> list[tuple[str, bytes]]:
    """Captions and thumbnails of pictures that the first of these runs learned from: always the same ones, drawn by
    digest. Fewer when files are gone."""
    for run_id in run_ids:
        version = the_store().find_dataset(the_store().run(run_id).dataset_id)
        if version is None:
            continue
        try:
            drawn = sorted(pictures(version), key=lambda one: one.sha256)
        except RecordDamaged:
            continue
        seen = ((one.caption, thumbnail(one)) for one in drawn)
        if found := list(islice(((text, data) for text, data in seen if data), count)):
            return found
    return []


@st.cache_data(max_entries=600, show_spinner=False)
def thumbnail(picture: Picture) -> bytes | None:
    """256 pixels of a picture; None when its file is gone or was changed."""
    try:
        data = Layout(read_settings().root).picture(picture.sha256, picture.suffix).read_bytes()
    except OSError:
        return None
    return webp(data, 256) if sha256_bytes(data) == picture.sha256 else None


@st.cache_resource(max_entries=4, show_spinner="Reading the dataset …")
def _pictures(root: str, version: DatasetVersion) -> tuple[Picture, ...]:
    del root
    return tuple(read_pictures(Layout(read_settings().root), version))


@st.cache_data(max_entries=4, show_spinner="Looking at the captions …")
def _caption_findings(root: str, version: DatasetVersion) -> list[CaptionFinding]:
    return audit_captions(_pictures(root, version), None)
