"""HTTP routes beside the pages: personal links, pictures by hash, and every vote of the review page."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import lru_cache
from time import monotonic
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from dashboard.access import COOKIE, read_session_token
from dashboard.queries.database import the_ratings, the_store
from dashboard.queries.thumbnails import SIZES, thumbnail
from naruto_core.errors import NarutoError, NotRecorded, RatingRefused, StorageFailed
from naruto_core.judging.ranking import Vote, most_informative_pair
from naruto_core.ratings import Action, Assignment, Defect, Extremes, Grades, Mode, Outcome, RatingEvent
from naruto_core.settings import read_settings

_LONG = 60 * 60 * 24 * 180


def enter(request: Request) -> RedirectResponse:
    """Come in; whether the token opens anything is found out on the page."""
    answer = RedirectResponse("../", 303, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
    secure = request.url.scheme == "https"
    token = request.path_params["token"][:100]
    if token.isascii():
        answer.set_cookie(COOKIE, token, max_age=_LONG, httponly=True, samesite="lax", secure=secure)
    return answer


def leave(_: Request) -> RedirectResponse:
    """Forget the link on this device."""
    answer = RedirectResponse("./", 303, headers={"Cache-Control": "no-store"})
    answer.delete_cookie(COOKIE)
    return answer


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


_LONGEST_BODY = 4096
_FRESH = 30.0  # seconds for which what is known of the contenders is new enough to choose by
Word = Annotated[str, Field(min_length=1, max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GradesSent(_Strict):
    adherence: int
    style: int
    defects: list[Defect] = Field(max_length=len(Defect))


class ExtremesSent(_Strict):
    best: int
    worst: int


class DeedSent(_Strict):
    """A deed as the browser sends it."""

    assignment: Word
    act: Action
    nonce: Word
    seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
    viewport: Annotated[str, Field(max_length=20, pattern=r"^\d*x?\d*$")]
    answer: Outcome | GradesSent | ExtremesSent | None = None

    def noun(self) -> RatingEvent:
        answer = self.answer
        if isinstance(answer, GradesSent):
            answer = Grades(answer.adherence, answer.style, frozenset(answer.defects))
        elif isinstance(answer, ExtremesSent):
            answer = Extremes(answer.best, answer.worst)
        return RatingEvent(self.assignment, self.act, self.nonce, self.seconds, self.viewport, answer)


def _next(reviewer_id: str, campaign_id: str, besides: list[str]) -> dict[str, object]:
    ratings = the_ratings()
    prefer = _telling(campaign_id, int(monotonic() / _FRESH))
    given = ratings.next_assignment(campaign_id, reviewer_id, datetime.now(UTC), prefer, besides=besides)
    return {"assignment": _sent(given), "judged": ratings.judged(campaign_id, reviewer_id)}


def _last(reviewer_id: str, campaign_id: str) -> dict[str, object]:
    given = the_ratings().last_done(campaign_id, reviewer_id)
    return {"assignment": _sent(given)}


def _record(reviewer_id: str, deed: RatingEvent) -> dict[str, object]:
    return {"new": the_ratings().record(reviewer_id, deed, datetime.now(UTC))}


@lru_cache(maxsize=64)
def _telling(campaign_id: str, turn: int) -> str:
    """The pairing that a vote says most about; thought over again when `turn` is another."""
    del turn
    names = the_ratings().models(campaign_id)
    if len(names) < 3 or the_ratings().campaign(campaign_id).mode is not Mode.PAIR:
        return ""  # of two models there is one pairing only
    return " ".join(
        most_informative_pair(
            names, [Vote(prompt, *on, said, n) for prompt, on, said, n in the_ratings().tally(campaign_id)]
        )
    )


def _sent(given: Assignment | None) -> dict[str, object] | None:
    """What a blind person may know; a picture that is gone is sent as an empty word."""
    if given is None:
        return None
    digests = the_store().digests(given.samples)
    return {"id": given.id, "text": given.text, "pictures": [digests.get(sample, "") for sample in given.samples]}


async def next_assignment(request: Request) -> JSONResponse:
    besides = request.query_params.getlist("besides")
    return await _answered(request, lambda me: run_in_threadpool(_next, me, request.path_params["campaign"], besides))


async def last_assignment(request: Request) -> JSONResponse:
    return await _answered(request, lambda me: run_in_threadpool(_last, me, request.path_params["campaign"]))


async def record(request: Request) -> JSONResponse:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_BODY:
            return _refused(413, "that is too long for a vote.")
    try:
        deed = DeedSent.model_validate_json(body).noun()
    except ValidationError as error:
        first = error.errors()[0]
        return _refused(422, f"{'.'.join(map(str, first['loc'])) or 'the vote'}: {first['msg']}")
    return await _answered(request, lambda me: run_in_threadpool(_record, me, deed))


async def _answered(request: Request, ask: Callable[[str], Awaitable[dict[str, object]]]) -> JSONResponse:
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    try:
        me = read_session_token(read_settings().root, text, datetime.now(UTC)) if scheme == "Bearer" else None
        if me is None:
            return _refused(401, "your link has to be opened again.")
        return JSONResponse(await ask(me), headers={"Cache-Control": "no-store"})
    except RatingRefused as error:
        return _refused(409, str(error))
    except NotRecorded as error:
        return _refused(404, str(error))
    except StorageFailed as error:
        return _refused(503, str(error))
    except NarutoError as error:
        return _refused(500, str(error))


def _refused(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers={"Cache-Control": "no-store"})


ROUTES = [
    Route("/enter/{token}", enter),
    Route("/leave", leave),
    Route("/pictures/{digest}/{size}.webp", picture),
    Route("/judging/{campaign}/next", next_assignment),
    Route("/judging/{campaign}/last", last_assignment),
    Route("/judging/deeds", record, methods=["POST"]),
]
