"""Counts that are stored so that an assignment counts nothing: assignments of a unit, open units of a campaign.

Both change in the transaction of the assignment, skip or undo that changes them. They can be counted again from
assignments and events; only another program that writes to the database makes them differ.
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, ScalarSelect, func, or_, select, update
from sqlalchemy.orm import Session

from naruto_core.ratings import Action
from naruto_core.store.campaigns import IS_GOLD
from naruto_core.store.connection import Repository
from naruto_core.store.rating_schema import AssignmentRow, CampaignRow, RatingEventRow, UnitRow


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


def change_assigned(session: Session, unit: UnitRow, by: int) -> None:
    """Add `by` to the number of assignments of a unit, and keep the number of open units of its campaign."""
    was_open = is_open(unit)
    unit.n_assigned += by
    if is_open(unit) != was_open:
        session.get_one(CampaignRow, unit.campaign_id).open_units += 1 if is_open(unit) else -1


def is_open(unit: UnitRow) -> bool:
    """Whether a unit can be assigned, without the quota of gold units."""
    return not unit.gold and unit.n_assigned < unit.raters


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
        is_open_now = (UnitRow.campaign_id == CampaignRow.id, ~IS_GOLD, UnitRow.n_assigned < UnitRow.raters)
        count = select(func.count()).select_from(UnitRow).where(*is_open_now).scalar_subquery()
        with self._writing() as session:
            taken = _taken()
            session.execute(update(UnitRow).where(UnitRow.n_assigned != taken).values(n_assigned=taken))
            session.execute(update(CampaignRow).values(open_units=count))


def _taken() -> ScalarSelect[int]:
    """How many assignments of a unit count: no repeats, and none that ended with a skip or with an expired lease."""
    is_vote: ColumnElement[bool] = RatingEventRow.action == Action.VOTE
    return (
        select(func.count())
        .select_from(AssignmentRow)
        .outerjoin(RatingEventRow, RatingEventRow.id == AssignmentRow.last_event)
        .where(AssignmentRow.unit_id == UnitRow.id, ~AssignmentRow.repeat, or_(~AssignmentRow.done, is_vote))
        .correlate(UnitRow)
        .scalar_subquery()
    )
