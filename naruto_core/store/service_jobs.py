"""What the HTTP service was asked for, and what became of it."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import JSON, Index, Text, select, update
from sqlalchemy.orm import Mapped, mapped_column

from naruto_core.errors import NotRecorded
from naruto_core.serving import OPEN, JobState, JobTimes, ServiceJob
from naruto_core.store.connection import Database
from naruto_core.store.schema import Base, words


class ServiceJobRow(Base):
    __tablename__ = "service_jobs"
    __table_args__ = (Index(None, "instance", "state"), Index(None, "asked_at"))

    id: Mapped[str] = mapped_column(primary_key=True)
    instance: Mapped[str]
    key: Mapped[str]
    model: Mapped[str]
    n: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    num_inference_steps: Mapped[int]
    seeds: Mapped[list[int]] = mapped_column(JSON)
    asked_at: Mapped[datetime]
    state: Mapped[JobState] = mapped_column(words(JobState))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    failure: Mapped[str] = mapped_column(Text)
    pictures: Mapped[list[str]]

    def noun(self) -> ServiceJob:
        columns = {name: getattr(self, name) for name in ServiceJob.__slots__}
        return ServiceJob(**columns)


class ServiceJobs(Database):
    """Jobs of every instance of the service. An instance is one process; its name is used again after a restart."""

    def put(self, job: ServiceJob) -> None:
        """Record a job as it is now, the first time or again."""
        with self._writing() as session:
            session.merge(ServiceJobRow(**asdict(job)))

    def job(self, job_id: str) -> ServiceJob:
        """NotRecorded when there is none."""
        with self._reading() as session:
            row = session.get(ServiceJobRow, job_id)
            if row is None:
                raise NotRecorded(f"there is no job {job_id}.")
            return row.noun()

    def give_up(self, instance: str, now: datetime) -> int:
        """Mark as lost what an earlier process of this name left open; how many those were."""
        left_open = (ServiceJobRow.instance == instance) & ServiceJobRow.state.in_(OPEN)
        why = "the service stopped before the pictures were drawn; ask again."
        with self._writing() as session:
            lost = update(ServiceJobRow).where(left_open)
            return session.execute(lost.values(state=JobState.LOST, finished_at=now, failure=why)).rowcount  # type: ignore[attr-defined]

    def since(self, moment: datetime, limit: int = 10_000) -> list[ServiceJob]:
        """Jobs asked for since `moment`, the newest first."""
        asked = select(ServiceJobRow).where(ServiceJobRow.asked_at >= moment)
        with self._reading() as session:
            return [row.noun() for row in session.scalars(asked.order_by(ServiceJobRow.asked_at.desc()).limit(limit))]

    def times(self, since: datetime, limit: int) -> list[JobTimes]:
        """When requests asked since then were begun and ended, at most so many, the newest first."""
        row = ServiceJobRow
        asked = select(row.asked_at, row.started_at, row.finished_at, row.n, row.state).where(row.asked_at >= since)
        with self._reading() as session:
            found = session.execute(asked.order_by(row.asked_at.desc()).limit(limit))
            return [JobTimes(*one) for one in found.tuples()]
