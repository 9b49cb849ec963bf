"""Who is looking. A personal link, a single sign-on, or, while nobody is registered yet, whoever opens the dashboard on
this machine. Beyond this machine the first person needs the link that the dashboard writes into its log, so that a
record that was emptied or lost makes nobody the lead.

The pages hand their parts in the browser a pass: the reviewer's id and an hour of expiry, signed with a key that lies
beside the record. It outlives a restart of the server and says nothing that could be guessed.
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
_KEY_FILE = "dashboard.key"
_SHORTEST_COOKIE_SECRET = 16  # characters; Streamlit itself takes an empty one, with which anybody could sign a login


@dataclass(frozen=True, slots=True)
class Visitor:
    """`reviewer` is None for a stranger, and for the only person of a dashboard that nobody is registered on."""

    reviewer: Reviewer | None
    lead: bool


def listens_locally() -> bool:
    """Whether Streamlit listens on this machine only; its default is every address."""
    return is_loopback(st.get_option("server.address") or "")


def first_token(root: Path) -> str:
    """The token of the link that lets the first person in where the dashboard is reached from elsewhere."""
    return _signed(root, "first person")


def visitor(ratings: Ratings, token: str, email: str, first: str = "") -> Visitor:
    """Who has this link, or has signed on with this address.

    While nobody is registered, the lead is whoever has the token `first`; anybody, where it is empty.
    """
    found = ratings.reviewer(token) if token else None
    found = found or (ratings.reviewer_called(email=email) if email else None)
    if found is not None:
        return Visitor(found, found.role is Role.LEAD)
    return Visitor(None, (not first or hmac.compare_digest(first.encode(), token.encode())) and not ratings.reviewers())


def presented() -> tuple[str, str]:
    """The token of the visitor's link, and the address that a single sign-on vouches for; empty without."""
    user = st.user.to_dict()
    return st.context.cookies.get(COOKIE, ""), vouched_email(user, st.secrets) if user.get("is_logged_in") else ""


def vouched_email(login: Mapping[str, object], settings: Mapping[str, Any]) -> str:
    """The verified address of a `login`; empty without, and where `settings` let anybody sign a login of their own."""
    if not login.get("is_logged_in") or login.get("email_verified", True) is False:
        return ""
    if len(str(settings.get("auth", {}).get("cookie_secret", ""))) < _SHORTEST_COOKIE_SECRET:
        _log.error("nobody can sign on: [auth] cookie_secret is shorter than %d characters", _SHORTEST_COOKIE_SECRET)
        return ""
    return str(login.get("email", ""))


def make_session_token(root: Path, reviewer: Reviewer, now: datetime) -> str:
    """A pass for `VALID` from `now`."""
    claim = f"{reviewer.id}.{int((now + VALID).timestamp())}"
    return f"{claim}.{_signed(root, claim)}"


def read_session_token(root: Path, text: str, now: datetime) -> str | None:
    """The reviewer's id, when the pass is ours and still valid."""
    claim, _, signature = text.rpartition(".")
    if not text.isascii() or not hmac.compare_digest(_signed(root, claim), signature):
        return None
    reviewer_id, _, expiry = claim.partition(".")  # what we signed, we wrote
    return reviewer_id if now.timestamp() < int(expiry) else None


def _signed(root: Path, claim: str) -> str:
    return hmac.new(signing_key(root / _KEY_FILE), claim.encode(), hashlib.sha256).hexdigest()
