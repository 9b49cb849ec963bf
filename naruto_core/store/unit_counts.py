"""Counts that are stored so that an assignment counts nothing: assignments of a unit, open units of a campaign.

Both change in the transaction of the assignment, skip, undo or exclusion that changes them. They can be counted again
from assignments and events; only another program that writes to the database makes them differ.
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, ScalarSelect, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from naruto_core.ratings import Action
from naruto_core.store.campaigns import IS_GOLD
from naruto_core.store.connection import Repository
from naruto_core.store.rating_schema import AssignmentRow, CampaignRow, ExclusionRow, RatingEventRow, UnitRow


@dataclass(frozen=True, slots=True)
class WrongCount:
    """A campaign whose stored counts differ from what its assignments say.

    `units` is the number of units with a wrong number of assignments; `open_units` is stored, `counted` is right.
    """

    campaign: str
    units: int
    open_units: int
    counted: int

    @property
    def sentence(self) -> str:
        """What is wrong, without a full stop."""
        parts = [f"{self.units} units have a wrong number of assignments"] if self.units else []
        if self.open_units != self.counted:
            parts.append(f"{self.open_units} open units are recorded, and there are {self.counted}")
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class StoredUnit:
    """What an assignment needs of the row of a unit: the values of `UNIT_COLUMNS`, in this order."""

    id: int
    campaign_id: str
    text: str
    samples: list[str]
    raters: int
    n_assigned: int
    gold: str

    def is_open(self, change: int = 0) -> bool:
        """Whether the unit can be assigned after `change` more assignments, without the quota of gold units."""
        return not self.gold and self.n_assigned + change < self.raters


UNIT_COLUMNS = (
    UnitRow.id, UnitRow.campaign_id, UnitRow.text, UnitRow.samples, UnitRow.raters, UnitRow.n_assigned, UnitRow.gold,
)  # fmt: skip
_SET_ASSIGNED = (
    update(UnitRow).where(UnitRow.id == bindparam("unit")).values({UnitRow.n_assigned: bindparam("assigned")})
)
_ADD_OPEN_UNITS = (
    update(CampaignRow)
    .where(CampaignRow.id == bindparam("campaign"))
    .values({CampaignRow.open_units: CampaignRow.open_units + bindparam("change")})
)


def change_assigned(connection: Connection, unit: StoredUnit, change: int) -> None:
    """Add `change` to the number of assignments of a unit, and keep the number of open units of its campaign."""
    connection.execute(_SET_ASSIGNED, {"unit": unit.id, "assigned": unit.n_assigned + change})
    opened = unit.is_open(change) - unit.is_open()
    if opened:
        connection.execute(_ADD_OPEN_UNITS, {"campaign": unit.campaign_id, "change": opened})


class UnitCounts(Repository):
    """Check the stored counts, and count again."""

    def wrong_counts(self) -> list[WrongCount]:
        """The campaigns with a stored count that is wrong, by name; [] when all are right."""
        taken = _taken()
        units = select(UnitRow.campaign_id, func.count()).where(UnitRow.n_assigned != taken)
        open_units = select(UnitRow.campaign_id, func.count()).where(~IS_GOLD, taken < UnitRow.raters)
        with self._reading() as session:
            wrong = dict(session.execute(units.group_by(UnitRow.campaign_id)).tuples().all())
            counted = dict(session.execute(open_units.group_by(UnitRow.campaign_id)).tuples().all())
            rows = session.scalars(select(CampaignRow).order_by(CampaignRow.name)).all()
            return [
                WrongCount(row.name, wrong.get(row.id, 0), row.open_units, counted.get(row.id, 0))
                for row in rows
                if row.id in wrong or row.open_units != counted.get(row.id, 0)
            ]

    def recount(self) -> None:
        """Count the assignments of every unit and the open units of every campaign again, in one transaction."""
        with self._writing() as session:
            taken = _taken()
            session.execute(update(UnitRow).where(UnitRow.n_assigned != taken).values(n_assigned=taken))
            session.execute(update(CampaignRow).values(open_units=_open_units()))


def count_again(session: Session, campaign_id: str, reviewer_id: str) -> None:
    """Count the units again that a reviewer was assigned in a campaign, after an exclusion or its end."""
    mine = AssignmentRow.campaign_id == campaign_id, AssignmentRow.reviewer_id == reviewer_id
    session.flush()
    of_reviewer = UnitRow.id.in_(select(AssignmentRow.unit_id).where(*mine))
    session.execute(update(UnitRow).where(of_reviewer).values(n_assigned=_taken()))
    session.execute(update(CampaignRow).where(CampaignRow.id == campaign_id).values(open_units=_open_units()))


def _open_units() -> ScalarSelect[int]:
    is_open_now = (UnitRow.campaign_id == CampaignRow.id, ~IS_GOLD, UnitRow.n_assigned < UnitRow.raters)
    return select(func.count()).select_from(UnitRow).where(*is_open_now).scalar_subquery()


def _taken() -> ScalarSelect[int]:
    """How many assignments of a unit count: no repeats, none that ended with a skip or with an expired lease, and none
    of a reviewer who is excluded."""
    excludes = (
        ExclusionRow.campaign_id == AssignmentRow.campaign_id,
        ExclusionRow.reviewer_id == AssignmentRow.reviewer_id,
    )
    is_excluded = select(ExclusionRow.by).where(*excludes).exists()
    is_vote: ColumnElement[bool] = RatingEventRow.action == Action.VOTE
    return (
        select(func.count())
        .select_from(AssignmentRow)
        .outerjoin(RatingEventRow, RatingEventRow.id == AssignmentRow.last_event)
        .where(
            AssignmentRow.unit_id == UnitRow.id, ~AssignmentRow.repeat, ~is_excluded, or_(~AssignmentRow.done, is_vote)
        )
        .correlate(UnitRow)
        .scalar_subquery()
    )
