"""What every request passes: a limit on its size, a request id, a line in the log, the metrics."""

import logging
import re
import secrets
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.service.metrics import Metrics

MOST_BYTES = 256 * 1024
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger("naruto.service")


class Doorway:
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
