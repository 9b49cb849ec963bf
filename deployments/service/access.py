"""Who asks: the name behind an API key."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from deployments.service.keys import ANYONE, KeysUnusable
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
    """Anyone, if the service was started without keys on this machine alone; or else whose key was given."""
    if not parts.keys_needed:
        return Caller(ANYONE)
    try:
        name = parts.keys.who(given.credentials if given else "")
    except KeysUnusable:  # the log says why; whoever has no key need not know which file it is
        raise Refused(503, "Keys cannot be checked now; the service's log says why.", code="keys_unusable") from None
    if name is None:
        raise Refused(401, "Incorrect API key provided.", code="invalid_api_key")
    return Caller(name)
