"""Reviewers and admins. Of the tokens of personal links only digests are stored."""

import hashlib
import hmac
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from naruto_core.errors import AccessRefused, NotRecorded, RatingRefused, RecipeInvalid
from naruto_core.ratings import Reviewer, Role
from naruto_core.store.connection import Repository
from naruto_core.store.rating_schema import ReviewerRow

_LONGEST_NAME = 80
_WITH_ID = select(ReviewerRow).where(ReviewerRow.id == bindparam("value"))  # built once: every request asks for one
_WITH_ADDRESS = (  # of two that earlier versions took for different ones, the one that is written so
    select(ReviewerRow)
    .where(func.lower(ReviewerRow.email) == func.lower(bindparam("value")))
    .order_by(ReviewerRow.email != bindparam("value"), ReviewerRow.id)
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A run that an admin asks for: a recipe, a dataset ("" for the recipe's), KEY=VALUE texts, and who asks.

    `Reviewers.request_run` makes it, after it has checked who asks.
    """

    recipe: str
    dataset: str
    settings: tuple[str, ...]
    by: str

    @property
    def options(self) -> tuple[str, ...]:
        """The options of `naruto run`, `naruto plan` and `naruto queue`."""
        dataset = (f"--dataset={self.dataset}",) if self.dataset else ()
        return f"--recipe={self.recipe}", *dataset, *(f"--set={text}" for text in self.settings)

    @property
    def command(self) -> str:
        """The command that starts the run in a terminal."""
        return shlex.join(("naruto", "run", *self.options))


class Reviewers(Repository):
    """Registered people. While there is no admin, whoever opens the dashboard has the rights of an admin."""

    def add_reviewer(self, name: str, role: Role, email: str = "", *, example: bool = False) -> tuple[Reviewer, str]:
        """Add a reviewer; returns them and the token of their personal link, which is not stored.

        Raises RatingRefused for an empty, too long or used name, a used `email`, and for a reviewer before the first
        admin: from the first admin on, the dashboard needs links, and an admin must be able to make them. A made-up
        reviewer of an `example` may come before, because nobody opens the dashboard by their link.
        """
        name, token = name.strip(), secrets.token_urlsafe(24)
        if not 0 < len(name) <= _LONGEST_NAME:
            raise RatingRefused(f"a name has 1 to {_LONGEST_NAME} letters.")
        with self._writing() as session:
            if session.scalar(select(ReviewerRow.id).where(ReviewerRow.name == name)):
                raise RatingRefused(f"the name {name!r} is used by another reviewer: choose another name.")
            if email and session.connection().execute(_WITH_ADDRESS, {"value": email}).first():
                raise RatingRefused(f"the address {email!r} is used by another reviewer.")
            if role is not Role.ADMIN and not example and not _count_admins(session):
                raise RatingRefused(
                    "add an admin first: once an admin is registered, only people with a link can open the dashboard."
                )
            row = ReviewerRow(
                id=secrets.token_hex(8), name=name, role=role, email=email or None, token_sha256=_digest(token)
            )
            session.add(row)
            return row.to_domain(), token

    def renew_link(self, reviewer_id: str = "", *, name: str = "") -> str:
        """Replace the personal link of a reviewer; returns the token of the new one.

        The old link stops working, and so does what was opened with it.

        The reviewer is given by id or by `name`. Raises NotRecorded when there is none.
        """
        token = secrets.token_urlsafe(24)
        with self._writing() as session:
            condition = ReviewerRow.name == name if name else ReviewerRow.id == reviewer_id
            row = session.scalar(select(ReviewerRow).where(condition))
            if row is None:
                names = ", ".join(session.scalars(select(ReviewerRow.name).order_by(ReviewerRow.name))) or "nobody"
                raise NotRecorded(f"nobody is registered as {name or reviewer_id!r}; registered: {names}.")
            row.token_sha256 = _digest(token)
            return token

    def has_admin(self) -> bool:
        """Whether an admin is registered: from then on the dashboard needs personal links."""
        with self._reading() as session:
            return _count_admins(session) > 0

    def reviewer_by_token(self, token: str) -> Reviewer | None:
        """The reviewer whose personal link has this token, or None."""
        digest = _digest(token)
        with self._reading() as session:
            row = session.scalar(select(ReviewerRow).where(ReviewerRow.token_sha256 == digest))
            return row.to_domain() if row and hmac.compare_digest(row.token_sha256, digest) else None

    def find_reviewer(self, *, reviewer_id: str = "", email: str = "") -> Reviewer | None:
        """The reviewer with this id, or with this address, in capitals or not; None when there is none."""
        if not (reviewer_id or email):
            return None
        with self._reading_rows() as connection:
            statement = _WITH_ID if reviewer_id else _WITH_ADDRESS
            row = connection.execute(statement, {"value": reviewer_id or email}).one_or_none()
            return Reviewer(row.id, row.name, row.role, row.email or "", row.token_sha256) if row else None

    def request_run(
        self, reviewer_id: str | None, recipe: str, dataset: str = "", settings: Sequence[str] = ()
    ) -> RunRequest:
        """The request of a person for a run; it changes nothing. `settings` are texts KEY=VALUE.

        Only admins may ask; None stands for a person who is not registered, who may while there is no admin. Raises
        AccessRefused for anybody else, and RecipeInvalid without a recipe, for a setting without "=", and for control
        characters. Whether the recipe and its keys exist, `naruto plan` says.
        """
        with self._reading() as session:
            row = session.get(ReviewerRow, reviewer_id) if reviewer_id else None
            if not (row is not None and row.role is Role.ADMIN) and (reviewer_id or _count_admins(session)):
                raise AccessRefused("only an admin may start a run: ask one of them, or open your own link again.")
            by = row.name if row else "somebody on the dashboard"
        stripped = tuple(text.strip() for text in settings if text.strip())
        request = RunRequest(recipe.strip(), dataset.strip(), stripped, by)
        if not request.recipe:
            raise RecipeInvalid("name a recipe, for example mini.")
        if wrong := next((text for text in stripped if not text.partition("=")[0].strip() or "=" not in text), ""):
            raise RecipeInvalid(f"{wrong[:100]!r} is no KEY=VALUE: write one setting a line, like training.rank=8.")
        if not all(text.isprintable() for text in (request.recipe, request.dataset, *stripped)):
            raise RecipeInvalid("the recipe, the dataset or a setting has control characters: type it again.")
        return request

    def reviewers(self) -> list[Reviewer]:
        """Everybody who is registered, by name."""
        with self._reading() as session:
            return [row.to_domain() for row in session.scalars(select(ReviewerRow).order_by(ReviewerRow.name))]


def _count_admins(session: Session) -> int:
    query = select(func.count()).select_from(ReviewerRow).where(ReviewerRow.role == Role.ADMIN)
    return session.scalar(query) or 0


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
