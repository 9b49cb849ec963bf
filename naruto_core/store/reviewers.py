"""Who may judge, and who may lead. Tokens of personal links are kept as digests only."""

import hashlib
import hmac
import secrets

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from naruto_core.errors import RatingRefused
from naruto_core.ratings import Reviewer, Role
from naruto_core.store.connection import Database
from naruto_core.store.rating_schema import ReviewerRow

_LONGEST_NAME = 80


class Reviewers(Database):
    """The people. While there is none, whoever opens the dashboard is its lead."""

    def add_reviewer(self, name: str, role: Role, email: str = "") -> tuple[Reviewer, str]:
        """A new reviewer and the token of their personal link, which is not kept.

        RatingRefused for an empty, overlong or used name, a used `email`, and for anybody before there is a lead: from
        the first person on the dashboard asks for links, and somebody must be able to get in.
        """
        name, token = name.strip(), secrets.token_urlsafe(24)
        if not 0 < len(name) <= _LONGEST_NAME:
            raise RatingRefused(f"a name has 1 to {_LONGEST_NAME} letters.")
        with self._writing() as session:
            if session.scalar(select(ReviewerRow.id).where(ReviewerRow.name == name)):
                raise RatingRefused(f"there is a reviewer called {name!r} already: choose another name.")
            if email and session.scalar(select(ReviewerRow.id).where(ReviewerRow.email == email)):
                raise RatingRefused(f"there is a reviewer with the address {email!r} already.")
            if role is not Role.LEAD and not _leads(session):
                raise RatingRefused("add a lead first: from then on only people with a link get in.")
            row = ReviewerRow(
                id=secrets.token_hex(8), name=name, role=role, email=email or None, token_sha256=_digest(token)
            )
            session.add(row)
            return row.noun(), token

    def renew_link(self, reviewer_id: str) -> str:
        """The token of a new personal link; the old one opens nothing any more."""
        token = secrets.token_urlsafe(24)
        with self._writing() as session:
            session.get_one(ReviewerRow, reviewer_id).token_sha256 = _digest(token)
            return token

    def reviewer(self, token: str) -> Reviewer | None:
        """Whose personal link has this token."""
        digest = _digest(token)
        with self._reading() as session:
            row = session.scalar(select(ReviewerRow).where(ReviewerRow.token_sha256 == digest))
            return row.noun() if row and hmac.compare_digest(row.token_sha256, digest) else None

    def reviewer_called(self, *, reviewer_id: str = "", email: str = "") -> Reviewer | None:
        """The reviewer with this id, or with this address."""
        asked = ReviewerRow.id == reviewer_id if reviewer_id else ReviewerRow.email == email
        with self._reading() as session:
            row = session.scalar(select(ReviewerRow).where(asked)) if reviewer_id or email else None
            return row.noun() if row else None

    def reviewers(self) -> list[Reviewer]:
        """Everybody, by name."""
        with self._reading() as session:
            return [row.noun() for row in session.scalars(select(ReviewerRow).order_by(ReviewerRow.name))]


def _leads(session: Session) -> int:
    asked = select(func.count()).select_from(ReviewerRow).where(ReviewerRow.role == Role.LEAD)
    return session.scalar(asked) or 0


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
