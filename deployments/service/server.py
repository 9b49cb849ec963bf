"""The uvicorn server of the service, and its time limit for requests that arrive slowly."""

import asyncio
import json
import logging
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from deployments.service.errors import ApiError

_log = logging.getLogger("naruto.service")
_Protocol = cast("type[Any]", AutoHTTPProtocol)  # of h11 or httptools, whichever is installed


def server_config(app: ASGIApp, *, request_seconds: float, **options: Any) -> uvicorn.Config:
    """Uvicorn's configuration for `app`; a request must have arrived wholly within `request_seconds`."""
    protocol = type("LimitedProtocol", (_LimitedProtocol,), {"request_seconds": request_seconds})
    return uvicorn.Config(app, http=protocol, log_config=None, access_log=False, server_header=False, **options)


class _LimitedProtocol(_Protocol):
    """Closes a connection whose request has not arrived in time, from its first byte, or from the connection on.

    Uvicorn has a limit for idle connections only, so that a client could keep connections by a byte now and then.
    """

    request_seconds: float
    _timer: asyncio.TimerHandle | None = None
    _cycle_before: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        if self._timer is None and self._has_request:  # the first byte of the next request
            self._start_timer()
        super().data_received(data)
        if self.cycle is not self._cycle_before and self._has_request:
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    @property
    def _has_request(self) -> bool:
        """Whether the newest request of the connection has arrived wholly."""
        return self.cycle is not None and not self.cycle.more_body

    def _start_timer(self) -> None:
        self._cycle_before = self.cycle
        self._timer = self.loop.call_later(self.request_seconds, self._refuse)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self) -> None:
        """Answer 408, unless the answer has begun, and close."""
        self._timer = None
        if self.transport.is_closing():
            return
        began = self.cycle is not None and self.cycle is not self._cycle_before and self.cycle.response_started
        if not began:
            message = f"The request did not arrive within {self.request_seconds:g} s."
            body = json.dumps(ApiError(408, message, code="request_timeout").body()).encode()
            head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\n" + head.encode() + body)
        _log.info("a request did not arrive in time", extra={"seconds": self.request_seconds})
        self.transport.close()
