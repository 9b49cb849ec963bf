"""Scores of pictures that the HTTP service has served, and drift reports about them."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Index, delete, func, select, tuple_
from sqlalchemy.orm import Mapped, mapped_column

from naruto_core.serving import Drift, DriftVerdict, ServedScore
from naruto_core.store.connection import ROWS_AT_ONCE, Repository
from naruto_core.store.schema import Base, enum_as_text


class ServedScoreRow(Base):
    __tablename__ = "served_scores"
    __table_args__ = (Index(None, "run_id", "metric", "drawn_at"), Index(None, "drawn_at"))

    picture: Mapped[str] = mapped_column(primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str]
    asked: Mapped[str]
    drawn_at: Mapped[datetime]
    value: Mapped[float]
    extractor: Mapped[str]


class DriftRow(Base):
    __tablename__ = "drifts"
    __table_args__ = (Index(None, "run_id", "metric", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str]
    metric: Mapped[str]
    since: Mapped[datetime]
    said_at: Mapped[datetime]
    served: Mapped[float]
    own: Mapped[float]
    difference: Mapped[float]
    low: Mapped[float]
    high: Mapped[float]
    margin: Mapped[float]
    n_served: Mapped[int]
    prompts_served: Mapped[int]
    n_own: Mapped[int]
    extractor: Mapped[str]
    verdict: Mapped[DriftVerdict] = mapped_column(enum_as_text(DriftVerdict))

    def to_domain(self) -> Drift:
        return Drift(**{name: getattr(self, name) for name in Drift.__slots__})


class ServedScores(Repository):
    """Scores of served pictures, and drift reports; both are append-only, until they are too old."""

    def add_scores(self, scores: Sequence[ServedScore]) -> None:
        """Add scores. A score of the same picture and metric is replaced: a killed `watch` measures pictures twice."""
        with self._writing() as session:
            for score in scores:
                session.merge(ServedScoreRow(**asdict(score)))

    def scores(self, since: datetime, run_id: str | None = None) -> list[ServedScore]:
        """Scores of pictures drawn since `since`, of one run or of all, oldest first."""
        columns = (getattr(ServedScoreRow, name) for name in ServedScore.__slots__)
        query = select(*columns).where(ServedScoreRow.drawn_at >= since)
        if run_id is not None:
            query = query.where(ServedScoreRow.run_id == run_id)
        with self._reading_rows() as connection:
            rows = connection.execute(query.order_by(ServedScoreRow.drawn_at)).tuples().all()
            return [ServedScore(*row) for row in rows]

    def add_drifts(self, drifts: Sequence[Drift]) -> None:
        """Add drift reports."""
        with self._writing() as session:
            session.add_all([DriftRow(**asdict(drift)) for drift in drifts])

    def drifts(self) -> list[Drift]:
        """The newest drift report of each run and metric, newest first."""
        latest = select(func.max(DriftRow.id)).group_by(DriftRow.run_id, DriftRow.metric)
        query = select(DriftRow).where(DriftRow.id.in_(latest)).order_by(DriftRow.id.desc())
        with self._reading() as session:
            return [row.to_domain() for row in session.scalars(query)]

    def prune(self, before: datetime, most: int) -> int:
        """Delete scores of pictures drawn before `before`, and the oldest of more than `most`; returns how many.

        Drift reports from before that time go too, but the newest of each run and metric. A few rows at a time, so that
        others can write meanwhile.
        """
        row, key = ServedScoreRow, tuple_(ServedScoreRow.picture, ServedScoreRow.metric)
        with self._reading() as session:
            surplus = session.scalar(select(row.drawn_at).order_by(row.drawn_at.desc()).offset(most).limit(1))
        is_old = row.drawn_at < before if surplus is None else (row.drawn_at < before) | (row.drawn_at <= surplus)
        oldest = select(row.picture, row.metric).where(is_old).order_by(row.drawn_at).limit(ROWS_AT_ONCE)
        newest = select(func.max(DriftRow.id)).group_by(DriftRow.run_id, DriftRow.metric)
        with self._writing() as session:
            session.execute(delete(DriftRow).where(DriftRow.said_at < before, DriftRow.id.not_in(newest)))
        deleted = 0
        while True:
            with self._writing() as session:
                count = session.execute(delete(row).where(key.in_(oldest))).rowcount  # type: ignore[attr-defined]
            deleted += count
            if count < ROWS_AT_ONCE:
                return deleted
