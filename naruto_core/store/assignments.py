"""Assign units to reviewers and record their votes. Every method is one transaction.

A unit is leased to a reviewer. A reviewer gets the same unit once, or twice where the second time tests consistency.
Every fifth new unit of a reviewer is one that others rate too, every tenth a gold unit, while there are such units.
Events are append-only: an undone vote stays in the database and no longer counts. The page makes a nonce for each
event, so that a double click, a reload or a lost reply counts once.
"""

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    Select,
    Update,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute

from naruto_core.errors import NotRecorded, RatingRefused
from naruto_core.ratings import Action, Assignment, Mode, RatingEvent, answer_fault
from naruto_core.store.campaigns import IS_GOLD, in_shown_order
from naruto_core.store.connection import Repository
from naruto_core.store.rating_schema import (
    AssignmentRow,
    CampaignRow,
    ExclusionRow,
    PictureNoteRow,
    RatingEventRow,
    UnitRow,
)
from naruto_core.store.unit_counts import UNIT_COLUMNS, StoredUnit, change_assigned

LEASE = timedelta(minutes=10)
_REPEAT_DISTANCE = 8  # units rated between a unit and its repeat, so that nobody answers from memory
_UNIFORM_TRIES, _FEW_UNITS = 30, 500
_OVERLAP_EVERY, _OVERLAP_TURN = 5, 2  # the third, the eighth, ... new unit of a reviewer is one that others rate too
_GOLD_EVERY, _GOLD_TURN = 10, 4  # the fifth, the fifteenth, ... is a gold unit
_IS_OVERLAP = (UnitRow.raters > literal_column("1"), ~IS_GOLD)  # as the condition of the index

# The statements are built once: building one takes longer than SQLite needs to run it.
_MINE = (AssignmentRow.reviewer_id == bindparam("reviewer"), AssignmentRow.campaign_id == bindparam("campaign"))
_EXCLUDES = (ExclusionRow.reviewer_id == bindparam("reviewer"), ExclusionRow.campaign_id == CampaignRow.id)
_CAMPAIGN = select(
    CampaignRow.id, CampaignRow.mode, CampaignRow.closed_at, CampaignRow.paused, CampaignRow.informative,
    CampaignRow.repeats, CampaignRow.units, select(ExclusionRow.by).where(*_EXCLUDES).exists(),
).where(CampaignRow.id == bindparam("campaign"))  # fmt: skip
_SHOWN = select(
    AssignmentRow.id, AssignmentRow.campaign_id, AssignmentRow.order, UnitRow.text, UnitRow.samples,
    AssignmentRow.leased_until,
).join(UnitRow, UnitRow.id == AssignmentRow.unit_id)  # fmt: skip
_EXCLUDED = tuple(f"excluded_{number}" for number in range(4))
_OPEN = (
    _SHOWN.where(*_MINE, ~AssignmentRow.done, AssignmentRow.id.not_in([bindparam(name) for name in _EXCLUDED]))
    .order_by(AssignmentRow.leased_until)
    .limit(1)
)
_LAST_DONE = (
    _SHOWN.where(*_MINE, AssignmentRow.done, AssignmentRow.last_event.is_not(None))
    .order_by(AssignmentRow.last_event.desc())
    .limit(1)
)
_SEEN = select(AssignmentRow.id).where(_MINE[0], AssignmentRow.unit_id == UnitRow.id).exists()
_UNSEEN = select(*UNIT_COLUMNS).where(UnitRow.campaign_id == bindparam("campaign"), ~_SEEN)
_HAS_PLACE = UnitRow.n_assigned < UnitRow.raters
_OPEN_UNITS = _UNSEEN.where(~IS_GOLD, _HAS_PLACE)
_NEXT = _OPEN_UNITS.order_by(UnitRow.n_assigned, UnitRow.position).limit(1)
_NEXT_OF_PAIRING = _NEXT.where(UnitRow.pairing == bindparam("pairing"))
_MOST_ASSIGNED = _UNSEEN.order_by(UnitRow.n_assigned.desc(), UnitRow.position.desc()).limit(1)
_GOLD_UNIT, _OVERLAP_UNIT = _MOST_ASSIGNED.where(IS_GOLD), _MOST_ASSIGNED.where(*_IS_OVERLAP, _HAS_PLACE)
_AT_POSITION = _OPEN_UNITS.where(UnitRow.position == bindparam("position"))
_AT_OFFSET = _OPEN_UNITS.order_by(UnitRow.position).offset(bindparam("offset", type_=Integer)).limit(1)
_COUNT_SEEN = (
    select(
        func.count(),
        func.count(case((_HAS_PLACE & ~IS_GOLD, 1))),
        select(CampaignRow.open_units).where(CampaignRow.id == bindparam("campaign")).scalar_subquery(),
    )
    .select_from(AssignmentRow)
    .join(UnitRow, UnitRow.id == AssignmentRow.unit_id)
    .where(*_MINE, ~AssignmentRow.repeat)
)
_COUNT_ASSIGNED = select(func.count()).select_from(AssignmentRow).where(*_MINE, ~AssignmentRow.done)
_COUNT_DONE = select(func.count()).select_from(AssignmentRow).where(*_MINE, AssignmentRow.done)
_RECENT = (
    select(AssignmentRow.id)
    .where(*_MINE, AssignmentRow.done)
    .order_by(AssignmentRow.last_event.desc())
    .limit(_REPEAT_DISTANCE)
)
_REPEATED = select(AssignmentRow.unit_id).where(*_MINE, AssignmentRow.repeat)
_RATED_FIRST = (
    select(AssignmentRow.id, AssignmentRow.order, AssignmentRow.unit_id)
    .join(RatingEventRow, RatingEventRow.id == AssignmentRow.last_event)
    .where(
        *_MINE, AssignmentRow.done, RatingEventRow.action == Action.VOTE, ~AssignmentRow.repeat,
        AssignmentRow.unit_id.not_in(_REPEATED),
    )
    .order_by(AssignmentRow.last_event)
    .limit(1)
)  # fmt: skip
_IS_NOTED = select(PictureNoteRow.id).where(PictureNoteRow.assignment_id == AssignmentRow.id).exists()
_IS_SEEN = AssignmentRow.last_event.is_not(None) | _IS_NOTED
_EXPIRED = select(AssignmentRow.id, AssignmentRow.unit_id, AssignmentRow.repeat, _IS_SEEN).where(
    ~AssignmentRow.done, AssignmentRow.leased_until < bindparam("now")
)
_UNIT = select(*UNIT_COLUMNS).where(UnitRow.id == bindparam("unit"))
_ASSIGNMENT = select(
    AssignmentRow.campaign_id, AssignmentRow.reviewer_id, AssignmentRow.unit_id, AssignmentRow.repeat,
    AssignmentRow.done, AssignmentRow.last_event,
).where(AssignmentRow.id == bindparam("assignment"))  # fmt: skip
_ADD_ASSIGNMENT = insert(AssignmentRow)  # its parameters, and those of `_ADD_EVENT`, have the names of the columns
_SAME_NONCE = select(RatingEventRow.id).where(RatingEventRow.nonce == bindparam("nonce"))
_ACTION = select(RatingEventRow.action).where(RatingEventRow.id == bindparam("event"))
_ADD_EVENT = insert(RatingEventRow).returning(RatingEventRow.id)


def _change(*columns: InstrumentedAttribute[Any]) -> Update:
    """Update columns of one assignment: each to the parameter with the name of its attribute and `new_` before it."""
    values = {column: bindparam(f"new_{column.key}", type_=column.type) for column in columns}
    return update(AssignmentRow).where(AssignmentRow.id == bindparam("assignment")).values(values)


_EXTEND, _END = _change(AssignmentRow.leased_until), _change(AssignmentRow.done)
_ANSWER = _change(AssignmentRow.leased_until, AssignmentRow.done, AssignmentRow.last_event)
_DELETE = delete(AssignmentRow).where(AssignmentRow.id == bindparam("assignment"))


@dataclass(frozen=True, slots=True)
class _OpenCampaign:
    """What an assignment needs of the row of a campaign: the values of `_CAMPAIGN`, in this order."""

    id: str
    mode: Mode
    closed_at: datetime | None
    paused: bool
    informative: float
    repeats: float
    units: int
    excludes: bool  # the reviewer whom the assignment is for


@dataclass(frozen=True, slots=True)
class _Choice:
    """A unit to assign: the order of its samples on the screen, and the probability of this choice."""

    unit: StoredUnit
    order: str
    propensity: float
    repeat: bool


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
        assignments that the page has already while it loads the next: it shows one, and the answers of others are on
        their way (at most four count). None for a closed or paused campaign, and for a reviewer who is excluded from
        it. NotRecorded for an unknown campaign.
        """
        rng, until, key = rng or random.SystemRandom(), now + LEASE, _key(campaign_id, reviewer_id)
        # not durable: nobody has voted on an assignment that a power cut loses, for the vote is durable
        with self._writing_rows(durable=False) as connection:
            campaign = _find_campaign(connection, key)
            if campaign.closed_at is not None or campaign.paused or campaign.excludes:
                return None
            excluded = dict.fromkeys(_EXCLUDED, "") | dict(zip(_EXCLUDED, exclude, strict=False))
            row = connection.execute(_OPEN, key | excluded).one_or_none()
            if row is not None:
                connection.execute(_EXTEND, {"assignment": row.id, "new_leased_until": until})
                return replace(_to_assignment(*row.tuple()), leased_until=until)
            _release_expired(connection, now)
            choice = _repeat(connection, campaign, key, rng) or _new(connection, campaign, key, pairing, rng)
            if choice is None:
                return None
            unit, assignment_id = choice.unit, secrets.token_hex(16)
            new = {
                "id": assignment_id, "campaign_id": campaign_id, "unit_id": unit.id,
                "reviewer_id": reviewer_id, "shown": choice.order, "repeat": choice.repeat,
                "propensity": choice.propensity, "done": False, "leased_until": until, "last_event": None,
            }  # fmt: skip
            connection.execute(_ADD_ASSIGNMENT, new)
            return _to_assignment(assignment_id, campaign_id, choice.order, unit.text, unit.samples, until)

    def record(self, reviewer_id: str, event: RatingEvent, now: datetime) -> bool:
        """Append `event` and return whether it is new: the same nonce a second time changes nothing.

        Raises RatingRefused for somebody else's assignment, an expired lease of a unit that was assigned to another
        reviewer, a closed campaign, an excluded reviewer, an answer of another mode, and a second answer or undo.
        """
        if (event.action is Action.VOTE) != (event.answer is not None):
            raise RatingRefused("a vote needs an answer, and only a vote has one.")
        key = {"assignment": event.assignment_id}
        with self._writing_rows() as connection:
            if connection.scalar(_SAME_NONCE, {"nonce": event.nonce}):
                return False
            row = connection.execute(_ASSIGNMENT, key).one_or_none()
            if row is None or row.reviewer_id != reviewer_id:
                raise RatingRefused("these pictures are no longer assigned to you; the next ones are shown.")
            _check_event(event, _find_campaign(connection, _key(row.campaign_id, reviewer_id)), done=row.done)
            if not row.repeat:
                _change_place(connection, row.unit_id, row.last_event, event.action)
            new = {
                "assignment_id": event.assignment_id, "act": event.action, "answer": event.answer,
                "nonce": event.nonce, "seconds": event.seconds, "viewport": event.viewport[:20], "at": now,
            }  # fmt: skip
            state = {"new_last_event": connection.scalar(_ADD_EVENT, new), "new_done": event.action is not Action.UNDO}
            connection.execute(_ANSWER, key | state | {"new_leased_until": now + LEASE})
            return True

    def last_done(self, campaign_id: str, reviewer_id: str) -> Assignment | None:
        """The assignment that the reviewer answered or skipped last, to undo it and show it again."""
        with self._reading_rows() as connection:
            row = connection.execute(_LAST_DONE, _key(campaign_id, reviewer_id)).one_or_none()
            return _to_assignment(*row.tuple()) if row else None

    def done_count(self, campaign_id: str, reviewer_id: str) -> int:
        """How many assignments the reviewer has answered or skipped."""
        with self._reading_rows() as connection:
            return connection.scalar(_COUNT_DONE, _key(campaign_id, reviewer_id)) or 0

    def left_count(self, campaign_id: str, reviewer_id: str) -> int:
        """How many units are left for the reviewer: open assignments of theirs, and units that can be assigned to them.

        Other reviewers take of the same units. Gold units and repeats are not counted before they are assigned.
        """
        key = _key(campaign_id, reviewer_id)
        with self._reading_rows() as connection:
            own = connection.scalar(_COUNT_ASSIGNED, key) or 0
            return own + _count_seen(connection, key).left


def _check_event(event: RatingEvent, campaign: _OpenCampaign, *, done: bool) -> None:
    if campaign.closed_at is not None:
        raise RatingRefused("this campaign is closed: thank you, no more votes are needed.")
    if campaign.excludes:  # the counts of its units are without this reviewer
        raise RatingRefused("your part of this campaign has ended: thank you, no more votes are needed.")
    undo = event.action is Action.UNDO
    if done is not undo:
        raise RatingRefused("there is nothing to undo." if undo else "these pictures were answered already.")
    if event.answer is not None and (fault := answer_fault(event.answer, campaign.mode)):
        raise RatingRefused(fault)


def _change_place(connection: Connection, unit_id: int, last_event: int | None, action: Action) -> None:
    """Keep the count of assignments of a unit: a skip frees a place for another reviewer, undoing it takes it back."""
    change = -1 if action is Action.SKIP else 0
    if action is Action.UNDO and last_event is not None:  # a skip, or an undo whose lease expired
        change = int(connection.scalar(_ACTION, {"event": last_event}) is not Action.VOTE)
    if change:
        change_assigned(connection, _stored_unit(connection, unit_id), change)


def _stored_unit(connection: Connection, unit_id: int) -> StoredUnit:
    return StoredUnit(*connection.execute(_UNIT, {"unit": unit_id}).one().tuple())


def _find_campaign(connection: Connection, key: dict[str, object]) -> _OpenCampaign:
    row = connection.execute(_CAMPAIGN, key).one_or_none()
    if row is None:
        raise NotRecorded("there is no such campaign.")
    return _OpenCampaign(*row.tuple())


def _key(campaign_id: str, reviewer_id: str) -> dict[str, object]:
    """The parameters that most statements have."""
    return {"campaign": campaign_id, "reviewer": reviewer_id}


def next_unit(pairing: str) -> Select[Any]:
    """Select the least assigned unit that the reviewer has not seen, then by position; of a pairing, or "" for any."""
    return _NEXT_OF_PAIRING if pairing else _NEXT


def quota_unit(turn: int) -> Select[Any] | None:
    """Select the unit that the quotas ask for at the reviewer's new unit number `turn`, from 0; None at other turns.

    Of units for several reviewers it is the most assigned one, so that it soon has two ratings, which agreement needs.
    """
    if turn % _GOLD_EVERY == _GOLD_TURN:
        return _GOLD_UNIT
    return _OVERLAP_UNIT if turn % _OVERLAP_EVERY == _OVERLAP_TURN else None


def _unit(connection: Connection, statement: Select[Any], key: dict[str, object]) -> StoredUnit | None:
    row = connection.execute(statement, key).one_or_none()
    return StoredUnit(*row.tuple()) if row else None


def _new(
    connection: Connection, campaign: _OpenCampaign, key: dict[str, object], pairing: str, rng: random.Random
) -> _Choice | None:
    """Choose a unit that the reviewer has not seen, count it as assigned, and tell the probability of this choice."""
    counts = _count_seen(connection, key)
    quota = quota_unit(counts.seen)
    due = _unit(connection, quota, key) if quota is not None else None
    if due is not None:
        return _choose(connection, due, 1.0, rng)
    best = _unit(connection, next_unit(pairing), key | {"pairing": pairing}) if pairing else None
    best = best or _unit(connection, next_unit(""), key)
    if best is None:
        return None
    left = max(1, counts.left)  # not 0, whatever another program wrote: `best` is one of them
    informative = rng.random() < campaign.informative
    unit = best if informative else _uniform(connection, campaign, key, left, rng) or best
    propensity = (1 - campaign.informative) / left + campaign.informative * (unit.id == best.id)
    return _choose(connection, unit, propensity, rng)


def _choose(connection: Connection, unit: StoredUnit, propensity: float, rng: random.Random) -> _Choice:
    change_assigned(connection, unit, 1)
    order = "".join(map(str, rng.sample(range(len(unit.samples)), len(unit.samples))))
    return _Choice(unit, order, propensity, repeat=False)


def _uniform(
    connection: Connection, campaign: _OpenCampaign, key: dict[str, object], left: int, rng: random.Random
) -> StoredUnit | None:
    """A uniform sample of the `left` open units; None where there are fewer than `left`.

    Of many, random positions are tried first, because counting to one is slower.
    """
    for _ in range(_UNIFORM_TRIES if left > _FEW_UNITS else 0):
        unit = _unit(connection, _AT_POSITION, key | {"position": rng.randrange(campaign.units)})
        if unit is not None:
            return unit
    return _unit(connection, _AT_OFFSET, key | {"offset": rng.randrange(left)})


@dataclass(frozen=True, slots=True)
class _SeenUnits:
    """Units of a reviewer: `seen` are those that were assigned to them, `left` those that are open to them."""

    seen: int
    left: int


def _count_seen(connection: Connection, key: dict[str, object]) -> _SeenUnits:
    """Open to the reviewer are all open units of the campaign, less those that they have seen."""
    seen, seen_open, open_units = connection.execute(_COUNT_SEEN, key).one()
    return _SeenUnits(seen, (open_units or 0) - seen_open)


def _repeat(
    connection: Connection, campaign: _OpenCampaign, key: dict[str, object], rng: random.Random
) -> _Choice | None:
    """Choose again, sides swapped, the unit that the reviewer rated longest ago; None when no repeat is due."""
    if rng.random() >= campaign.repeats:
        return None
    recent = connection.scalars(_RECENT, key).all()
    first = connection.execute(_RATED_FIRST, key).one_or_none()
    if first is None or len(recent) < _REPEAT_DISTANCE or first.id in recent:
        return None
    unit = _stored_unit(connection, first.unit_id)
    return _Choice(unit, first.shown[::-1], campaign.repeats, repeat=True)


def _release_expired(connection: Connection, now: datetime) -> None:
    """Release assignments whose lease has expired.

    An assignment with events or notes stays, as if it were skipped, because the reviewer has seen the unit.
    """
    for assignment_id, unit_id, repeat, is_seen in connection.execute(_EXPIRED, {"now": now}).tuples().all():
        if not repeat:  # the unit is read now: two leases may be of one
            change_assigned(connection, _stored_unit(connection, unit_id), -1)
        key = {"assignment": assignment_id}
        connection.execute(*((_END, key | {"new_done": True}) if is_seen else (_DELETE, key)))


def _to_assignment(
    assignment_id: str, campaign_id: str, order: str, text: str, samples: list[str], until: datetime
) -> Assignment:
    return Assignment(assignment_id, campaign_id, text, in_shown_order(samples, order), until)
