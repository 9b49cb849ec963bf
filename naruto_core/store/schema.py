"""The tables of runs, datasets, pictures and scores, and how Python's types become columns."""

import math
from datetime import UTC, datetime
from enum import StrEnum
from typing import ClassVar

from sqlalchemy import JSON, BigInteger, DateTime, Double, Enum, ForeignKey, Index, MetaData, Text, UniqueConstraint
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from naruto_core.domain import (
    Adapter,
    DatasetVersion,
    FusedModel,
    PhaseRecord,
    PhaseSpeed,
    PlannedPhase,
    Run,
    RunState,
    Sample,
    Score,
    StepRecord,
    Variant,
)
from naruto_core.errors import NotRecorded


class UtcDateTime(TypeDecorator[datetime]):
    """A time, stored as UTC without a zone because SQLite has no zones. A time without a zone raises ValueError."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a zone cannot be recorded: {value}")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        return None if value is None else value.replace(tzinfo=UTC)


def enum_as_text(enum: type[StrEnum]) -> Enum:
    """A column type that stores an enumeration as plain text, so that a new member needs no migration."""
    return Enum(enum, native_enum=False, length=16, values_callable=_values)


def _values(enum: type[StrEnum]) -> list[str]:
    return [member.value for member in enum]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        datetime: UtcDateTime,
        float: Double(),  # SQLAlchemy's default, FLOAT, has 4 bytes on some servers
        Variant: enum_as_text(Variant),
        RunState: enum_as_text(RunState),
        list[int]: JSON,
        list[str]: JSON,
        dict[str, float | None]: JSON,
        dict[str, str | float]: JSON,
        dict[str, float]: JSON,
    }


class DatasetRow(Base):
    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str]
    table: Mapped[str]
    delta_version: Mapped[int]
    n_train: Mapped[int]
    n_reference: Mapped[int]
    n_quarantined: Mapped[int]
    n_duplicates: Mapped[int]

    def to_domain(self) -> DatasetVersion:
        return DatasetVersion(
            id=self.id,
            source=self.source,
            table=self.table,
            delta_version=self.delta_version,
            n_train=self.n_train,
            n_reference=self.n_reference,
            n_quarantined=self.n_quarantined,
            n_duplicates=self.n_duplicates,
        )


class QuarantinedRow(Base):
    __tablename__ = "quarantined"
    __table_args__ = (UniqueConstraint("dataset_id", "source", "row", "reason"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    source: Mapped[str]
    row: Mapped[int]
    reason: Mapped[str]
    detail: Mapped[str] = mapped_column(Text)


class SuiteRow(Base):
    __tablename__ = "suites"

    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    seeds: Mapped[list[int]]


class PromptRow(Base):
    __tablename__ = "prompts"
    __table_args__ = (UniqueConstraint("suite", "slug"),)

    suite: Mapped[str] = mapped_column(ForeignKey("suites.fingerprint"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    slug: Mapped[str]
    text: Mapped[str] = mapped_column(Text)
    content: Mapped[str] = mapped_column(Text)
    tags: Mapped[list[str]]


class RunRow(Base):
    __tablename__ = "runs"
    # a recipe on a dataset version is one run, even when it is started several times
    __table_args__ = (
        UniqueConstraint("fingerprint", "dataset_id"),
        Index(None, "state", "started_at", "finished_at"),  # whether a run has changed, without reading their recipes
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    profile: Mapped[str]
    fingerprint: Mapped[str]
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    suite: Mapped[str | None] = mapped_column(ForeignKey("suites.fingerprint"))
    state: Mapped[RunState]
    started_at: Mapped[datetime] = mapped_column(index=True)
    finished_at: Mapped[datetime | None]
    failure: Mapped[str] = mapped_column(Text)
    recipe_json: Mapped[str] = mapped_column(Text)
    git_commit: Mapped[str]

    def to_domain(self) -> Run:
        return Run(
            id=self.id,
            profile=self.profile,
            fingerprint=self.fingerprint,
            dataset_id=self.dataset_id,
            state=self.state,
            started_at=self.started_at,
            finished_at=self.finished_at,
            failure=self.failure,
        )


def run_row(session: Session, run_id: str) -> RunRow:
    """The row of a run. Raises NotRecorded for an unknown or a deleted one."""
    row = session.get(RunRow, run_id)
    if row is None or row.state is RunState.DELETED:
        raise NotRecorded(f"there is no run {run_id!r}; `naruto runs` lists them all.")
    return row


class AdapterRow(Base):
    __tablename__ = "adapter_files"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    style: Mapped[str]
    sha256: Mapped[str]
    rank: Mapped[int]
    steps: Mapped[int]

    def to_domain(self) -> Adapter:
        return Adapter(
            run_id=self.run_id,
            path=self.path,
            sha256=self.sha256,
            rank=self.rank,
            steps=self.steps,
            style=self.style,
        )


class FusedRow(Base):
    __tablename__ = "fused_models"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    path: Mapped[str]
    sha256: Mapped[str]
    scale: Mapped[float]

    def to_domain(self) -> FusedModel:
        return FusedModel(run_id=self.run_id, path=self.path, sha256=self.sha256, scale=self.scale)


class SampleRow(Base):
    __tablename__ = "samples"
    __table_args__ = (
        UniqueConstraint("run_id", "variant", "prompt", "seed"),
        Index(None, "sha256"),  # the dashboard finds pictures by their content
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    variant: Mapped[Variant]
    prompt: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str]
    sha256: Mapped[str]

    def to_domain(self) -> Sample:
        return Sample(
            id=self.id,
            run_id=self.run_id,
            variant=self.variant,
            prompt=self.prompt,
            seed=self.seed,
            path=self.path,
            sha256=self.sha256,
        )


class ScoreRow(Base):
    __tablename__ = "scores"
    __table_args__ = (
        UniqueConstraint(
            "run_id", "metric", "variant", "extractor", "version", "reference", "subject", name="uq_scores"
        ),
        Index(None, "sample_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    metric: Mapped[str]
    variant: Mapped[Variant]
    value: Mapped[float]
    low: Mapped[float]
    high: Mapped[float]
    n: Mapped[int]
    extractor: Mapped[str]
    version: Mapped[str]
    reference: Mapped[str]
    method: Mapped[str]
    details: Mapped[dict[str, str | float]] = mapped_column(server_default="{}")
    # the sample_id, or "" for a set score: NULLs are never equal, so a unique constraint would not hold for them
    subject: Mapped[str]
    sample_id: Mapped[str | None] = mapped_column(ForeignKey("samples.id", ondelete="CASCADE"))

    def to_domain(self) -> Score:
        return Score(
            run_id=self.run_id,
            metric=self.metric,
            variant=self.variant,
            value=self.value,
            low=self.low,
            high=self.high,
            n=self.n,
            extractor=self.extractor,
            version=self.version,
            reference=self.reference,
            method=self.method,
            details=self.details,
            sample_id=self.sample_id,
        )


class FindingRow(Base):
    __tablename__ = "findings"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    warning: Mapped[bool]
    sentence: Mapped[str] = mapped_column(Text)
    figures: Mapped[dict[str, float]]


class StepRow(Base):
    __tablename__ = "steps"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # NULL stands for NaN, which SQLite and JSON cannot store
    loss: Mapped[float | None]
    learning_rate: Mapped[float]
    gauges: Mapped[dict[str, float | None]]

    def to_domain(self) -> StepRecord:
        gauges = {name: math.nan if value is None else value for name, value in self.gauges.items()}
        loss = math.nan if self.loss is None else self.loss
        return StepRecord(step=self.step, loss=loss, learning_rate=self.learning_rate, gauges=gauges)


class PhaseRow(Base):
    """A phase of a run: what was planned, and what it took. The same rows make later plans exact."""

    __tablename__ = "phases"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    phase: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    units: Mapped[int]
    unit: Mapped[str]
    flops: Mapped[float]
    seconds: Mapped[float]
    basis: Mapped[str]
    device: Mapped[str]
    precision: Mapped[str]
    memory: Mapped[int] = mapped_column(BigInteger)
    measured_units: Mapped[int] = mapped_column(server_default="0")
    measured_seconds: Mapped[float] = mapped_column(server_default="0")
    measured_at: Mapped[datetime | None]
    processes: Mapped[int] = mapped_column(server_default="1")

    def to_domain(self) -> PhaseRecord:
        planned = PlannedPhase(
            phase=self.phase,
            units=self.units,
            unit=self.unit,
            flops=self.flops,
            seconds=self.seconds,
            basis=self.basis,
            device=self.device,
            precision=self.precision,
            memory=self.memory,
        )
        return PhaseRecord(planned, self.measured_units, self.measured_seconds, self.processes)

    def to_speed(self) -> PhaseSpeed:
        return PhaseSpeed(
            phase=self.phase,
            device=self.device,
            precision=self.precision,
            flops=self.flops,
            units=self.measured_units,
            seconds=self.measured_seconds,
        )
