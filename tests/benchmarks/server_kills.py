"""A scripted review round in which the dashboard's server is killed: used by a test, and by `make bench-dashboard`."""

import threading
import time
import uuid
from datetime import datetime
from typing import Any, Protocol

import httpx2

from dashboard import access
from naruto_core.ratings import Reviewer


class Server(Protocol):
    """A dashboard that can be killed and started again."""

    @property
    def address(self) -> str: ...
    @property
    def home(self) -> Any: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


def round_with_kills(
    server: Server, campaign: str, reviewer: Reviewer, *, kills: int, votes_between: int, now: datetime
) -> list[str]:
    """Vote as the review page does, every event until it is answered; the nonces of the events that were answered.

    The server is killed while a vote is on its way, before or after it is recorded, and starts again.
    """
    token = access.make_session_token(server.home, reviewer, now)
    sent: list[str] = []
    with httpx2.Client(base_url=server.address, headers={"Authorization": f"Bearer {token}"}, timeout=10) as http:
        for number in range(kills * votes_between):
            assignment = _repeat(lambda: http.get(f"/judging/{campaign}/next"), server)["assignment"]
            if assignment is None:
                break
            event = {
                "assignment": assignment["id"], "act": "vote", "nonce": uuid.uuid4().hex, "seconds": 1, "viewport": "",
                "answer": "left",
            }  # fmt: skip
            kill = None
            if number % votes_between == 0:
                kill = threading.Timer(0.004 * (number // votes_between % 6), server.stop)
                kill.start()
            _repeat(lambda event=event: http.post("/judging/deeds", json=event), server, kill)
            sent.append(event["nonce"])
    return sent


def _repeat(request: Any, server: Server, kill: threading.Timer | None = None) -> dict[str, Any]:
    """The reply of `request`, sent again until there is one; the server is started again where it is gone."""
    for _ in range(20):
        try:
            reply = request()
            if reply.status_code < 500:
                break
        except httpx2.TransportError:
            time.sleep(0.05)
        if kill is not None:
            kill.join()
            server.start()
            kill = None
    else:
        raise AssertionError("the server does not come back")
    if kill is not None:  # the reply was faster
        kill.join()
        server.start()
    if reply.status_code != 200:
        raise AssertionError(f"{reply.status_code}: {reply.text}")
    return reply.json()
