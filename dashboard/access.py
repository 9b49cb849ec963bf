"""Who opens the dashboard: by personal link, by single sign-on, or unregistered.

While no admin is registered, whoever opens the dashboard on this machine is an admin. Where the dashboard is reachable
from other machines, the first person needs the link in its log, so that an emptied or lost database makes nobody an
admin.

The parts of pages that run in the browser send a session token: the reviewer's id and an expiry time, signed with a key
beside the database. It stays valid when the server restarts, and ends when the reviewer's personal link is renewed.
"""

import hashlib
import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import streamlit as st

from naruto_core.access_control import is_loopback, signing_key
from naruto_core.ratings import Reviewer, Role
from naruto_core.store.database import Ratings

_log = logging.getLogger("naruto.dashboard")
VALID = timedelta(hours=12)
COOKIE = "naruto_link"
_OWN_LINK = "own_link"  # in the state of a session
_KEY_FILE = "dashboard.key"
_MIN_COOKIE_SECRET = 16  # characters; Streamlit accepts an empty secret, with which anybody could sign a login


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who opens a page; `reviewer` is None for a person who is not registered."""

    reviewer: Reviewer | None
    is_admin: bool


def listens_locally() -> bool:
    """Whether Streamlit listens on this machine only; its default is every address."""
    return is_loopback(st.get_option("server.address") or "")


def first_admin_token(root: Path) -> str:
    """The token of the link for the first person, where the dashboard is reachable from other machines."""
    return _sign(root, "first person")


def visitor(ratings: Ratings, token: str, email: str, first_token: str = "") -> Visitor:
    """The visitor with this link's token, or with this address of single sign-on.

    While no admin is registered, whoever has the token `first_token` is an admin; everybody, where it is "".
    """
    reviewer = ratings.reviewer_by_token(token) if token else None
    reviewer = reviewer or (ratings.find_reviewer(email=email) if email else None)
    if reviewer is not None:
        return Visitor(reviewer, reviewer.role is Role.ADMIN)
    may_be_first = not first_token or hmac.compare_digest(first_token.encode(), token.encode())
    return Visitor(None, may_be_first and not ratings.has_admin())


def credentials() -> tuple[str, str]:
    """The token of the visitor's link and the address of their single sign-on; each "" when missing."""
    user = st.user.to_dict()
    token = st.session_state.get(_OWN_LINK) or st.context.cookies.get(COOKIE, "")
    return str(token), verified_email(user, st.secrets) if user.get("is_logged_in") else ""


def remember_link(token: str) -> None:
    """Let this session go on with a token that its visitor was just given, whose cookie the browser sends later."""
    st.session_state[_OWN_LINK] = token


def verified_email(login: Mapping[str, object], settings: Mapping[str, Any]) -> str:
    """The verified address of a `login`; "" without one, and where the cookie secret in `settings` is too short."""
    verified = str(login.get("email_verified", True)).lower()  # some providers send the word in place of the value
    if not login.get("is_logged_in") or verified == "false":
        return ""
    if len(str(settings.get("auth", {}).get("cookie_secret", ""))) < _MIN_COOKIE_SECRET:
        _log.error("single sign-on is off: [auth] cookie_secret is shorter than %d characters", _MIN_COOKIE_SECRET)
        return ""
    return str(login.get("email", ""))


def make_session_token(root: Path, reviewer: Reviewer, now: datetime) -> str:
    """A session token of `reviewer`, valid for `VALID` from `now`."""
    claim = f"{reviewer.id}.{int((now + VALID).timestamp())}"
    return f"{claim}.{_sign(root, f'{claim}.{reviewer.link_digest}')}"


def read_session_token(root: Path, ratings: Ratings, token: str, now: datetime) -> str | None:
    """The reviewer's id in a session token.

    None for a token that is expired, was not signed here, or is older than the reviewer's personal link.
    """
    claim, _, signature = token.rpartition(".")
    reviewer_id, _, expiry = claim.partition(".")
    reviewer = ratings.find_reviewer(reviewer_id=reviewer_id) if token.isascii() else None
    expected = _sign(root, f"{claim}.{reviewer.link_digest if reviewer else ''}")  # also to find a damaged key
    if reviewer is None or not hmac.compare_digest(expected, signature):
        return None
    return reviewer_id if now.timestamp() < int(expiry) else None  # well-formed, because it was signed here


def _sign(root: Path, claim: str) -> str:
    return hmac.new(signing_key(root / _KEY_FILE), claim.encode(), hashlib.sha256).hexdigest()
