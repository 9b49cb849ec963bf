"""What commands on a scored run read of it, in SQL: run by SQLAlchemy, or for a SQLite file by Python's own sqlite3.

This module imports no SQLAlchemy, whose import takes longer than `naruto scores` itself.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json  # a third of the time of json.loads

from naruto_core.domain import DatasetVersion, Finding, Prompt, PromptSuite, Run, RunState, Sample, Score, Variant
from naruto_core.errors import NotRecorded

_RUNS = "SELECT id, profile, fingerprint, dataset_id, state, started_at, finished_at, failure FROM runs"
_SAMPLES = "SELECT id, run_id, variant, prompt, seed, path, sha256 FROM samples"
_SCORES = (  # in the order of a Score
    "SELECT run_id, metric, variant, value, low, high, n, extractor, version, reference, method, sample_id, details "
    "FROM scores"
)
_DATASETS = 'SELECT id, source, "table", delta_version, n_train, n_reference, n_quarantined, n_duplicates FROM datasets'
_ESCAPED = str.maketrans({"/": "//", "%": "/%", "_": "/_"})  # in patterns of LIKE


class RunQueries(ABC):
    """Read-only queries about one run. Run ids are exact, except in `run` and `recipe_json`, which also accept a part
    of an id."""

    @abstractmethod
    def _rows(self, statement: str, **values: object) -> Sequence[Sequence[Any]]:
        """All rows that the SQL `statement` selects; `:name` in it stands for the value called so."""

    def run(self, run_id: str) -> Run:
        """The run with this id, or the only run whose id begins or ends with it. NotRecorded names the nearest."""
        exact = self._rows(f"{_RUNS} WHERE id = :run", run=run_id)
        if exact:
            return _run(exact[0])
        deleted = RunState.DELETED.value
        newest = self._rows("SELECT id FROM runs WHERE state != :deleted ORDER BY started_at DESC", deleted=deleted)
        if not newest:
            raise NotRecorded(f"there is no run {run_id!r}: nothing has been run yet; type `make demo` to begin.")
        part = run_id.translate(_ESCAPED)
        has_part = "(id LIKE :first ESCAPE '/' OR id LIKE :last ESCAPE '/')"
        matches = run_id and self._rows(
            f"{_RUNS} WHERE state != :deleted AND {has_part} ORDER BY id",
            deleted=deleted, first=f"{part}%", last=f"%{part}",
        )  # fmt: skip
        if len(matches) == 1:
            return _run(matches[0])
        if matches:
            examples = ", ".join(row[0] for row in matches[:5])
            raise NotRecorded(f"{run_id!r} could be any of {len(matches)} runs ({examples}); type more of the id.")
        nearest = difflib.get_close_matches(run_id, [row[0] for row in newest], n=1, cutoff=0.0)[0]
        raise NotRecorded(f"there is no run {run_id!r}; the nearest is {nearest}. `naruto runs` lists them all.")

    def recipe_json(self, run_id: str) -> str:
        """The resolved recipe of a run as JSON. Raises NotRecorded when there is no such run."""
        return self._rows("SELECT recipe_json FROM runs WHERE id = :run", run=self.run(run_id).id)[0][0]

    def git_commit(self, run_id: str) -> str:
        """The commit of the code that made a run; "" where it is unknown."""
        rows = self._rows("SELECT git_commit FROM runs WHERE id = :run", run=run_id)
        return rows[0][0] if rows else ""

    def find_dataset(self, dataset_id: str) -> DatasetVersion | None:
        """The dataset version with this id, or None."""
        rows = self._rows(f"{_DATASETS} WHERE id = :dataset", dataset=dataset_id)
        return DatasetVersion(*rows[0]) if rows else None

    def prompts(self, run_id: str) -> PromptSuite | None:
        """The prompt suite of a run's pictures; None before they are generated."""
        rows = self._rows(
            "SELECT suites.name, suites.fingerprint, suites.seeds, slug, text, content, tags "
            "FROM runs JOIN suites ON suites.fingerprint = runs.suite "
            "LEFT JOIN prompts ON prompts.suite = suites.fingerprint WHERE runs.id = :run ORDER BY position",
            run=run_id,
        )
        if not rows:
            return None
        name, fingerprint, seeds = rows[0][:3]
        prompts = [
            Prompt(slug, text, content, tuple(_json(tags)))
            for *_, slug, text, content, tags in rows
            if slug is not None  # a suite without prompts
        ]
        return PromptSuite(name, fingerprint, tuple(prompts), tuple(_json(seeds)))

    def samples(self, run_id: str, variant: Variant | None = None) -> list[Sample]:
        """The pictures of a run, or of one variant, ordered by variant, prompt and seed."""
        of_variant, values = ("", {}) if variant is None else (" AND variant = :variant", {"variant": variant.value})
        rows = self._rows(
            f"{_SAMPLES} WHERE run_id = :run{of_variant} ORDER BY variant, prompt, seed", run=run_id, **values
        )
        return [Sample(row[0], row[1], Variant(row[2]), *row[3:]) for row in rows]

    def scores(self, run_id: str, *, of_samples: bool = True) -> list[Score]:
        """Every score of a run: set scores and means first, then those of samples unless they are left out."""
        only_sets = "" if of_samples else " AND sample_id IS NULL"
        rows = self._rows(f"{_SCORES} WHERE run_id = :run{only_sets} ORDER BY subject, metric, variant, id", run=run_id)
        return [Score(row[0], row[1], Variant(row[2]), *row[3:-1], details=_json(row[-1])) for row in rows]

    def findings(self, run_id: str) -> list[Finding]:
        """The findings of a run, warnings first."""
        rows = self._rows(
            "SELECT run_id, name, warning, sentence, figures FROM findings WHERE run_id = :run "
            "ORDER BY warning DESC, name",
            run=run_id,
        )
        return [
            Finding(run, name, bool(warning), sentence, _json(figures))
            for run, name, warning, sentence, figures in rows
        ]

    def has_voted_pairs(self) -> bool:
        """Whether people compared pictures of two models, in a campaign that is no example."""
        return bool(self._rows("SELECT 1 FROM campaigns WHERE mode = 'pair' AND NOT example LIMIT 1"))


def _run(row: Sequence[Any]) -> Run:
    """A run from the columns of `_RUNS`."""
    run_id, profile, fingerprint, dataset_id, state, started_at, finished_at, failure = row
    started, finished = _time(started_at), finished_at and _time(finished_at)
    return Run(run_id, profile, fingerprint, dataset_id, RunState(state), started, finished, failure)


def _json(value: Any) -> Any:
    """What a column of JSON holds: SQLite keeps it as text, the driver of a server reads it."""
    return from_json(value) if isinstance(value, str) else value


def _time(value: Any) -> datetime:
    """A recorded time, which is UTC without a zone: SQLite keeps it as text."""
    return (datetime.fromisoformat(value) if isinstance(value, str) else value).replace(tzinfo=UTC)
