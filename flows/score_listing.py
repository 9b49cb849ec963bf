"""What `naruto scores` shows and writes. It imports no torch, no Prefect, no scipy.stats and no SQLAlchemy."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.terminal import Listing, columns
from naruto_core.artifacts import atomic_file
from naruto_core.domain import Finding, Score, Variant
from naruto_core.errors import RecipeInvalid
from naruto_core.report.score_table import anchored, headline_table
from naruto_core.report.win_rates import win_rate_over_base
from naruto_core.scoring.metrics import decimals
from naruto_core.settings import read_settings
from naruto_core.store.sqlite_records import open_records

if TYPE_CHECKING:
    from naruto_core.judging.decision import WinRate


def score_row(score: Score) -> dict[str, Any]:
    """A score as JSON values; an interval that is not known is null."""
    fields = ("metric", "variant", "value", "low", "high", "n", "extractor", "version", "reference", "method")
    values = {name: getattr(score, name) for name in fields}
    return values if score.interval else values | {"low": None, "high": None}


def list_scores(name: str, *, all_of_them: bool = False) -> Listing:
    """The headline metrics of one run and its warnings; or all set scores and means, and all that was checked."""
    url = read_settings().database_url
    with open_records(url) as records:
        run = records.run(name)
        scores, findings = records.scores(run.id, of_samples=False), records.findings(run.id)
        rate = _win_rate(url, run.id) if not all_of_them and records.has_voted_pairs() else None
    if not scores:
        return Listing([], f"run {run.id} has no scores yet ({run.state}).")
    rows = [score_row(score) | {"anchored": anchored(score, scores)} | _change_row(score) for score in scores]
    if not all_of_them:
        return Listing(rows, f"{headline_table(scores, findings, rate)}\n\n{_warning_lines(run.id, findings)}")
    lines = [["metric", "model", "value", "95 % interval", "anchored", "n", "tells base from real", "measured by"]]
    lines += [_score_line(score, row["anchored"]) for score, row in zip(scores, rows, strict=True)]
    notes = "anchored: base is 0, real pictures are 1, measured alike. Intervals by: " + "; ".join(
        sorted({score.method for score in scores})
    )
    if any(score.interval is None for score in scores):
        notes += "; none of too few prompts or pictures"
    return Listing(rows, f"{columns(lines)}\n\n{notes}\n\n{_finding_lines(findings)}".rstrip())


def _win_rate(url: str, run_id: str) -> "WinRate | None":
    from naruto_core.store.database import open_database  # SQLAlchemy: half of the time of this command

    with open_database(url) as database:
        return win_rate_over_base(database.ratings, run_id)


def _change_row(score: Score) -> dict[str, Any]:
    """The paired difference from the base, of the adapted model's scores."""
    names = ("change", "change_low", "change_high", "change_word")
    return {name: score.details.get(name) for name in names} if score.variant is Variant.ADAPTED else {}


def _warning_lines(run_id: str, findings: Sequence[Finding]) -> str:
    warnings = [finding for finding in findings if finding.warning]
    ok = ", ".join(finding.name for finding in findings if not finding.warning)
    lines = [_finding_lines(warnings)] if warnings else []
    lines += [f"checked, and no warning: {ok}."] if ok else []
    return "\n".join([*lines, f"all metrics and checks:  naruto scores {run_id} --all"])


def write_scores(name: str, path: Path) -> Path:
    """All scores of a run, those of single pictures too, as a table file; RecipeInvalid for another kind of file."""
    from pyarrow import Table
    from pyarrow.csv import write_csv
    from pyarrow.parquet import write_table as write_parquet

    writers = {".csv": write_csv, ".parquet": write_parquet}
    if path.suffix not in writers:
        raise RecipeInvalid(f"{path}: write to a .csv or a .parquet file.")
    settings = read_settings()
    with open_records(settings.database_url) as records:
        run = records.run(name)
        scores = records.scores(run.id)
    rows = [score_row(score) | {"run": run.id, "sample": score.sample_id or "", **score.details} for score in scores]
    columns_of = dict.fromkeys(key for row in rows for key in row)
    with atomic_file(path) as scratch:
        writers[path.suffix](Table.from_pydict({key: [row.get(key) for row in rows] for key in columns_of}), scratch)
    return path


def _score_line(score: Score, anchored_value: float | None) -> list[str]:
    from naruto_core.report.tables import discrimination_text, interval_text

    places = decimals(score.metric)
    interval = interval_text(score.interval, f".{places}f")
    anchored_text = "" if anchored_value is None else f"{anchored_value:.2f}"
    measured_by = f"{score.extractor}, {score.version}"
    value, tells = f"{score.value:.{places}f}", discrimination_text(score)[0]
    return [score.metric, score.variant, value, interval, anchored_text, str(score.n), tells, measured_by]


def _finding_lines(findings: Sequence[Finding]) -> str:
    return "\n".join(f"{'warning' if f.warning else 'ok':<8} {f.name}: {f.sentence}" for f in findings)
