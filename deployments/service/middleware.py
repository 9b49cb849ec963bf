"""What happens to every request: body size limit, request id, log line, metrics."""

import logging
import re
import secrets
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.service.metrics import Metrics

MAX_BODY_BYTES = 256 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger("naruto.service")


class Middleware:
    """Plain ASGI: Starlette's BaseHTTPMiddleware would hide that a client has disconnected."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, body_bytes = time.perf_counter(), 0, 0
        request_id = _request_id(scope)

        async def limited_receive() -> Message:
            nonlocal body_bytes
            message = await receive()
            body_bytes += len(message.get("body", b""))
            if body_bytes > MAX_BODY_BYTES:
                raise HTTPException(413, f"The body is larger than {MAX_BODY_BYTES} bytes.")
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, limited_receive, send_with_id)
        finally:
            self._record(scope, status, time.perf_counter() - started, request_id)

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        """Count the request and log it."""
        route: Any = scope.get("route")
        path = getattr(route, "path", "unknown")  # the pattern, because a picture's path is a secret
        self._metrics.requests.labels(path, status).inc()
        self._metrics.seconds.labels(path).observe(seconds)
        level = logging.DEBUG if path in ("/healthz", "/readyz", "/metrics") else logging.INFO
        fields = {
            "request_id": request_id, "method": scope["method"], "route": path, "status": status,
            "seconds": round(seconds, 4),
        }  # fmt: skip
        _log.log(level, "request", extra=fields)


def _request_id(scope: Scope) -> str:
    """The client's X-Request-Id if it is a valid one, else a random id."""
    headers = {name.lower(): value for name, value in scope["headers"]}
    from_client = headers.get(b"x-request-id", b"").decode("latin-1")
    return from_client if _REQUEST_ID.fullmatch(from_client) else secrets.token_hex(8)
