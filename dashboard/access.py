"""Who is looking. A personal link, a single sign-on, or, while nobody is registered yet, whoever opens the dashboard.

The pages hand their parts in the browser a pass: the reviewer's id and an hour of expiry, signed with a key that lies
beside the record. It outlives a restart of the server and says nothing that could be guessed.
"""

import hashlib
import hmac
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import streamlit as st

from naruto_core.ratings import Reviewer, Role
from naruto_core.store.ratings import Ratings

VALID = timedelta(hours=12)
COOKIE = "naruto_link"
_KEY_FILE = "dashboard.key"


@dataclass(frozen=True, slots=True)
class Visitor:
    """`reviewer` is None for a stranger, and for the only person of a dashboard that nobody is registered on."""

    reviewer: Reviewer | None
    lead: bool


def visitor(ratings: Ratings, token: str, email: str) -> Visitor:
    """Who has this link, or has signed on with this address."""
    found = ratings.reviewer(token) if token else None
    found = found or (ratings.reviewer_called(email=email) if email else None)
    if found is not None:
        return Visitor(found, found.role is Role.LEAD)
    return Visitor(None, not ratings.reviewers())


def presented() -> tuple[str, str]:
    """The token of the visitor's link, and the address that a single sign-on vouches for; empty without."""
    user = st.user.to_dict()
    email = str(user.get("email", "")) if user.get("is_logged_in") else ""
    return st.context.cookies.get(COOKIE, ""), email


def make_pass(root: Path, reviewer: Reviewer, now: datetime) -> str:
    """A pass for `VALID` from `now`."""
    claim = f"{reviewer.id}.{int((now + VALID).timestamp())}"
    return f"{claim}.{_signed(root, claim)}"


def read_pass(root: Path, text: str, now: datetime) -> str | None:
    """The reviewer's id, when the pass is ours and still valid."""
    claim, _, signature = text.rpartition(".")
    if not text.isascii() or not hmac.compare_digest(_signed(root, claim), signature):
        return None
    reviewer_id, _, expiry = claim.partition(".")  # what we signed, we wrote
    return reviewer_id if now.timestamp() < int(expiry) else None


def _signed(root: Path, claim: str) -> str:
    return hmac.new(_key(root), claim.encode(), hashlib.sha256).hexdigest()


def _key(root: Path) -> bytes:
    """The key of this data root; of several that make one at the same time, the first wins."""
    path = root / _KEY_FILE
    if not path.exists():
        fresh = root / f".{_KEY_FILE}.{secrets.token_hex(8)}"
        fresh.touch(mode=0o600)
        fresh.write_bytes(secrets.token_bytes(32))
        with suppress(FileExistsError):
            path.hardlink_to(fresh)
        fresh.unlink()
    return path.read_bytes()
