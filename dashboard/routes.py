"""HTTP routes beside the pages: personal links, pictures by sha256, and assignments and votes of the review page."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from time import monotonic
from typing import Annotated, TypeVar

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from dashboard.access import COOKIE, read_session_token
from dashboard.queries.database import database_of
from dashboard.queries.thumbnails import SIZES, thumbnail
from naruto_core.errors import NarutoError, NotRecorded, RatingRefused, StorageFailed
from naruto_core.judging.ranking import Vote, most_informative_pair
from naruto_core.ratings import Action, Assignment, Defect, Extremes, Grades, Mode, Outcome, PictureNote, RatingEvent
from naruto_core.settings import read_settings
from naruto_core.store.database import Database, Ratings
from naruto_core.store.review_control import MOST_NOTE

_log = logging.getLogger("naruto.dashboard")
_COOKIE_SECONDS = 60 * 60 * 24 * 180


def enter(request: Request) -> RedirectResponse:
    """Store the token of a personal link in a cookie; the page checks whether it is valid."""
    response = RedirectResponse("../", 303, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
    secure = request.url.scheme == "https"
    token = request.path_params["token"][:100]
    if token.isascii():
        response.set_cookie(COOKIE, token, max_age=_COOKIE_SECONDS, httponly=True, samesite="lax", secure=secure)
    return response


def leave(_: Request) -> RedirectResponse:
    """Delete the cookie of the personal link on this device."""
    response = RedirectResponse("./", 303, headers={"Cache-Control": "no-store"})
    response.delete_cookie(COOKIE)
    return response


_DIGEST = re.compile(r"[0-9a-f]{64}")
_IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


def picture(request: Request) -> Response:
    """The picture as WebP; 404 when there is none, or when its file was changed; 503 while the storage fails."""
    digest, size = request.path_params["digest"], request.path_params["size"]
    if not _DIGEST.fullmatch(digest) or size not in SIZES:
        return PlainTextResponse("There is no such picture.", 404)
    try:
        path = thumbnail(digest, size)
    except StorageFailed as error:  # the disk is full, or the database is locked; strangers are told no paths
        _log.warning("a picture cannot be prepared: %s", error)
        return PlainTextResponse("The picture cannot be prepared now: try again later.", 503)
    if path is None:
        return PlainTextResponse("There is no such picture.", 404)
    return FileResponse(path, media_type="image/webp", headers=_IMMUTABLE)


_MAX_BODY = 4096  # bytes
PAIRING_SECONDS = 30.0  # for which the most informative pairing of a campaign is used
# A person waits for the next pictures, and nobody for the reply to a vote: the page shows the next pictures meanwhile.
# So votes take turns in a thread of their own; the database has one writer anyway.
_PICTURE_THREADS, _VOTE_THREADS = CapacityLimiter(3), CapacityLimiter(1)
Reply = dict[str, object]
Handler = Callable[[Database, str], Reply]  # answers a request of the reviewer with this id
ShortText = Annotated[str, Field(min_length=1, max_length=64)]


class _StrictBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


AnyBody = TypeVar("AnyBody", bound=_StrictBody)


class GradesBody(_StrictBody):
    adherence: int
    style: int
    defects: list[Defect] = Field(max_length=len(Defect))


class ExtremesBody(_StrictBody):
    best: int
    worst: int


class RatingEventBody(_StrictBody):
    """A rating event as the browser sends it."""

    assignment: ShortText
    act: Action
    nonce: ShortText
    seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
    viewport: Annotated[str, Field(max_length=20, pattern=r"^\d*x?\d*$")]
    answer: Outcome | GradesBody | ExtremesBody | None = None

    def to_domain(self) -> RatingEvent:
        answer = self.answer
        if isinstance(answer, GradesBody):
            answer = Grades(answer.adherence, answer.style, frozenset(answer.defects))
        elif isinstance(answer, ExtremesBody):
            answer = Extremes(answer.best, answer.worst)
        return RatingEvent(self.assignment, self.act, self.nonce, self.seconds, self.viewport, answer)


class PictureNoteBody(_StrictBody):
    """A note, or the place of a defect in a picture, as the browser sends it."""

    assignment: ShortText
    nonce: ShortText
    text: Annotated[str, Field(max_length=MOST_NOTE)] = ""
    position: Annotated[int, Field(ge=0, le=3)] | None = None
    defect: Defect | None = None
    x: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    y: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None

    def to_domain(self) -> PictureNote:
        return PictureNote(self.assignment, self.nonce, self.text, self.position, self.defect, self.x, self.y)


@dataclass
class InformativePairings:
    """The pairing of each campaign, and when it has to be computed again.

    To count the votes of a campaign takes as long as many assignments. Without turns, every thread that serves
    reviewers counts at the same moment, and everybody waits.
    """

    _found: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    _turn: Lock = field(default_factory=Lock)

    def pairing(self, ratings: Ratings, campaign_id: str) -> str:
        """The pairing whose next vote tells most, "" where there is no choice, or while the first is computed.

        Raises NotRecorded for an unknown campaign.
        """
        pairing, until = self._found.get(campaign_id, ("", 0.0))
        if monotonic() < until or not self._turn.acquire(blocking=False):
            return pairing
        try:
            pairing = _most_informative(ratings, campaign_id)
            self._found[campaign_id] = pairing, monotonic() + PAIRING_SECONDS
        finally:
            self._turn.release()
        return pairing


def _most_informative(ratings: Ratings, campaign_id: str) -> str:
    models = ratings.models(campaign_id)
    if len(models) < 3 or ratings.campaign(campaign_id).mode is not Mode.PAIR:
        return ""
    votes = [Vote(prompt, *sides, outcome, n) for prompt, sides, outcome, n in ratings.tally(campaign_id)]
    return " ".join(most_informative_pair(models, votes))


_PAIRINGS = InformativePairings()


def _next(data: Database, reviewer_id: str, campaign_id: str, exclude: list[str]) -> Reply:
    ratings = data.ratings
    pairing = _PAIRINGS.pairing(ratings, campaign_id)
    assignment = ratings.next_assignment(campaign_id, reviewer_id, datetime.now(UTC), pairing, exclude=exclude)
    reply = {"assignment": _assignment_json(data, assignment), "judged": ratings.done_count(campaign_id, reviewer_id)}
    return reply if exclude else reply | {"left": ratings.left_count(campaign_id, reviewer_id)}


def _last(data: Database, reviewer_id: str, campaign_id: str) -> Reply:
    return {"assignment": _assignment_json(data, data.ratings.last_done(campaign_id, reviewer_id))}


def _record(data: Database, reviewer_id: str, event: RatingEvent) -> Reply:
    return {"new": data.ratings.record(reviewer_id, event, datetime.now(UTC))}


def _record_note(data: Database, reviewer_id: str, note: PictureNote) -> Reply:
    return {"new": data.ratings.add_picture_note(reviewer_id, note, datetime.now(UTC))}


def _assignment_json(data: Database, assignment: Assignment | None) -> dict[str, object] | None:
    """What a blind reviewer may see; a missing picture is sent as ""."""
    if assignment is None:
        return None
    digests = data.runs.digests(assignment.samples)
    pictures = [digests.get(sample, "") for sample in assignment.samples]
    return {"id": assignment.id, "text": assignment.text, "pictures": pictures}


async def next_assignment(request: Request) -> JSONResponse:
    """The reviewer's next assignment; `besides` in the query are assignments that the page has already.

    Without `besides`, at the start of a session, the reply also says how many assignments are left for the reviewer.
    """
    campaign_id, exclude = request.path_params["campaign"], request.query_params.getlist("besides")
    return await _respond(request, lambda data, reviewer_id: _next(data, reviewer_id, campaign_id, exclude))


async def last_assignment(request: Request) -> JSONResponse:
    """The assignment that the reviewer answered or skipped last, to undo it."""
    campaign_id = request.path_params["campaign"]
    return await _respond(request, lambda data, reviewer_id: _last(data, reviewer_id, campaign_id))


async def record(request: Request) -> JSONResponse:
    """Record a vote, a skip or an undo."""
    body = await _read_body(request, RatingEventBody)
    if isinstance(body, JSONResponse):
        return body
    event = body.to_domain()
    return await _respond(request, lambda data, reviewer_id: _record(data, reviewer_id, event), _VOTE_THREADS)


async def record_note(request: Request) -> JSONResponse:
    """Record a note on a unit, or a defect in one of its pictures."""
    body = await _read_body(request, PictureNoteBody)
    if isinstance(body, JSONResponse):
        return body
    note = body.to_domain()
    return await _respond(request, lambda data, reviewer_id: _record_note(data, reviewer_id, note), _VOTE_THREADS)


async def _read_body(request: Request, kind: type[AnyBody]) -> AnyBody | JSONResponse:
    """The body of a request, or the reply that refuses it."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MAX_BODY:
            return _error(413, f"a vote or a note has at most {_MAX_BODY} bytes.")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        return _error(422, f"{'.'.join(map(str, first['loc'])) or 'the vote'}: {first['msg']}")


async def _respond(request: Request, handle: Handler, threads: CapacityLimiter = _PICTURE_THREADS) -> JSONResponse:
    """Call `handle` with the id of the reviewer of the session token; errors become a status and a sentence."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    try:
        reply = None
        if scheme == "Bearer":
            reply = await to_thread.run_sync(_reply_to, token, handle, limiter=threads)
        if reply is None:
            return _error(401, "your session has ended: open your personal link again.")
        return JSONResponse(reply, headers={"Cache-Control": "no-store"})
    except RatingRefused as error:
        return _error(409, str(error))
    except NotRecorded as error:
        return _error(404, str(error))
    except StorageFailed as error:
        return _error(503, str(error))
    except NarutoError as error:
        return _error(500, str(error))


def _reply_to(token: str, handle: Handler) -> Reply | None:
    """What `handle` returns for the reviewer of the session token; None where the token is not valid."""
    settings = read_settings()  # and the database are looked up once for a request: each takes as long as a query
    data = database_of(settings)
    reviewer_id = read_session_token(settings.root, data.ratings, token, datetime.now(UTC))
    return None if reviewer_id is None else handle(data, reviewer_id)


def _error(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers={"Cache-Control": "no-store"})


ROUTES = [
    Route("/enter/{token}", enter),
    Route("/leave", leave),
    Route("/pictures/{digest}/{size}.webp", picture),
    Route("/judging/{campaign}/next", next_assignment),
    Route("/judging/{campaign}/last", last_assignment),
    Route("/judging/deeds", record, methods=["POST"]),
    Route("/judging/notes", record_note, methods=["POST"]),
]
