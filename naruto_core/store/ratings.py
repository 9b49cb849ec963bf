"""Who is asked what, and what they said. Every method is one transaction.

A comparison is given to a reviewer under a lease, and never twice to the same one. Events are appended: a vote that is
undone stays in the record and no longer counts. The page makes a nonce for each deed, so that a double click, a reload
or a reply that got lost counts once.
"""

import hashlib
import hmac
import random
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, func, insert, select
from sqlalchemy.orm import Session

from naruto_core.errors import NotRecorded, RatingRefused
from naruto_core.ratings import (
    Act,
    Assignment,
    Campaign,
    Comparison,
    Deed,
    Outcome,
    Rating,
    Reviewer,
    Role,
    Standing,
)
from naruto_core.store.connection import Database
from naruto_core.store.rating_schema import (
    AssignmentRow,
    CampaignRow,
    ComparisonRow,
    RatingEventRow,
    ReviewerRow,
)

LEASE = timedelta(minutes=10)
_AT_ONCE = 500


class Ratings(Database):
    """Campaigns, their reviewers, and the events that make ratings."""

    def add_reviewer(self, name: str, role: Role) -> tuple[Reviewer, str]:
        """A new reviewer and the token of their personal link, which is not kept; RatingRefused for a name in use."""
        token = secrets.token_urlsafe(24)
        with self._writing() as session:
            if session.scalar(select(ReviewerRow.id).where(ReviewerRow.name == name)):
                raise RatingRefused(f"there is a reviewer called {name!r} already: choose another name.")
            row = ReviewerRow(id=_opaque(), name=name, role=role, token_sha256=_digest(token))
            session.add(row)
            return row.noun(), token

    def reviewer(self, token: str) -> Reviewer | None:
        """Whose personal link has this token."""
        digest = _digest(token)
        with self._reading() as session:
            row = session.scalar(select(ReviewerRow).where(ReviewerRow.token_sha256 == digest))
            return row.noun() if row and hmac.compare_digest(row.token_sha256, digest) else None

    def open_campaign(
        self, name: str, question: str, comparisons: Sequence[Comparison], seed: int, now: datetime
    ) -> Campaign:
        """A campaign over `comparisons`, which are given in an order drawn by `seed`."""
        order = random.Random(seed).sample(range(len(comparisons)), len(comparisons))
        with self._writing() as session:
            if session.scalar(select(CampaignRow.id).where(CampaignRow.name == name)):
                raise RatingRefused(f"there is a campaign called {name!r} already: choose another name.")
            row = CampaignRow(id=_opaque(), name=name, question=question, opened_at=now)
            session.add(row)
            session.flush()
            values = [
                {"campaign_id": row.id, "position": place, "prompt": c.prompt, "seed": c.seed, "first": c.first,
                 "second": c.second, "wanted": c.wanted, "given": 0}
                for place, c in zip(order, comparisons, strict=True)
            ]  # fmt: skip
            for start in range(0, len(values), _AT_ONCE):
                session.execute(insert(ComparisonRow), values[start : start + _AT_ONCE])
            return row.noun()

    def close_campaign(self, campaign_id: str, now: datetime) -> None:
        """No more votes; what is there stays."""
        with self._writing() as session:
            _campaign(session, campaign_id).closed_at = now

    def next_assignment(self, campaign_id: str, reviewer_id: str, now: datetime) -> Assignment | None:
        """What the reviewer judges next: what they hold already, or the least rated comparison they have not seen.

        None when there is nothing left for them. Leases that ran out make room for others.
        """
        with self._writing() as session:
            if _campaign(session, campaign_id).closed_at is not None:
                return None
            held = session.scalar(_own(campaign_id, reviewer_id).where(~AssignmentRow.done).limit(1))
            if held is not None:
                held.leased_until = now + LEASE
                return _shown(session, held)
            _release(session, now)
            comparison = session.scalar(next_comparison(campaign_id, reviewer_id))
            if comparison is None:
                return None
            comparison.given += 1
            row = AssignmentRow(
                id=_opaque(),
                comparison_id=comparison.id,
                reviewer_id=reviewer_id,
                swapped=secrets.randbelow(2) == 1,
                done=False,
                leased_until=now + LEASE,
            )
            session.add(row)
            session.flush()
            return _shown(session, row)

    def record(self, reviewer_id: str, deed: Deed, now: datetime) -> bool:
        """Append `deed`; whether it is new: the same nonce a second time changes nothing.

        RatingRefused for somebody else's assignment, one whose lease ran out and that was given to another, a closed
        campaign, or something that was already done with it.
        """
        if (deed.act is Act.VOTE) != (deed.outcome is not None):
            raise RatingRefused("a vote, and nothing else, has an outcome.")
        with self._writing() as session:
            if session.scalar(select(RatingEventRow.id).where(RatingEventRow.nonce == deed.nonce)):
                return False
            row = session.get(AssignmentRow, deed.assignment_id)
            if row is None or row.reviewer_id != reviewer_id:
                raise RatingRefused("this pair is no longer yours; the next one is shown.")
            comparison = session.get_one(ComparisonRow, row.comparison_id)
            if _campaign(session, comparison.campaign_id).closed_at is not None:
                raise RatingRefused("this campaign is closed: thank you, nothing more is needed.")
            if row.done is (deed.act is not Act.UNDO):
                raise RatingRefused(
                    "there is nothing to undo." if deed.act is Act.UNDO else "this pair was answered already."
                )
            comparison.given += _freed(session, row) if deed.act is Act.UNDO else -(deed.act is Act.SKIP)
            row.done = deed.act is not Act.UNDO
            row.leased_until = now + LEASE
            session.add(
                RatingEventRow(
                    assignment_id=row.id, act=deed.act, outcome=deed.outcome, nonce=deed.nonce,
                    seconds=deed.seconds, viewport=deed.viewport[:20], at=now,
                )
            )  # fmt: skip
            return True

    def last_done(self, campaign_id: str, reviewer_id: str) -> Assignment | None:
        """What the reviewer answered last, to be undone and shown again."""
        with self._reading() as session:
            row = session.scalar(
                _own(campaign_id, reviewer_id)
                .join(RatingEventRow, RatingEventRow.assignment_id == AssignmentRow.id)
                .where(AssignmentRow.done)
                .order_by(RatingEventRow.id.desc())
                .limit(1)
            )
            return _shown(session, row) if row else None

    def ratings(self, campaign_id: str) -> list[Rating]:
        """The votes that count: of each assignment the last event, where that is a vote."""
        last = select(func.max(RatingEventRow.id)).group_by(RatingEventRow.assignment_id)
        wanted = (
            select(RatingEventRow, AssignmentRow, ComparisonRow)
            .join(AssignmentRow, AssignmentRow.id == RatingEventRow.assignment_id)
            .join(ComparisonRow, ComparisonRow.id == AssignmentRow.comparison_id)
            .where(ComparisonRow.campaign_id == campaign_id, RatingEventRow.id.in_(last))
            .where(RatingEventRow.act == Act.VOTE)
            .order_by(RatingEventRow.id)
        )
        with self._reading() as session:
            return [_rating(*row) for row in session.execute(wanted).tuples()]

    def standing(self, campaign_id: str) -> Standing:
        """How far a campaign is."""
        of_campaign = ComparisonRow.campaign_id == campaign_id
        with self._reading() as session:
            row = session.execute(
                select(func.count(), func.coalesce(func.sum(ComparisonRow.wanted), 0)).where(of_campaign)
            ).one()
        return Standing(row[0], row[1], len(self.ratings(campaign_id)))


def next_comparison(campaign_id: str, reviewer_id: str) -> Select[tuple[ComparisonRow]]:
    """The least rated comparison that the reviewer has not seen, in the order of the draw."""
    seen = select(AssignmentRow.id).where(
        AssignmentRow.reviewer_id == reviewer_id, AssignmentRow.comparison_id == ComparisonRow.id
    )
    return (
        select(ComparisonRow)
        .where(ComparisonRow.campaign_id == campaign_id, ComparisonRow.given < ComparisonRow.wanted, ~seen.exists())
        .order_by(ComparisonRow.given, ComparisonRow.position)
        .limit(1)
    )


def _campaign(session: Session, campaign_id: str) -> CampaignRow:
    row = session.get(CampaignRow, campaign_id)
    if row is None:
        raise NotRecorded(f"there is no campaign {campaign_id}.")
    return row


def _own(campaign_id: str, reviewer_id: str) -> Select[tuple[AssignmentRow]]:
    return (
        select(AssignmentRow)
        .join(ComparisonRow, ComparisonRow.id == AssignmentRow.comparison_id)
        .where(AssignmentRow.reviewer_id == reviewer_id, ComparisonRow.campaign_id == campaign_id)
    )


def _freed(session: Session, row: AssignmentRow) -> int:
    """1 when what is undone was a skip, which had made room for somebody else."""
    last = select(RatingEventRow.act).where(RatingEventRow.assignment_id == row.id)
    return int(session.scalar(last.order_by(RatingEventRow.id.desc()).limit(1)) is Act.SKIP)


def _release(session: Session, now: datetime) -> None:
    """Take back what was given out and not answered in time.

    An assignment with events stays, as if it were skipped: the person has seen the pair.
    """
    for row in session.scalars(select(AssignmentRow).where(~AssignmentRow.done, AssignmentRow.leased_until < now)):
        session.get_one(ComparisonRow, row.comparison_id).given -= 1
        if session.scalar(select(RatingEventRow.id).where(RatingEventRow.assignment_id == row.id).limit(1)):
            row.done = True
        else:
            session.delete(row)
    session.flush()


def _shown(session: Session, row: AssignmentRow) -> Assignment:
    comparison = session.get_one(ComparisonRow, row.comparison_id)
    left, right = _sides(row, comparison)
    return Assignment(row.id, comparison.campaign_id, comparison.prompt, left, right, row.leased_until)


def _sides(row: AssignmentRow, comparison: ComparisonRow) -> tuple[str, str]:
    first, second = comparison.first, comparison.second
    return (second, first) if row.swapped else (first, second)


def _rating(event: RatingEventRow, row: AssignmentRow, comparison: ComparisonRow) -> Rating:
    left, right = _sides(row, comparison)
    outcome = event.outcome or Outcome.TIE
    return Rating(row.reviewer_id, comparison.prompt, comparison.seed, left, right, outcome, event.seconds, event.at)


def _opaque() -> str:
    return secrets.token_hex(8)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
