"""Assign units to reviewers and record their votes. Every method is one transaction.

A unit is leased to a reviewer. A reviewer gets the same unit once, or twice where the second time tests consistency.
Every fifth new unit of a reviewer is one that others rate too, every tenth a gold unit, while there are such units.
Events are append-only: an undone vote stays in the database and no longer counts. The page makes a nonce for each
event, so that a double click, a reload or a lost reply counts once.
"""

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Integer, Select, bindparam, case, func, literal_column, select
from sqlalchemy.orm import Session

from naruto_core.errors import RatingRefused
from naruto_core.ratings import Action, Answer, Assignment, Extremes, Grades, Mode, Outcome, RatingEvent
from naruto_core.store.campaigns import IS_GOLD, find_campaign, in_shown_order
from naruto_core.store.connection import Repository
from naruto_core.store.rating_schema import AssignmentRow, CampaignRow, RatingEventRow, UnitRow
from naruto_core.store.unit_counts import change_assigned

LEASE = timedelta(minutes=10)
GRADES = range(1, 6)
_REPEAT_DISTANCE = 8  # units rated between a unit and its repeat, so that nobody answers from memory
_UNIFORM_TRIES, _FEW_UNITS = 30, 500
_OVERLAP_EVERY, _OVERLAP_TURN = 5, 2  # the third, the eighth, ... new unit of a reviewer is one that others rate too
_GOLD_EVERY, _GOLD_TURN = 10, 4  # the fifth, the fifteenth, ... is a gold unit
_IS_OVERLAP = (UnitRow.raters > literal_column("1"), ~IS_GOLD)  # as the condition of the index


class Assignments(Repository):
    """The units assigned to each reviewer, and every event of theirs."""

    def next_assignment(
        self,
        campaign_id: str,
        reviewer_id: str,
        now: datetime,
        pairing: str = "",
        rng: random.Random | None = None,
        exclude: Sequence[str] = (),
    ) -> Assignment | None:
        """The next assignment of a reviewer; None when nothing is left for them.

        An open assignment of theirs comes first, then what the quotas ask for: a gold unit, or the unit for several
        reviewers that most others were assigned already. Otherwise it is, with the campaign's share of informative
        units, the least assigned unit of `pairing` ("" for any), or else a uniform sample of all open units; sometimes
        a repeat with sides swapped. Expired leases of all reviewers are released first. `exclude` are ids of
        assignments that the page shows already while it loads the next (at most one counts). None for a closed or
        paused campaign. NotRecorded for an unknown campaign.
        """
        rng = rng or random.SystemRandom()
        with self._writing() as session:
            campaign = find_campaign(session, campaign_id)
            if campaign.closed_at is not None or campaign.paused:
                return None
            excluded = {"excluded": exclude[0] if exclude else ""}
            row = session.scalar(_OPEN, _key(campaign_id, reviewer_id) | excluded)
            if row is None:
                _release_expired(session, now)
                row = _repeat(session, campaign, reviewer_id, rng)
                row = row or _new(session, campaign, reviewer_id, pairing, rng)
            if row is None:
                return None
            row.leased_until = now + LEASE
            session.add(row)
            return _to_assignment(row)

    def record(self, reviewer_id: str, event: RatingEvent, now: datetime) -> bool:
        """Append `event` and return whether it is new: the same nonce a second time changes nothing.

        Raises RatingRefused for somebody else's assignment, an expired lease of a unit that was assigned to another
        reviewer, a closed campaign, an answer of another mode, and a second answer or undo.
        """
        if (event.action is Action.VOTE) != (event.answer is not None):
            raise RatingRefused("a vote needs an answer, and only a vote has one.")
        with self._writing() as session:
            if session.scalar(select(RatingEventRow.id).where(RatingEventRow.nonce == event.nonce)):
                return False
            row = session.get(AssignmentRow, event.assignment_id)
            if row is None or row.reviewer_id != reviewer_id:
                raise RatingRefused("these pictures are no longer assigned to you; the next ones are shown.")
            campaign = find_campaign(session, row.campaign_id)
            _check_event(event, campaign, done=row.done)
            _update_unit(session, row, event.action)
            event_row = RatingEventRow(
                assignment_id=row.id, action=event.action, answer=event.answer, nonce=event.nonce,
                seconds=event.seconds, viewport=event.viewport[:20], at=now,
            )  # fmt: skip
            session.add(event_row)
            session.flush()
            row.done = event.action is not Action.UNDO
            row.leased_until, row.last_event = now + LEASE, event_row.id
            return True

    def last_done(self, campaign_id: str, reviewer_id: str) -> Assignment | None:
        """The assignment that the reviewer answered or skipped last, to undo it and show it again."""
        done = _own(campaign_id, reviewer_id).where(AssignmentRow.done, AssignmentRow.last_event.is_not(None))
        with self._reading() as session:
            row = session.scalar(done.order_by(AssignmentRow.last_event.desc()).limit(1))
            return _to_assignment(row) if row else None

    def done_count(self, campaign_id: str, reviewer_id: str) -> int:
        """How many assignments the reviewer has answered or skipped."""
        query = select(func.count()).select_from(AssignmentRow).where(*_of_reviewer(campaign_id, reviewer_id))
        with self._reading() as session:
            return session.scalar(query.where(AssignmentRow.done)) or 0

    def left_count(self, campaign_id: str, reviewer_id: str) -> int:
        """How many units are left for the reviewer: open assignments of theirs, and units that can be assigned to them.

        Other reviewers take of the same units. Gold units and repeats are not counted before they are assigned.
        """
        query = select(func.count()).select_from(AssignmentRow).where(*_of_reviewer(campaign_id, reviewer_id))
        with self._reading() as session:
            own = session.scalar(query.where(~AssignmentRow.done)) or 0
            campaign = session.get(CampaignRow, campaign_id)
            return own + (_count_seen(session, campaign, reviewer_id).left if campaign else 0)


def _check_event(event: RatingEvent, campaign: CampaignRow, *, done: bool) -> None:
    if campaign.closed_at is not None:
        raise RatingRefused("this campaign is closed: thank you, no more votes are needed.")
    undo = event.action is Action.UNDO
    if done is not undo:
        raise RatingRefused("there is nothing to undo." if undo else "these pictures were answered already.")
    if event.answer is not None:
        _check_answer(event.answer, campaign.mode)


def _check_answer(answer: Answer, mode: Mode) -> None:
    answer_type = {Mode.PAIR: Outcome, Mode.SCALE: Grades, Mode.BEST_WORST: Extremes}[mode]
    if type(answer) is not answer_type:
        raise RatingRefused(f"this campaign asks another question: it needs an answer of mode {mode.value}.")
    if isinstance(answer, Grades) and not (answer.adherence in GRADES and answer.style in GRADES):
        raise RatingRefused("grades go from 1 to 5.")
    if isinstance(answer, Extremes) and (
        answer.best == answer.worst or not {answer.best, answer.worst} <= set(range(mode.pictures))
    ):
        raise RatingRefused("the best and the worst must be two different pictures of the four.")


def _update_unit(session: Session, row: AssignmentRow, action: Action) -> None:
    """Keep the count of assignments of a unit: a skip frees a place for another reviewer, undoing it takes it back."""
    if row.repeat:
        return
    if action is Action.SKIP:
        change_assigned(session, row.unit, -1)
    elif action is Action.UNDO and row.last_event is not None:
        undone = session.get_one(RatingEventRow, row.last_event)
        change_assigned(session, row.unit, undone.action is not Action.VOTE)  # a skip, or an undo whose lease expired


def _key(campaign_id: str, reviewer_id: str) -> dict[str, str | int]:
    """The parameters of the statements below, which are built once: building one takes longer than SQLite needs."""
    return {"campaign": campaign_id, "reviewer": reviewer_id}


_MINE = (AssignmentRow.reviewer_id == bindparam("reviewer"), AssignmentRow.campaign_id == bindparam("campaign"))
_OPEN = (
    select(AssignmentRow)
    .where(*_MINE, ~AssignmentRow.done, AssignmentRow.id != bindparam("excluded"))
    .order_by(AssignmentRow.leased_until)
    .limit(1)
)
_SEEN = select(AssignmentRow.id).where(_MINE[0], AssignmentRow.unit_id == UnitRow.id).exists()
_UNSEEN = select(UnitRow).where(UnitRow.campaign_id == bindparam("campaign"), ~_SEEN)
_HAS_PLACE = UnitRow.n_assigned < UnitRow.raters
_OPEN_UNITS = _UNSEEN.where(~IS_GOLD, _HAS_PLACE)
_NEXT = _OPEN_UNITS.order_by(UnitRow.n_assigned, UnitRow.position).limit(1)
_NEXT_OF_PAIRING = _NEXT.where(UnitRow.pairing == bindparam("pairing"))
_MOST_ASSIGNED = _UNSEEN.order_by(UnitRow.n_assigned.desc(), UnitRow.position.desc()).limit(1)
_GOLD_UNIT, _OVERLAP_UNIT = _MOST_ASSIGNED.where(IS_GOLD), _MOST_ASSIGNED.where(*_IS_OVERLAP, _HAS_PLACE)
_AT_POSITION = _OPEN_UNITS.where(UnitRow.position == bindparam("position"))
_AT_OFFSET = _OPEN_UNITS.order_by(UnitRow.position).offset(bindparam("offset", type_=Integer)).limit(1)
_COUNT_SEEN = (
    select(func.count(), func.count(case((_HAS_PLACE & ~IS_GOLD, 1))))
    .select_from(AssignmentRow)
    .join(UnitRow, UnitRow.id == AssignmentRow.unit_id)
    .where(*_MINE, ~AssignmentRow.repeat)
)
_EXPIRED = select(AssignmentRow).where(~AssignmentRow.done, AssignmentRow.leased_until < bindparam("now"))


def next_unit(pairing: str) -> Select[tuple[UnitRow]]:
    """Select the least assigned unit that the reviewer has not seen, then by position; of a pairing, or "" for any."""
    return _NEXT_OF_PAIRING if pairing else _NEXT


def quota_unit(turn: int) -> Select[tuple[UnitRow]] | None:
    """Select the unit that the quotas ask for at the reviewer's new unit number `turn`, from 0; None at other turns.

    Of units for several reviewers it is the most assigned one, so that it soon has two ratings, which agreement needs.
    """
    if turn % _GOLD_EVERY == _GOLD_TURN:
        return _GOLD_UNIT
    return _OVERLAP_UNIT if turn % _OVERLAP_EVERY == _OVERLAP_TURN else None


def _of_reviewer(campaign_id: str, reviewer_id: str) -> tuple[ColumnElement[bool], ...]:
    return AssignmentRow.reviewer_id == reviewer_id, AssignmentRow.campaign_id == campaign_id


def _own(campaign_id: str, reviewer_id: str) -> Select[tuple[AssignmentRow]]:
    return select(AssignmentRow).where(*_of_reviewer(campaign_id, reviewer_id))


def _new(
    session: Session, campaign: CampaignRow, reviewer_id: str, pairing: str, rng: random.Random
) -> AssignmentRow | None:
    """Assign a unit that the reviewer has not seen, and record the probability of this choice."""
    counts = _count_seen(session, campaign, reviewer_id)
    key, quota = _key(campaign.id, reviewer_id), quota_unit(counts.seen)
    due = session.scalar(quota, key) if quota is not None else None
    if due is not None:
        return _assign(session, due, reviewer_id, 1.0, rng)
    best = session.scalar(next_unit(pairing), key | {"pairing": pairing}) if pairing else None
    best = best or session.scalar(next_unit(""), key)
    if best is None:
        return None
    left = max(1, counts.left)  # not 0, whatever another program wrote: `best` is one of them
    unit = best if rng.random() < campaign.informative else _uniform(session, campaign, reviewer_id, left, rng) or best
    propensity = (1 - campaign.informative) / left + campaign.informative * (unit is best)
    return _assign(session, unit, reviewer_id, propensity, rng)


def _assign(session: Session, unit: UnitRow, reviewer_id: str, propensity: float, rng: random.Random) -> AssignmentRow:
    change_assigned(session, unit, 1)
    order = "".join(map(str, rng.sample(range(len(unit.samples)), len(unit.samples))))
    return _assignment_row(unit, reviewer_id, order, propensity, repeat=False)


def _uniform(
    session: Session, campaign: CampaignRow, reviewer_id: str, left: int, rng: random.Random
) -> UnitRow | None:
    """A uniform sample of the `left` open units; None where there are fewer than `left`.

    Of many, random positions are tried first, because counting to one is slower.
    """
    key = _key(campaign.id, reviewer_id)
    for _ in range(_UNIFORM_TRIES if left > _FEW_UNITS else 0):
        unit = session.scalar(_AT_POSITION, key | {"position": rng.randrange(campaign.units)})
        if unit is not None:
            return unit
    return session.scalar(_AT_OFFSET, key | {"offset": rng.randrange(left)})


@dataclass(frozen=True, slots=True)
class _SeenUnits:
    """Units of a reviewer: `seen` are those that were assigned to them, `left` those that are open to them."""

    seen: int
    left: int


def _count_seen(session: Session, campaign: CampaignRow, reviewer_id: str) -> _SeenUnits:
    """Open to the reviewer are all open units of the campaign, less those that they have seen."""
    seen, seen_open = session.execute(_COUNT_SEEN, _key(campaign.id, reviewer_id)).one()
    return _SeenUnits(seen, campaign.open_units - seen_open)


def _repeat(session: Session, campaign: CampaignRow, reviewer_id: str, rng: random.Random) -> AssignmentRow | None:
    """Assign again, sides swapped, the unit that the reviewer rated longest ago; None when no repeat is due."""
    if rng.random() >= campaign.repeats:
        return None
    repeated = select(AssignmentRow.unit_id).where(*_of_reviewer(campaign.id, reviewer_id), AssignmentRow.repeat)
    own = _own(campaign.id, reviewer_id).where(AssignmentRow.done)
    recent = session.scalars(own.order_by(AssignmentRow.last_event.desc()).limit(_REPEAT_DISTANCE)).all()
    voted = own.join(RatingEventRow, RatingEventRow.id == AssignmentRow.last_event).where(
        RatingEventRow.action == Action.VOTE, ~AssignmentRow.repeat, AssignmentRow.unit_id.not_in(repeated)
    )
    first = session.scalar(voted.order_by(AssignmentRow.last_event).limit(1))
    if first is None or len(recent) < _REPEAT_DISTANCE or first in recent:
        return None
    return _assignment_row(first.unit, reviewer_id, first.order[::-1], campaign.repeats, repeat=True)


def _assignment_row(unit: UnitRow, reviewer_id: str, order: str, propensity: float, *, repeat: bool) -> AssignmentRow:
    return AssignmentRow(
        id=secrets.token_hex(16), campaign_id=unit.campaign_id, unit=unit, reviewer_id=reviewer_id, order=order,
        repeat=repeat, propensity=propensity, done=False, last_event=None,
    )  # fmt: skip


def _release_expired(session: Session, now: datetime) -> None:
    """Release assignments whose lease has expired.

    An assignment with events stays, as if it were skipped, because the reviewer has seen the unit.
    """
    for row in session.scalars(_EXPIRED, {"now": now}):
        if not row.repeat:
            change_assigned(session, row.unit, -1)
        if row.last_event is None:
            session.delete(row)
        else:
            row.done = True
    session.flush()


def _to_assignment(row: AssignmentRow) -> Assignment:
    unit = row.unit
    return Assignment(row.id, row.campaign_id, unit.text, in_shown_order(unit.samples, row.order), row.leased_until)
