"""Who asks: the name behind an API key."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from deployments.service.keys import ANYONE
from deployments.service.parts import Parts
from deployments.service.refusal import Refused

_bearer = HTTPBearer(auto_error=False, description="A key from `naruto-service add-key NAME`.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request is from."""

    name: str


def parts_of(request: Request) -> Parts:
    return request.app.state.parts


def caller(
    parts: Annotated[Parts, Depends(parts_of)],
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    """While there are no keys (then only this machine is listened to) anyone may ask."""
    if not parts.keys.names():
        return Caller(ANYONE)
    name = parts.keys.who(given.credentials) if given else None
    if name is None:
        raise Refused(401, "Incorrect API key provided.", code="invalid_api_key")
    return Caller(name)
