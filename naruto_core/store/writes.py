"""Write runs, datasets, pictures and scores. Every method is one transaction and idempotent."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from naruto_core.domain import (
    Adapter,
    DatasetVersion,
    Finding,
    FusedModel,
    PlannedPhase,
    PromptSuite,
    QuarantinedRecord,
    Run,
    RunState,
    Sample,
    Score,
    StepRecord,
    Variant,
)
from naruto_core.errors import NotRecorded, RecipeInvalid
from naruto_core.store.labels import Labels
from naruto_core.store.leases import RunLeases
from naruto_core.store.queries import SCORE_COLUMNS, Queries
from naruto_core.store.schema import (
    AdapterRow,
    DatasetRow,
    FindingRow,
    FusedRow,
    PhaseRow,
    PromptRow,
    QuarantinedRow,
    RunRow,
    SampleRow,
    ScoreRow,
    StepRow,
    SuiteRow,
    run_row,
)

_BATCH = 500  # values in one statement, which every database accepts
T = TypeVar("T")


class Store(Queries, RunLeases, Labels):
    """The database of runs: the methods here write, those of `Queries` read; leases and labels of runs are theirs."""

    def add_dataset(
        self, version: DatasetVersion, quarantined: Sequence[QuarantinedRecord], *, replace: bool = False
    ) -> None:
        """Record a dataset version, unless it exists, and the records that were left out of it.

        With `replace`, the recorded version is replaced: its table was damaged and written to another place.
        """
        with self._writing() as session:
            if replace or session.get(DatasetRow, version.id) is None:
                session.merge(DatasetRow(**asdict(version)))
                session.flush()
            rows = session.scalars(select(QuarantinedRow).where(QuarantinedRow.dataset_id == version.id))
            existing = {(row.source, row.row, row.reason) for row in rows}
            fresh = {(q.source, q.row, q.reason): q for q in quarantined if (q.source, q.row, q.reason) not in existing}
            session.add_all(QuarantinedRow(dataset_id=version.id, **asdict(record)) for record in fresh.values())

    def open_run(
        self, *, profile: str, recipe_json: str, fingerprint: str, dataset_id: str, git_commit: str, now: datetime
    ) -> Run:
        """The run of this recipe on this dataset version: new or deleted, which begins;
        unfinished, which goes on; or unchanged when done.

        Raises NotRecorded when the dataset version is not recorded.
        """
        with self._writing() as session:
            if session.get(DatasetRow, dataset_id) is None:
                raise NotRecorded(f"dataset version {dataset_id} is not recorded; ingest it first.")
            same = RunRow.fingerprint == fingerprint, RunRow.dataset_id == dataset_id
            row = session.scalar(select(RunRow).where(*same))
            if row is None:
                row = RunRow(
                    id=_new_id(session, f"{now:%Y-%m-%d}-{profile}", fingerprint + dataset_id),
                    profile=profile,
                    fingerprint=fingerprint,
                    dataset_id=dataset_id,
                    state=RunState.RUNNING,
                    started_at=now,
                    failure="",
                    recipe_json=recipe_json,
                    git_commit=git_commit,
                )
                session.add(row)
            elif row.state is not RunState.DONE:
                if row.state is RunState.DELETED:
                    row.started_at, row.git_commit = now, git_commit
                row.state, row.finished_at, row.failure = RunState.RUNNING, None, ""
            return row.to_domain()

    def finish_run(self, run_id: str, now: datetime) -> None:
        """Mark the run as done; a run that is done already stays unchanged. NotRecorded for an unknown run."""
        self._end_run(run_id, RunState.DONE, "", now)

    def fail_run(self, run_id: str, failure: str, now: datetime) -> None:
        """Mark the run as failed because of `failure`, a sentence; a run that is done stays done."""
        self._end_run(run_id, RunState.FAILED, failure, now)

    def cancel_run(self, run_id: str, reason: str, now: datetime) -> None:
        """Mark the run as cancelled: somebody stopped it, and the same command resumes it; a done run stays done."""
        self._end_run(run_id, RunState.CANCELLED, reason, now)

    def prune_run(self, run_id: str, reason: str, now: datetime) -> None:
        """Mark the run as pruned: a sweep ended its training early; a run that is done stays done."""
        self._end_run(run_id, RunState.PRUNED, reason, now)

    def resume_run(self, run_id: str) -> None:
        """Mark a failed, cancelled or pruned run as running again, because a step of it is tried again."""
        with self._writing() as session:
            row = run_row(session, run_id)
            if row.state in (RunState.FAILED, RunState.CANCELLED, RunState.PRUNED):
                row.state, row.finished_at, row.failure = RunState.RUNNING, None, ""

    def _end_run(self, run_id: str, state: RunState, failure: str, now: datetime) -> None:
        with self._writing() as session:
            row = run_row(session, run_id)
            if row.state is not RunState.DONE:
                row.state, row.finished_at, row.failure = state, now, failure

    def add_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Record a run's adapter files, and replace those of the same path.

        Where the replaced file had another content, the run's fused model, its pictures and their scores are deleted.
        """
        with self._writing() as session:
            for adapter in adapters:
                existing = session.get(AdapterRow, (adapter.run_id, adapter.path))
                if existing is not None and existing.sha256 != adapter.sha256:
                    session.execute(delete(FusedRow).where(FusedRow.run_id == adapter.run_id))
                    _delete_pictures(session, adapter.run_id, (Variant.ADAPTED, Variant.FUSED))
                session.merge(AdapterRow(**asdict(adapter)))

    def add_fused(self, fused: FusedModel) -> None:
        """Record or replace a run's fused model; pictures of a fused model with another content are deleted."""
        with self._writing() as session:
            existing = session.get(FusedRow, fused.run_id)
            if existing is not None and existing.sha256 != fused.sha256:
                _delete_pictures(session, fused.run_id, (Variant.FUSED,))
            session.merge(FusedRow(**asdict(fused)))

    def add_prompts(self, run_id: str, suite: PromptSuite) -> None:
        """Record the prompt suite of a run. Raises RecipeInvalid when the run has pictures of another suite."""
        with self._writing() as session:
            run = run_row(session, run_id)
            drawn = session.scalar(select(SampleRow.id).where(SampleRow.run_id == run_id).limit(1))
            if drawn is not None and run.suite != suite.fingerprint:
                raise RecipeInvalid(
                    f"run {run_id} has pictures of other prompts than prompt suite {suite.name} contains now; a suite "
                    "is never edited: restore its old text, and save the new text under a new name."
                )
            if session.get(SuiteRow, suite.fingerprint) is None:
                session.add(SuiteRow(fingerprint=suite.fingerprint, name=suite.name, seeds=list(suite.seeds)))
                session.flush()
                session.add_all(_prompt_rows(suite))
            run.suite = suite.fingerprint

    def add_samples(self, samples: Sequence[Sample]) -> None:
        """Record pictures; a picture that was drawn again replaces the recorded one, and its scores are deleted."""
        with self._writing() as session:
            recorded: dict[tuple[str, Variant, str, int], Sample] = {}
            prompts = {sample.prompt for sample in samples}  # a run may have thousands of other ones
            for run_id in {sample.run_id for sample in samples}:
                of_prompts = SampleRow.run_id == run_id, SampleRow.prompt.in_(prompts)
                rows = session.scalars(select(SampleRow).where(*of_prompts))
                recorded |= {_sample_key(sample): sample for sample in (row.to_domain() for row in rows)}
            fresh = {_sample_key(sample): sample for sample in samples if recorded.get(_sample_key(sample)) != sample}
            stale = [recorded[key].id for key in fresh if key in recorded]
            for batch in _batches(stale):
                session.execute(delete(SampleRow).where(SampleRow.id.in_(batch)))
            _insert(session, SampleRow, [asdict(sample) for sample in fresh.values()])

    def add_scores(self, scores: Sequence[Score]) -> None:
        """Record scores, and replace those of the same run, variant, measurement and picture; equal ones stay.

        Raises ValueError for a value that is not finite.
        """
        fresh = {_score_key(score): score for score in scores}
        for score in scores:
            if not math.isfinite(score.value):
                raise ValueError(f"{score.metric} of {score.run_id} is {score.value}, which is not a score")
        with self._writing() as session:
            stale: list[int] = []
            for run_id in {score.run_id for score in scores}:
                recorded = select(ScoreRow.id, *SCORE_COLUMNS).where(ScoreRow.run_id == run_id)
                for row_id, *values in session.connection().execute(recorded):
                    score = Score(*values)
                    key = _score_key(score)
                    if fresh.get(key) == score:
                        del fresh[key]
                    elif key in fresh:
                        stale.append(row_id)
            for batch in _batches(stale):
                session.execute(delete(ScoreRow).where(ScoreRow.id.in_(batch)))
            rows = [asdict(score) | {"subject": score.sample_id or ""} for score in fresh.values()]
            _insert(session, ScoreRow, rows)

    def add_findings(self, run_id: str, findings: Sequence[Finding]) -> None:
        """Record the findings of a run, and replace all earlier ones."""
        with self._writing() as session:
            run_row(session, run_id)
            session.execute(delete(FindingRow).where(FindingRow.run_id == run_id))
            session.add_all(FindingRow(**asdict(finding)) for finding in findings)

    def add_finding(self, finding: Finding) -> None:
        """Record one finding of a run, and replace the earlier one of its name."""
        with self._writing() as session:
            run_row(session, finding.run_id)
            session.merge(FindingRow(**asdict(finding)))

    def add_steps(self, run_id: str, steps: Sequence[StepRecord]) -> None:
        """Record training steps, and replace those of the same number (a resumed run repeats a few)."""
        fresh = {record.step: record for record in steps}
        with self._writing() as session:
            for batch in _batches(list(fresh)):
                session.execute(delete(StepRow).where(StepRow.run_id == run_id, StepRow.step.in_(batch)))
            _insert(session, StepRow, [_step_values(run_id, record) for record in fresh.values()])

    def add_plan(self, run_id: str, phases: Sequence[PlannedPhase]) -> None:
        """Record the plan of a run; a phase that was measured keeps its first plan, the others are replaced."""
        with self._writing() as session:
            run_row(session, run_id)
            not_measured = PhaseRow.run_id == run_id, PhaseRow.measured_units == 0
            session.execute(delete(PhaseRow).where(*not_measured))
            kept = {row.phase: row for row in session.scalars(select(PhaseRow).where(PhaseRow.run_id == run_id))}
            first = max((row.position + 1 for row in kept.values()), default=0)
            for position, phase in enumerate(phases, first):
                if phase.phase not in kept:
                    session.add(PhaseRow(run_id=run_id, position=position, **asdict(phase)))

    def add_phase_time(
        self, run_id: str, phase: str, units: int, seconds: float, now: datetime, processes: int = 1
    ) -> None:
        """Add what a part of a phase took (a run that was stopped measures the rest later); unknown: nothing.

        `processes` worked on that part at once.
        """
        with self._writing() as session:
            row = session.get(PhaseRow, (run_id, phase))
            if row is not None and units > 0:
                row.measured_units += units
                row.measured_seconds += seconds
                row.measured_at = now
                row.processes = max(row.processes, processes)


def _delete_pictures(session: Session, run_id: str, variants: Sequence[Variant]) -> None:
    """Delete pictures of an earlier model and their scores (sample scores by cascade), and the run's findings."""
    session.execute(delete(ScoreRow).where(ScoreRow.run_id == run_id, ScoreRow.variant.in_(variants)))
    session.execute(delete(SampleRow).where(SampleRow.run_id == run_id, SampleRow.variant.in_(variants)))
    session.execute(delete(FindingRow).where(FindingRow.run_id == run_id))


def _new_id(session: Session, stem: str, content: str) -> str:
    """`stem` and a hash of `content`: four hex digits, or more when that id is used already."""
    digest = hashlib.sha256(content.encode()).hexdigest()
    taken = set(session.scalars(select(RunRow.id).where(RunRow.id.startswith(stem, autoescape=True))))
    ids = (f"{stem}-{digest[:length]}" for length in range(4, len(digest) + 1))
    return next(run_id for run_id in ids if run_id not in taken)


def _prompt_rows(suite: PromptSuite) -> Iterator[PromptRow]:
    for position, prompt in enumerate(suite.prompts):
        values = asdict(prompt) | {"tags": list(prompt.tags)}
        yield PromptRow(suite=suite.fingerprint, position=position, **values)


def _sample_key(sample: Sample) -> tuple[str, Variant, str, int]:
    """What identifies a picture."""
    return sample.run_id, sample.variant, sample.prompt, sample.seed


def _score_key(score: Score) -> tuple[str, str, Variant, str, str, str, str | None]:
    """What identifies a score."""
    measurement = score.extractor, score.version, score.reference
    return score.run_id, score.metric, score.variant, *measurement, score.sample_id


def _step_values(run_id: str, record: StepRecord) -> dict[str, Any]:
    gauges = {name: _finite(value) for name, value in record.gauges.items()}
    return asdict(record) | {"run_id": run_id, "loss": _finite(record.loss), "gauges": gauges}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _batches(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _BATCH):
        yield values[start : start + _BATCH]


def _insert(session: Session, table: type[SampleRow | ScoreRow | StepRow], rows: Sequence[dict[str, Any]]) -> None:
    if rows:  # an empty list would insert one row of defaults
        session.execute(insert(table), rows)
