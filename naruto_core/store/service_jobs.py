"""Jobs of the HTTP service: each request with its state, times and pictures."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from sqlalchemy import JSON, Index, Text, delete, select, update
from sqlalchemy.orm import Mapped, mapped_column

from naruto_core.errors import NotRecorded
from naruto_core.serving import OPEN, JobState, JobTimes, ServiceJob
from naruto_core.store.connection import ROWS_AT_ONCE, Repository
from naruto_core.store.schema import Base, enum_as_text

IDEMPOTENT_FOR = timedelta(days=1)


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
    state: Mapped[JobState] = mapped_column(enum_as_text(JobState))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    failure: Mapped[str] = mapped_column(Text)
    pictures: Mapped[list[str]]

    def to_domain(self) -> ServiceJob:
        columns = {name: getattr(self, name) for name in ServiceJob.__slots__}
        return ServiceJob(**columns)


class IdempotencyKeyRow(Base):
    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "asked_at"),)

    key: Mapped[str] = mapped_column(primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    job_id: Mapped[str]
    asked_at: Mapped[datetime]


class ServiceJobs(Repository):
    """Jobs of all instances of the service. An instance is one process; it keeps its name after a restart."""

    def put(self, job: ServiceJob) -> None:
        """Insert a job, or update it."""
        with self._writing() as session:
            session.merge(ServiceJobRow(**asdict(job)))

    def begin(self, job: ServiceJob, idempotency_key: str, digest: str) -> ServiceJob | None:
        """Insert `job`, unless the same API key has sent this idempotency key within a day: then that job.

        `digest` is of the request; None where the earlier request was another one. A job that ended without pictures
        does not count: a request that is repeated is drawn then.
        """
        row = IdempotencyKeyRow
        with self._writing() as session:
            earlier = session.get(row, (job.key, idempotency_key))
            if earlier is not None and earlier.asked_at > job.asked_at - IDEMPOTENT_FOR:
                if earlier.digest != digest:
                    return None
                known = session.get(ServiceJobRow, earlier.job_id)
                if known is not None and known.state in (*OPEN, JobState.DONE):
                    return known.to_domain()
            session.merge(row(key=job.key, idempotency_key=idempotency_key, digest=digest, job_id=job.id,
                              asked_at=job.asked_at))  # fmt: skip
            session.merge(ServiceJobRow(**asdict(job)))
            return job

    def job(self, job_id: str) -> ServiceJob:
        """The job with this id. Raises NotRecorded when there is none."""
        with self._reading() as session:
            row = session.get(ServiceJobRow, job_id)
            if row is None:
                raise NotRecorded(f"there is no job {job_id}.")
            return row.to_domain()

    def mark_lost(self, instance: str, now: datetime) -> int:
        """Mark the open jobs of an earlier process of this instance as lost; returns how many."""
        is_open = (ServiceJobRow.instance == instance) & ServiceJobRow.state.in_(OPEN)
        failure = "the service stopped before the pictures were drawn; send the request again."
        with self._writing() as session:
            lost = update(ServiceJobRow).where(is_open)
            return session.execute(lost.values(state=JobState.LOST, finished_at=now, failure=failure)).rowcount  # type: ignore[attr-defined]

    def since(self, moment: datetime, limit: int = 10_000) -> list[ServiceJob]:
        """At most `limit` jobs requested since `moment`, newest first."""
        query = select(ServiceJobRow).where(ServiceJobRow.asked_at >= moment)
        with self._reading() as session:
            return [
                row.to_domain() for row in session.scalars(query.order_by(ServiceJobRow.asked_at.desc()).limit(limit))
            ]

    def times(self, since: datetime, limit: int) -> list[JobTimes]:
        """The times of at most `limit` jobs requested since `since`, newest first."""
        row = ServiceJobRow
        query = select(row.asked_at, row.started_at, row.finished_at, row.n, row.state).where(row.asked_at >= since)
        with self._reading_rows() as connection:
            result = connection.execute(query.order_by(row.asked_at.desc()).limit(limit))
            return [JobTimes(*times) for times in result.tuples().all()]

    def prune(self, before: datetime, most: int) -> int:
        """Delete jobs that ended and were asked before `before`, and the oldest of more than `most`; returns how many.

        A few at a time, so that requests can be recorded meanwhile.
        """
        row, deleted = ServiceJobRow, 0
        with self._reading() as session:
            surplus = session.scalar(select(row.asked_at).order_by(row.asked_at.desc()).offset(most).limit(1))
        is_old = row.asked_at < before if surplus is None else (row.asked_at < before) | (row.asked_at <= surplus)
        oldest = select(row.id).where(is_old, row.state.not_in(OPEN)).order_by(row.asked_at).limit(ROWS_AT_ONCE)
        with self._writing() as session:
            keys = IdempotencyKeyRow
            session.execute(delete(keys).where(keys.asked_at < datetime.now(UTC) - IDEMPOTENT_FOR))
        while True:
            with self._writing() as session:
                count = session.execute(delete(row).where(row.id.in_(oldest))).rowcount  # type: ignore[attr-defined]
            deleted += count
            if count < ROWS_AT_ONCE:
                return deleted
