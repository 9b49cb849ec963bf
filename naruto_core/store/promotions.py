"""Aliases such as `champion`: which run each names, and everything it ever named."""

from datetime import datetime

from sqlalchemy import select

from naruto_core.errors import NotRecorded, RatingRefused
from naruto_core.ratings import Promotion
from naruto_core.store.connection import Database
from naruto_core.store.rating_schema import PromotionRow
from naruto_core.store.schema import RunRow

CHAMPION = "champion"


class Promotions(Database):
    """Promotions are appended; the newest of an alias counts, and a rollback is one more."""

    def promote(self, alias: str, run_id: str, by: str, why: str, now: datetime, checks: dict[str, str]) -> Promotion:
        """Set `alias` to a run. NotRecorded for an unknown run; RatingRefused without a name or a reason."""
        if not by.strip() or not why.strip():
            raise RatingRefused("a promotion is signed: say who decides, and why.")
        with self._writing() as session:
            if session.get(RunRow, run_id) is None:
                raise NotRecorded(f"there is no run {run_id}.")
            row = PromotionRow(alias=alias, run_id=run_id, by=by.strip(), why=why.strip(), at=now, checks=checks)
            session.add(row)
            return row.noun()

    def roll_back(self, alias: str, by: str, now: datetime) -> Promotion:
        """Set `alias` to what it named before it named this; RatingRefused when it never named anything else."""
        history = self.promotions(alias)
        earlier = next((p for p in history if p.run_id != history[0].run_id), None)
        if earlier is None:
            raise RatingRefused(f"{alias} has never named another run: there is nothing to go back to.")
        why = f"rolled back from {history[0].run_id}"
        return self.promote(alias, earlier.run_id, by, why, now, {})

    def promotions(self, alias: str) -> list[Promotion]:
        """Everything the alias ever named, newest first; the first is what it names now."""
        asked = select(PromotionRow).where(PromotionRow.alias == alias).order_by(PromotionRow.id.desc())
        with self._reading() as session:
            return [row.noun() for row in session.scalars(asked)]
