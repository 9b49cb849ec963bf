"""What every request passes: size limit, request id, log line, metrics; and the name behind its API key."""

import logging
import re
import secrets
import time
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.service.errors import ApiError
from deployments.service.keys import ANYONE, KeysUnusable
from deployments.service.metrics import Metrics
from deployments.service.state import ServiceState

MOST_BYTES = 256 * 1024
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger("naruto.service")


class Middleware:
    """ASGI, because Starlette's own middleware would hide that a client has gone."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        headers = {name.lower(): value for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MOST_BYTES:
                raise HTTPException(413, f"The body is larger than {MOST_BYTES} bytes.")
            return message

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, counted, answered)
        finally:
            self._told(scope, status, time.perf_counter() - began, request_id)

    def _told(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route: Any = scope.get("route")
        path = getattr(route, "path", "unknown")  # the pattern: an address may hold what nobody else should see
        self._metrics.requests.labels(path, status).inc()
        self._metrics.seconds.labels(path).observe(seconds)
        facts = {"request_id": request_id, "method": scope["method"], "route": path, "status": status}
        level = logging.DEBUG if path in ("/healthz", "/readyz", "/metrics") else logging.INFO
        _log.log(
            level, "request", extra=facts | {"seconds": round(seconds, 4), **scope.get("state", {}).get("told", {})}
        )


_bearer = HTTPBearer(auto_error=False, description="A key from `naruto-service add-key NAME`.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request is from."""

    name: str


def state_of(request: Request) -> ServiceState:
    return request.app.state.parts


def caller(
    parts: Annotated[ServiceState, Depends(state_of)],
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    """Anyone, if the service was started without keys on this machine alone; or else whose key was given."""
    if not parts.keys_needed:
        return Caller(ANYONE)
    try:
        name = parts.keys.who(given.credentials if given else "")
    except KeysUnusable:  # the log says why; whoever has no key need not know which file it is
        raise ApiError(503, "Keys cannot be checked now; the service's log says why.", code="keys_unusable") from None
    if name is None:
        raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
    return Caller(name)
