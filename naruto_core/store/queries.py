"""The reading half of the store: nouns and frozen rows out, never a session or a row of the database."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from naruto_core.domain import (
    Adapter,
    DatasetVersion,
    Finding,
    FusedModel,
    PromptSuite,
    QuarantinedRecord,
    Run,
    Sample,
    Score,
    StepRecord,
    Variant,
)
from naruto_core.errors import NarutoError, NotRecorded
from naruto_core.store.connection import Database
from naruto_core.store.schema import (
    AdapterRow,
    DatasetRow,
    FindingRow,
    FusedRow,
    PromptRow,
    QuarantinedRow,
    RunRow,
    SampleRow,
    ScoreRow,
    StepRow,
    SuiteRow,
)


@dataclass(frozen=True, slots=True, order=True)
class Measurement:
    """What a number was measured with; only numbers of one ruler may stand side by side."""

    metric: str
    extractor: str
    version: str
    reference: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run as a list shows it: with its dataset's source and its set scores, not those of single pictures.

    `seconds` is the time from the first start to the end, pauses included; None until it ended.
    """

    run: Run
    dataset_source: str
    git_commit: str
    seconds: float | None
    scores: tuple[Score, ...]


def measurement_of(score: Score) -> Measurement:
    return Measurement(score.metric, score.extractor, score.version, score.reference)


def comparable(first: Score, second: Score) -> tuple[Score, Score]:
    """The two as a pair; NarutoError when they were measured with different rulers."""
    one, other = measurement_of(first), measurement_of(second)
    for field in ("metric", "extractor", "version", "reference"):
        a, b = getattr(one, field), getattr(other, field)
        if a != b:
            raise NarutoError(
                f"the {first.metric} of {first.run_id} and the {second.metric} of {second.run_id} cannot be compared: "
                f"their {field} differs ({a or 'none'} and {b or 'none'}); score both with the same one."
            )
    return first, second


class Queries(Database):
    """What the store remembers. Run ids are exact here, except for `run`, which completes one that was typed."""

    def find_dataset(self, dataset_id: str) -> DatasetVersion | None:
        with self._reading() as session:
            row = session.get(DatasetRow, dataset_id)
            return row.noun() if row else None

    def datasets(self) -> list[DatasetVersion]:
        """Every dataset version, by source."""
        with self._reading() as session:
            return [
                row.noun() for row in session.scalars(select(DatasetRow).order_by(DatasetRow.source, DatasetRow.id))
            ]

    def quarantined(self, dataset_id: str) -> list[QuarantinedRecord]:
        """The records that were left out of a dataset version, in the order of their source."""
        asked = select(QuarantinedRow).where(QuarantinedRow.dataset_id == dataset_id)
        with self._reading() as session:
            rows = session.scalars(asked.order_by(QuarantinedRow.source, QuarantinedRow.row))
            return [QuarantinedRecord(row.source, row.row, row.reason, row.detail) for row in rows]

    def run(self, run_id: str) -> Run:
        """The run with this id, or the only one whose id begins or ends so; NotRecorded names the nearest."""
        with self._reading() as session:
            return _find_run(session, run_id).noun()

    def recipe_json(self, run_id: str) -> str:
        """The resolved recipe of a run; NotRecorded when there is no such run."""
        with self._reading() as session:
            return _find_run(session, run_id).recipe_json

    def adapters(self, run_id: str) -> list[Adapter]:
        """The adapter files of a run, by path; none before it is trained."""
        asked = select(AdapterRow).where(AdapterRow.run_id == run_id).order_by(AdapterRow.path)
        with self._reading() as session:
            return [row.noun() for row in session.scalars(asked)]

    def find_fused(self, run_id: str) -> FusedModel | None:
        with self._reading() as session:
            row = session.get(FusedRow, run_id)
            return row.noun() if row else None

    def prompts(self, run_id: str) -> PromptSuite | None:
        """The suite a run was drawn with; None before it was drawn."""
        with self._reading() as session:
            suite = session.scalar(select(SuiteRow).join(RunRow).where(RunRow.id == run_id))
            if suite is None:
                return None
            rows = session.scalars(
                select(PromptRow).where(PromptRow.suite == suite.fingerprint).order_by(PromptRow.position)
            )
            return PromptSuite(suite.name, suite.fingerprint, tuple(row.noun() for row in rows), tuple(suite.seeds))

    def samples(self, run_id: str, variant: Variant | None = None) -> list[Sample]:
        """The pictures of a run, or of one of its variants, by variant, prompt and seed."""
        asked = select(SampleRow).where(SampleRow.run_id == run_id)
        if variant is not None:
            asked = asked.where(SampleRow.variant == variant)
        with self._reading() as session:
            rows = session.scalars(asked.order_by(SampleRow.variant, SampleRow.prompt, SampleRow.seed))
            return [row.noun() for row in rows]

    def drawn(self) -> list[tuple[str, Variant, int]]:
        """Which variants of which runs have pictures, and how many; newest runs first."""
        asked = (
            select(SampleRow.run_id, SampleRow.variant, func.count())
            .group_by(SampleRow.run_id, SampleRow.variant)
            .order_by(SampleRow.run_id.desc(), SampleRow.variant)
        )
        with self._reading() as session:
            return list(session.execute(asked).tuples())

    def picture_path(self, sha256: str) -> str | None:
        """Where a picture with this content lies, relative to the data root."""
        with self._reading() as session:
            return session.scalar(select(SampleRow.path).where(SampleRow.sha256 == sha256).limit(1))

    def digests(self, sample_ids: Sequence[str]) -> dict[str, str]:
        """The content's sha256 of each sample that there is."""
        asked = select(SampleRow.id, SampleRow.sha256).where(SampleRow.id.in_(sample_ids))
        with self._reading() as session:
            return dict(session.execute(asked).tuples().all())

    def scores(self, run_id: str) -> list[Score]:
        """Every score of a run: of sets first, then of single pictures."""
        asked = select(ScoreRow).where(ScoreRow.run_id == run_id)
        with self._reading() as session:
            rows = session.scalars(asked.order_by(ScoreRow.subject, ScoreRow.metric, ScoreRow.variant, ScoreRow.id))
            return [row.noun() for row in rows]

    def findings(self, run_id: str) -> list[Finding]:
        """What people should know of a run, warnings first."""
        asked = select(FindingRow).where(FindingRow.run_id == run_id)
        with self._reading() as session:
            rows = session.scalars(asked.order_by(FindingRow.warning.desc(), FindingRow.name))
            return [row.noun() for row in rows]

    def steps(self, run_id: str) -> list[StepRecord]:
        """What training looked like, step by step."""
        with self._reading() as session:
            rows = session.scalars(select(StepRow).where(StepRow.run_id == run_id).order_by(StepRow.step))
            return [row.noun() for row in rows]

    def last_step(self, run_id: str) -> int:
        """The newest recorded optimizer step, 0 before the first."""
        with self._reading() as session:
            return session.scalar(select(func.max(StepRow.step)).where(StepRow.run_id == run_id)) or 0

    def runs(self) -> list[RunSummary]:
        """Every run with its set scores, newest first."""
        with self._reading() as session:
            found = session.execute(
                select(RunRow, DatasetRow.source).join(DatasetRow).order_by(RunRow.started_at.desc(), RunRow.id.desc())
            ).all()
            scores: dict[str, list[Score]] = {}
            of_sets = select(ScoreRow).where(ScoreRow.sample_id.is_(None))
            for score in session.scalars(of_sets.order_by(ScoreRow.metric, ScoreRow.variant, ScoreRow.id)):
                scores.setdefault(score.run_id, []).append(score.noun())
            return [_summary(row, source, scores.get(row.id, ())) for row, source in found]

    def stray_samples(self) -> list[Sample]:
        """Pictures whose run is gone: nothing here can remove one, so the file was changed by other means."""
        with self._reading() as session:
            asked = select(SampleRow).outerjoin(RunRow, RunRow.id == SampleRow.run_id).where(RunRow.id.is_(None))
            return [row.noun() for row in session.scalars(asked.order_by(SampleRow.id))]


def _summary(row: RunRow, source: str, scores: Sequence[Score]) -> RunSummary:
    seconds = None if row.finished_at is None else (row.finished_at - row.started_at).total_seconds()
    return RunSummary(row.noun(), source, row.git_commit, seconds, tuple(scores))


def _find_run(session: Session, run_id: str) -> RunRow:
    """See `Reports.run`."""
    exact = session.get(RunRow, run_id)
    if exact is not None:
        return exact
    known = list(session.scalars(select(RunRow.id).order_by(RunRow.started_at.desc())))
    if not known:
        raise NotRecorded(f"there is no run {run_id!r}: nothing has been run yet; type `make demo` to begin.")
    alike = RunRow.id.startswith(run_id, autoescape=True), RunRow.id.endswith(run_id, autoescape=True)
    found = list(session.scalars(select(RunRow).where(or_(*alike)).order_by(RunRow.id))) if run_id else []
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(row.id for row in found[:5])
        raise NotRecorded(f"{run_id!r} could be any of {len(found)} runs ({shown}); type more of the id.")
    nearest = difflib.get_close_matches(run_id, known, n=1, cutoff=0.0)[0]
    raise NotRecorded(f"there is no run {run_id!r}; the nearest is {nearest}. `naruto runs` lists them all.")
