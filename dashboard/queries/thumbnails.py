"""Thumbnails: pictures are encoded again as WebP, once for each size, so that no metadata of the file is served."""

import io
from pathlib import Path

from PIL import Image

from dashboard.queries.database import database
from naruto_core.artifact_store import fetch_file
from naruto_core.artifacts import Layout, sha256_bytes, write_atomically
from naruto_core.dataset.records import decode
from naruto_core.errors import NarutoError
from naruto_core.settings import read_settings

SIZES = {"256": 256, "512": 512, "full": None}


def thumbnail(digest: str, size: str) -> Path | None:
    """The WebP file of a picture, created at the first request; None when there is no such picture."""
    settings = read_settings()
    path = settings.root / "cache" / "thumbnails" / digest[:2] / f"{digest}-{size}.webp"
    if not path.exists():
        data = _original(Layout(settings.root, settings.store), digest)
        if data is None:
            return None
        write_atomically(path, webp(data, SIZES[size]))
    return path


def _original(layout: Layout, digest: str) -> bytes | None:
    path = database().runs.picture_path(digest)
    if path is None:
        return None
    try:
        fetch_file(layout, path, digest)
        data = layout.absolute(path).read_bytes()
    except (OSError, NarutoError):
        return None
    return data if sha256_bytes(data) == digest else None


def webp(data: bytes, size: int | None) -> bytes:
    """A picture encoded as WebP, at most `size` pixels wide and high; lossless in full size for None.

    It is shown as training sees it: upright, in sRGB, transparency on white. Raises BrokenRecordError for damage.
    """
    memory = io.BytesIO()
    rgb = decode(data).image
    if size is None:
        rgb.save(memory, "WEBP", lossless=True, quality=0, method=0)  # the least effort: the pixels are the same
    else:
        rgb.thumbnail((size, size), Image.Resampling.LANCZOS)
        rgb.save(memory, "WEBP", quality=88, method=4)
    return memory.getvalue()
