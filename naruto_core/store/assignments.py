"""Who is asked what, and what they said. Every method is one transaction.

A unit is given to a reviewer under a lease, and never twice to the same one, except to see whether they agree with
themselves. Events are appended: a vote that is undone stays in the record and no longer counts. The page makes a nonce
for each deed, so that a double click, a reload or a reply that got lost counts once.
"""

import random
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from naruto_core.errors import RatingRefused
from naruto_core.ratings import Action, Assignment, RatingEvent
from naruto_core.store.campaigns import check, find_campaign, in_order_shown, to_text
from naruto_core.store.connection import Database
from naruto_core.store.rating_schema import AssignmentRow, CampaignRow, RatingEventRow, UnitRow

LEASE = timedelta(minutes=10)
_BEFORE_A_REPEAT = 8  # units judged in between, so that nobody answers from memory
_DRAWS = 30


class Assignments(Database):
    """What each reviewer is asked, and every deed of theirs."""

    def next_assignment(
        self,
        campaign_id: str,
        reviewer_id: str,
        now: datetime,
        prefer: str = "",
        draw: random.Random | None = None,
        besides: Sequence[str] = (),
    ) -> Assignment | None:
        """What the reviewer judges next; None when there is nothing left for them.

        What they hold already comes first. Else, with the campaign's share of informative units, the least rated one
        of the pairing `prefer` ("" for any), otherwise an even draw from all that are open; now and then one they have
        judged, with the sides changed. Leases that ran out make room for others. `besides` are the assignments (one at
        most counts) that the page shows already while it loads the next.
        """
        draw = draw or random.SystemRandom()
        with self._writing() as session:
            campaign = find_campaign(session, campaign_id)
            if campaign.closed_at is not None:
                return None
            holding = _own(campaign_id, reviewer_id).where(~AssignmentRow.done)
            shown_already = AssignmentRow.id.in_(tuple(besides)[:1])
            held = session.scalar(holding.where(~shown_already).order_by(AssignmentRow.leased_until).limit(1))
            if held is None:
                _release(session, now)
                held = _repeat(session, campaign, reviewer_id, draw) or _fresh(
                    session, campaign, reviewer_id, prefer, draw
                )
            if held is None:
                return None
            held.leased_until = now + LEASE
            session.add(held)
            session.flush()
            return _shown(session, held)

    def record(self, reviewer_id: str, deed: RatingEvent, now: datetime) -> bool:
        """Append `deed`; whether it is new: the same nonce a second time changes nothing.

        RatingRefused for somebody else's assignment, one whose lease ran out and that was given to another, a closed
        campaign, an answer to another question, or something that was already done with it.
        """
        if (deed.act is Action.VOTE) != (deed.answer is not None):
            raise RatingRefused("a vote, and nothing else, has an answer.")
        with self._writing() as session:
            if session.scalar(select(RatingEventRow.id).where(RatingEventRow.nonce == deed.nonce)):
                return False
            row = session.get(AssignmentRow, deed.assignment_id)
            if row is None or row.reviewer_id != reviewer_id:
                raise RatingRefused("this one is no longer yours; the next one is shown.")
            campaign = find_campaign(session, row.campaign_id)
            if campaign.closed_at is not None:
                raise RatingRefused("this campaign is closed: thank you, nothing more is needed.")
            if row.done is (deed.act is not Action.UNDO):
                raise RatingRefused(
                    "there is nothing to undo." if deed.act is Action.UNDO else "this one was answered already."
                )
            if deed.answer is not None:
                check(deed.answer, campaign.mode)
            if not row.repeat:
                change = _freed(session, row) if deed.act is Action.UNDO else -(deed.act is Action.SKIP)
                session.get_one(UnitRow, row.unit_id).given += change
            event = RatingEventRow(
                assignment_id=row.id, act=deed.act, answer=None if deed.answer is None else to_text(deed.answer),
                nonce=deed.nonce, seconds=deed.seconds, viewport=deed.viewport[:20], at=now,
            )  # fmt: skip
            session.add(event)
            session.flush()
            row.done = deed.act is not Action.UNDO
            row.leased_until, row.last_event = now + LEASE, event.id
            return True

    def last_done(self, campaign_id: str, reviewer_id: str) -> Assignment | None:
        """What the reviewer answered last, to be undone and shown again."""
        asked = _own(campaign_id, reviewer_id).where(AssignmentRow.done, AssignmentRow.last_event.is_not(None))
        with self._reading() as session:
            row = session.scalar(asked.order_by(AssignmentRow.last_event.desc()).limit(1))
            return _shown(session, row) if row else None

    def judged(self, campaign_id: str, reviewer_id: str) -> int:
        """How many assignments the reviewer has answered or skipped."""
        asked = select(func.count()).select_from(AssignmentRow).where(*_of(campaign_id, reviewer_id))
        with self._reading() as session:
            return session.scalar(asked.where(AssignmentRow.done)) or 0


def next_unit(campaign_id: str, reviewer_id: str, pairing: str) -> Select[tuple[UnitRow]]:
    """The least rated unit that the reviewer has not seen, in the order of the draw; of one pairing, or "" of any."""
    asked = select(UnitRow).where(UnitRow.campaign_id == campaign_id, *_open_to(reviewer_id))
    if pairing:
        asked = asked.where(UnitRow.pairing == pairing)
    return asked.order_by(UnitRow.given, UnitRow.position).limit(1)


def _open_to(reviewer_id: str) -> tuple[ColumnElement[bool], ...]:
    seen = select(AssignmentRow.id).where(AssignmentRow.reviewer_id == reviewer_id, AssignmentRow.unit_id == UnitRow.id)
    return UnitRow.given < UnitRow.wanted, ~seen.exists()


def _of(campaign_id: str, reviewer_id: str) -> tuple[ColumnElement[bool], ...]:
    return AssignmentRow.reviewer_id == reviewer_id, AssignmentRow.campaign_id == campaign_id


def _own(campaign_id: str, reviewer_id: str) -> Select[tuple[AssignmentRow]]:
    return select(AssignmentRow).where(*_of(campaign_id, reviewer_id))


def _fresh(
    session: Session, campaign: CampaignRow, reviewer_id: str, prefer: str, draw: random.Random
) -> AssignmentRow | None:
    """A unit the reviewer has not seen, with the probability that it was this one."""
    best = session.scalar(next_unit(campaign.id, reviewer_id, prefer)) if prefer else None
    best = best or session.scalar(next_unit(campaign.id, reviewer_id, ""))
    if best is None:
        return None
    unit = best if draw.random() < campaign.informative else _even(session, campaign, reviewer_id, draw)
    even = (1 - campaign.informative) / _open(session, campaign.id, reviewer_id)
    unit.given += 1
    shown = "".join(map(str, draw.sample(range(len(unit.samples)), len(unit.samples))))
    return _row(unit, reviewer_id, shown, even + campaign.informative * (unit is best), repeat=False)


def _even(session: Session, campaign: CampaignRow, reviewer_id: str, draw: random.Random) -> UnitRow:
    """Any open unit with the same probability: places are drawn until an open one is hit, or counted off."""
    asked = select(UnitRow).where(UnitRow.campaign_id == campaign.id, *_open_to(reviewer_id))
    for _ in range(_DRAWS):
        hit = session.scalar(asked.where(UnitRow.position == draw.randrange(campaign.units)))
        if hit is not None:
            return hit
    place = draw.randrange(_open(session, campaign.id, reviewer_id))
    return session.scalars(asked.order_by(UnitRow.position).offset(place).limit(1)).one()


def _open(session: Session, campaign_id: str, reviewer_id: str) -> int:
    """How many units are open to the reviewer: all open ones, less those of them that they have seen."""
    room = select(func.count()).select_from(UnitRow).where(
        UnitRow.campaign_id == campaign_id, UnitRow.given < UnitRow.wanted
    )  # fmt: skip
    seen = room.join(AssignmentRow, AssignmentRow.unit_id == UnitRow.id).where(
        *_of(campaign_id, reviewer_id), ~AssignmentRow.repeat
    )
    return (session.scalar(room) or 0) - (session.scalar(seen) or 0)


def _repeat(session: Session, campaign: CampaignRow, reviewer_id: str, draw: random.Random) -> AssignmentRow | None:
    """Of what the reviewer judged longest ago, the other way round; None when it is not the time for it."""
    if draw.random() >= campaign.repeats:
        return None
    repeated = select(AssignmentRow.unit_id).where(*_of(campaign.id, reviewer_id), AssignmentRow.repeat)
    own = _own(campaign.id, reviewer_id).where(AssignmentRow.done)
    recent = session.scalars(own.order_by(AssignmentRow.last_event.desc()).limit(_BEFORE_A_REPEAT)).all()
    voted = own.join(RatingEventRow, RatingEventRow.id == AssignmentRow.last_event).where(
        RatingEventRow.act == Action.VOTE, ~AssignmentRow.repeat, AssignmentRow.unit_id.not_in(repeated)
    )
    first = session.scalar(voted.order_by(AssignmentRow.last_event).limit(1))
    if first is None or len(recent) < _BEFORE_A_REPEAT or first in recent:
        return None
    unit = session.get_one(UnitRow, first.unit_id)
    return _row(unit, reviewer_id, first.shown[::-1], campaign.repeats, repeat=True)


def _row(unit: UnitRow, reviewer_id: str, shown: str, propensity: float, *, repeat: bool) -> AssignmentRow:
    return AssignmentRow(
        id=secrets.token_hex(16), campaign_id=unit.campaign_id, unit_id=unit.id, reviewer_id=reviewer_id, shown=shown,
        repeat=repeat, propensity=propensity, done=False, last_event=None,
    )  # fmt: skip


def _freed(session: Session, row: AssignmentRow) -> int:
    """1 when what is undone was a skip, which had made room for somebody else."""
    return int(row.last_event is not None and session.get_one(RatingEventRow, row.last_event).act is Action.SKIP)


def _release(session: Session, now: datetime) -> None:
    """Take back what was given out and not answered in time.

    An assignment with events stays, as if it were skipped: the person has seen the unit.
    """
    for row in session.scalars(select(AssignmentRow).where(~AssignmentRow.done, AssignmentRow.leased_until < now)):
        if not row.repeat:
            session.get_one(UnitRow, row.unit_id).given -= 1
        if row.last_event is None:
            session.delete(row)
        else:
            row.done = True
    session.flush()


def _shown(session: Session, row: AssignmentRow) -> Assignment:
    unit = session.get_one(UnitRow, row.unit_id)
    return Assignment(row.id, row.campaign_id, unit.text, in_order_shown(unit.samples, row.shown), row.leased_until)
