"""What is shown of a picture: WebP, made anew once for each size and kept, so that nothing in the file comes along."""

import io
from pathlib import Path

from PIL import Image

from dashboard.queries.database import the_store
from naruto_core.artifacts import Layout, sha256_bytes, write_atomically
from naruto_core.errors import NarutoError
from naruto_core.settings import read_settings

SIZES = {"256": 256, "512": 512, "full": None}


def thumbnail(digest: str, size: str) -> Path | None:
    """The file to show, made when it is first asked for; None when there is no such picture."""
    root = read_settings().root
    path = root / "cache" / "thumbnails" / digest[:2] / f"{digest}-{size}.webp"
    if not path.exists():
        data = _original(root, digest)
        if data is None:
            return None
        write_atomically(path, webp(data, SIZES[size]))
    return path


def _original(root: Path, digest: str) -> bytes | None:
    path = the_store().picture_path(digest)
    try:
        data = Layout(root).absolute(path).read_bytes() if path else b""
    except (OSError, NarutoError):
        return None
    return data if sha256_bytes(data) == digest else None


def webp(data: bytes, size: int | None) -> bytes:
    """A picture made anew, at most `size` pixels wide and high; in full and without loss for None."""
    memory = io.BytesIO()
    with Image.open(io.BytesIO(data)) as opened:
        drawn = opened.convert("RGB")
    if size is None:
        drawn.save(memory, "WEBP", lossless=True)
    else:
        drawn.thumbnail((size, size), Image.Resampling.LANCZOS)
        drawn.save(memory, "WEBP", quality=88, method=4)
    return memory.getvalue()
