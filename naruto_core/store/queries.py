"""Read runs, datasets, pictures and scores: domain objects, never a session or a row of the database."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import and_, bindparam, case, func, select

from naruto_core.domain import (
    Adapter,
    DatasetVersion,
    FusedModel,
    PhaseRecord,
    PhaseSpeed,
    QuarantinedRecord,
    Run,
    RunLease,
    RunState,
    Sample,
    Score,
    StepRecord,
    Variant,
    measurement_of,
)
from naruto_core.errors import NarutoError
from naruto_core.store.connection import Repository
from naruto_core.store.labels import TagRow
from naruto_core.store.leases import LeaseRow, worked_seconds
from naruto_core.store.run_queries import RunQueries
from naruto_core.store.schema import (
    AdapterRow,
    DatasetRow,
    FindingRow,
    FusedRow,
    PhaseRow,
    QuarantinedRow,
    RunRow,
    SampleRow,
    ScoreRow,
    StepRow,
)

# the columns of a Score, in its order: a thousand runs have tens of thousands, for which rows of the mapper are slow
SCORE_COLUMNS = tuple(getattr(ScoreRow, field.name) for field in fields(Score))

# built once: a page asks for them many times
_DIGESTS = select(SampleRow.id, SampleRow.sha256).where(SampleRow.id.in_(bindparam("ids", expanding=True)))
_RUNS_VERSION = select(
    select(func.max(ScoreRow.id)).scalar_subquery(),
    select(func.count()).select_from(TagRow).scalar_subquery(),
    func.count(),
    func.count(case((RunRow.state == RunState.RUNNING, 1))),
    func.max(RunRow.started_at),
    func.max(RunRow.finished_at),
)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a list: with the source of its dataset and its set scores, without scores of single pictures.

    `seconds` is the time that processes worked on it, without pauses; None for a run that has not ended.
    """

    run: Run
    dataset_source: str
    git_commit: str
    seconds: float | None
    scores: tuple[Score, ...]
    tags: tuple[str, ...] = ()


def comparable(first: Score, second: Score) -> tuple[Score, Score]:
    """The two scores as a pair. Raises NarutoError when their measurements differ."""
    for field in ("metric", "extractor", "version", "reference"):
        a, b = getattr(measurement_of(first), field), getattr(measurement_of(second), field)
        if a != b:
            raise NarutoError(
                f"the {first.metric} of {first.run_id} and the {second.metric} of {second.run_id} cannot be compared: "
                f"their {field} differs ({a or 'none'} and {b or 'none'}); score both with the same {field}."
            )
    return first, second


class Queries(Repository, RunQueries):
    """Read-only queries; those about one run are in `RunQueries`. Run ids are exact."""

    def datasets(self) -> list[DatasetVersion]:
        """Every dataset version, by source."""
        with self._reading() as session:
            return [
                row.to_domain()
                for row in session.scalars(select(DatasetRow).order_by(DatasetRow.source, DatasetRow.id))
            ]

    def quarantined(self, dataset_id: str) -> list[QuarantinedRecord]:
        """The records that were left out of a dataset version, in the order of their source."""
        query = select(QuarantinedRow).where(QuarantinedRow.dataset_id == dataset_id)
        with self._reading() as session:
            rows = session.scalars(query.order_by(QuarantinedRow.source, QuarantinedRow.row))
            return [QuarantinedRecord(row.source, row.row, row.reason, row.detail) for row in rows]

    def recipes(self) -> dict[str, str]:
        """The resolved recipe of every run as JSON, by run id, oldest first; no deleted runs."""
        query = select(RunRow.id, RunRow.recipe_json).where(RunRow.state != RunState.DELETED)
        with self._reading() as session:
            return dict(session.execute(query.order_by(RunRow.started_at, RunRow.id)).tuples().all())

    def adapters(self, run_id: str) -> list[Adapter]:
        """The adapter files of a run, by path; empty before it is trained."""
        query = select(AdapterRow).where(AdapterRow.run_id == run_id).order_by(AdapterRow.path)
        with self._reading() as session:
            return [row.to_domain() for row in session.scalars(query)]

    def adapted_runs(self) -> set[str]:
        """The ids of the runs that have an adapter: all but those of imported pictures, and unfinished ones."""
        with self._reading() as session:
            return set(session.scalars(select(AdapterRow.run_id).distinct()))

    def find_fused(self, run_id: str) -> FusedModel | None:
        """The fused model of a run, or None."""
        with self._reading() as session:
            row = session.get(FusedRow, run_id)
            return row.to_domain() if row else None

    def sample_counts(self) -> list[tuple[str, Variant, int]]:
        """How many pictures each variant of each run has (run id, variant, count); newest runs first."""
        query = (
            select(SampleRow.run_id, SampleRow.variant, func.count())
            .join(RunRow, RunRow.id == SampleRow.run_id)
            .group_by(RunRow.started_at, SampleRow.run_id, SampleRow.variant)
            .order_by(RunRow.started_at.desc(), SampleRow.run_id.desc(), SampleRow.variant)
        )
        with self._reading_rows() as connection:
            return list(connection.execute(query).tuples())

    def first_pictures(self) -> dict[str, str]:
        """The sha256 of one picture of each run's trained model, by run id: the first prompt and seed by name."""
        trained = (Variant.FUSED, Variant.ADAPTED)
        first = (
            select(SampleRow.run_id, SampleRow.variant, func.min(SampleRow.prompt).label("prompt"))
            .where(SampleRow.variant.in_(trained))
            .group_by(SampleRow.run_id, SampleRow.variant)
            .subquery()
        )
        same = (SampleRow.run_id == first.c.run_id, SampleRow.variant == first.c.variant)
        query = select(SampleRow.run_id, SampleRow.variant, SampleRow.seed, SampleRow.sha256).join(
            first, and_(*same, SampleRow.prompt == first.c.prompt)
        )
        with self._reading_rows() as connection:
            rows = connection.execute(query).tuples().all()
        ordered = sorted(rows, key=lambda row: (trained.index(row[1]), -row[2]))  # the last one counts
        return {run_id: sha256 for run_id, _, _, sha256 in ordered}

    def picture_path(self, sha256: str) -> str | None:
        """The path of a picture with this sha256, relative to the data root; None when there is none."""
        with self._reading() as session:
            return session.scalar(select(SampleRow.path).where(SampleRow.sha256 == sha256).limit(1))

    def digests(self, sample_ids: Sequence[str]) -> dict[str, str]:
        """The sha256 of the picture of each sample, by sample id; unknown ids are left out."""
        with self._reading_rows() as connection:
            return dict(connection.execute(_DIGESTS, {"ids": list(sample_ids)}).tuples().all())

    def warnings(self) -> dict[str, list[str]]:
        """The names of the warnings of every run that has any, in alphabetical order."""
        query = select(FindingRow.run_id, FindingRow.name).where(FindingRow.warning).order_by(FindingRow.name)
        warnings: dict[str, list[str]] = {}
        with self._reading() as session:
            for run_id, name in session.execute(query).tuples():
                warnings.setdefault(run_id, []).append(name)
        return warnings

    def steps(self, run_id: str) -> list[StepRecord]:
        """The training steps of a run, in order."""
        with self._reading() as session:
            rows = session.scalars(select(StepRow).where(StepRow.run_id == run_id).order_by(StepRow.step))
            return [row.to_domain() for row in rows]

    def last_step(self, run_id: str) -> int:
        """The newest recorded optimizer step; 0 before the first."""
        with self._reading() as session:
            return session.scalar(select(func.max(StepRow.step)).where(StepRow.run_id == run_id)) or 0

    def phases(self, run_id: str) -> list[PhaseRecord]:
        """The phases of a run with their plan and what they took, in order; empty for a run without a plan."""
        query = select(PhaseRow).where(PhaseRow.run_id == run_id).order_by(PhaseRow.position)
        with self._reading() as session:
            return [row.to_domain() for row in session.scalars(query)]

    def phase_speeds(self, device: str) -> list[PhaseSpeed]:
        """What was measured on the device called `device`, newest first; not what several processes worked on."""
        alone = PhaseRow.device == device, PhaseRow.measured_units > 0, PhaseRow.processes == 1
        query = select(PhaseRow).where(*alone)
        with self._reading() as session:
            return [row.to_speed() for row in session.scalars(query.order_by(PhaseRow.measured_at.desc()))]

    def runs(self) -> list[RunSummary]:
        """Every run with its set scores and tags, newest first; no deleted ones."""
        newest = select(RunRow, DatasetRow.source).join(DatasetRow).where(RunRow.state != RunState.DELETED)
        with self._reading() as session:
            rows = session.execute(newest.order_by(RunRow.started_at.desc(), RunRow.id.desc())).all()
            scores: dict[str, list[Score]] = {}
            set_scores = select(*SCORE_COLUMNS).where(ScoreRow.subject == "", ScoreRow.sample_id.is_(None))
            ordered = set_scores.order_by(ScoreRow.metric, ScoreRow.variant, ScoreRow.id)
            for row in session.connection().execute(ordered).tuples().all():  # thousands: a session takes twice as long
                scores.setdefault(row[0], []).append(Score(*row))
            leases: dict[str, list[RunLease]] = {}
            for lease in session.scalars(select(LeaseRow)):
                leases.setdefault(lease.run_id, []).append(lease.to_domain())
            tags: dict[str, list[str]] = {}
            for tag in session.scalars(select(TagRow).order_by(TagRow.tag)):
                tags.setdefault(tag.run_id, []).append(tag.tag)
            return [
                RunSummary(
                    run=row.to_domain(),
                    dataset_source=source,
                    git_commit=row.git_commit,
                    seconds=worked_seconds(leases.get(row.id, ()), row),
                    scores=tuple(scores.get(row.id, ())),
                    tags=tuple(tags.get(row.id, ())),
                )
                for row, source in rows
            ]

    def runs_version(self) -> str:
        """Changes when a run, its state, a score or a tag does: for caches of `runs`. Tags that were only removed, and
        processes that ended, are not seen: such caches end after some seconds too."""
        with self._reading() as session:
            return repr(tuple(session.execute(_RUNS_VERSION).one()))

    def worked_seconds(self, run_id: str) -> float | None:
        """See `RunSummary.seconds`."""
        run = self.run(run_id)
        with self._reading() as session:
            leases = session.scalars(select(LeaseRow).where(LeaseRow.run_id == run_id))
            return worked_seconds([lease.to_domain() for lease in leases], run)

    def orphan_samples(self) -> list[Sample]:
        """Pictures whose run is missing: no method removes the row of a run; another program changed the database."""
        with self._reading() as session:
            query = select(SampleRow).outerjoin(RunRow, RunRow.id == SampleRow.run_id).where(RunRow.id.is_(None))
            return [row.to_domain() for row in session.scalars(query.order_by(SampleRow.id))]
