"""Pictures over HTTP, by the hash of their content: `/pictures/HASH/512.webp`.

An address says nothing of the run, the prompt or the file, and whoever does not have the picture cannot guess it. What
is served is made anew as WebP, so that nothing written inside the file comes along.
"""

import re

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from dashboard.queries.thumbnails import SIZES, thumbnail

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FOREVER = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


def picture(request: Request) -> Response:
    """The picture, or 404 when there is none, or when its file is not what was recorded."""
    digest, size = request.path_params["digest"], request.path_params["size"]
    if not _DIGEST.fullmatch(digest) or size not in SIZES:
        return PlainTextResponse("There is no such picture.", 404)
    path = thumbnail(digest, size)
    if path is None:
        return PlainTextResponse("There is no such picture.", 404)
    return FileResponse(path, media_type="image/webp", headers=_FOREVER)


ROUTES = [Route("/pictures/{digest}/{size}.webp", picture)]
