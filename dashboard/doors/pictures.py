"""Pictures over HTTP, by the hash of their content: `/pictures/HASH/512.webp`.

An address says nothing of the run, the prompt or the file, and whoever does not have the picture cannot guess it. What
is served is made anew as WebP, so that nothing written inside the file comes along.
"""

import io
import re
from pathlib import Path

from PIL import Image
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from dashboard.queries.opened import the_store
from naruto_core.artifacts import Layout, sha256_bytes, write_atomically
from naruto_core.errors import NarutoError
from naruto_core.settings import read_settings

SIZES = {"256": 256, "512": 512, "full": None}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FOREVER = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


def address(digest: str, size: str) -> str:
    """Where a picture is, relative to the dashboard."""
    return f"pictures/{digest}/{size}.webp"


def picture(request: Request) -> Response:
    """The picture, or 404 when there is none, or when its file is not what was recorded."""
    digest, size = request.path_params["digest"], request.path_params["size"]
    if not _DIGEST.fullmatch(digest) or size not in SIZES:
        return PlainTextResponse("There is no such picture.", 404)
    path = thumbnail(digest, size)
    if path is None:
        return PlainTextResponse("There is no such picture.", 404)
    return FileResponse(path, media_type="image/webp", headers=_FOREVER)


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


ROUTES = [Route("/pictures/{digest}/{size}.webp", picture)]
