"""Personal links. `/enter/TOKEN` keeps the token in a cookie that no script can read, and leaves no trace of it in the
addresses of pages."""

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route

from dashboard.access import COOKIE

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


ROUTES = [Route("/enter/{token}", enter), Route("/leave", leave)]
