"""What the `naruto` listings show: rows for programs and text for people. Reads only; no model is loaded."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import Table
from pyarrow.csv import write_csv
from pyarrow.parquet import write_table as write_parquet

from naruto_core.artifacts import Layout, atomic_file
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import Finding, Score, Variant
from naruto_core.errors import RecipeInvalid
from naruto_core.report.tables import anchored, digits, interval_text, tells_base_from_real
from naruto_core.scoring.resampling import LEAST_PROMPTS
from naruto_core.settings import read_settings
from naruto_core.store.database import open_store
from naruto_core.store.verification import verify
from naruto_core.training.checkpoint_selection import best_of_heads


@dataclass(frozen=True, slots=True)
class Listing:
    """`rows` are JSON-able values, `text` says the same in the terminal."""

    rows: Any
    text: str


def columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _score_row(score: Score) -> dict[str, Any]:
    kept = ("metric", "variant", "value", "low", "high", "n", "extractor", "version", "reference", "method")
    values = {name: getattr(score, name) for name in kept}
    return values if score.interval else values | {"low": None, "high": None}


def list_runs() -> Listing:
    """Every run with its set scores."""
    settings = read_settings()
    with open_store(settings.database_url) as store:
        summaries = store.runs()
    if not summaries:
        return Listing([], "no runs yet: start one with  naruto run --recipe mini")
    rows = [
        {
            "id": one.run.id,
            "state": one.run.state,
            "profile": one.run.profile,
            "dataset": one.run.dataset_id,
            "source": one.dataset_source,
            "seconds": one.seconds,
            "failure": one.run.failure,
            "scores": [_score_row(score) for score in one.scores],
        }
        for one in summaries
    ]
    lines = [["run", "state", "dataset", "seconds", "scores"]]
    for one in summaries:
        headline = [s for s in one.scores if s.metric in ("fid", "clip") and s.variant is not Variant.REAL]
        shown = ", ".join(f"{s.metric} {s.variant} {s.value:.3g} (n {s.n})" for s in headline)
        seconds = "" if one.seconds is None else f"{one.seconds:.0f}"
        lines.append([one.run.id, one.run.state, one.dataset_source, seconds, shown or one.run.failure])
    return Listing(rows, columns(lines))


def show_run(name: str) -> Listing:
    """One run, its recipe and where its files lie."""
    settings = read_settings()
    layout = Layout(settings.root)
    with open_store(settings.database_url) as store:
        run = store.run(name)
        dataset, adapters = store.find_dataset(run.dataset_id), store.adapters(run.id)
        recipe = json.loads(store.recipe_json(run.id))
        heads = list(dict.fromkeys(adapter.style for adapter in adapters)) or [""]
        bests = best_of_heads(store.steps(run.id), heads, recipe["training"]["max_train_steps"])
    facts = {
        "id": run.id,
        "state": run.state,
        "failure": run.failure,
        "started": run.started_at.isoformat(),
        "finished": run.finished_at.isoformat() if run.finished_at else "",
        "dataset": run.dataset_id,
        "source": dataset.source if dataset else "",
        "adapters": " ".join(adapter.path for adapter in adapters),
        "adapter sha256": " ".join(adapter.sha256 for adapter in adapters),
        "best step": "; ".join(f"{head}: {best.reason}" if head else best.reason for head, best in bests.items()),
        "files": str(layout.run(run.id)),
    }
    text = columns([[name, str(value)] for name, value in facts.items() if value])
    return Listing(facts | {"recipe": recipe}, f"{text}\n\n{json.dumps(recipe, indent=2)}")


def list_scores(name: str) -> Listing:
    """The set scores and means of one run, each beside base (0) and real pictures (1), and what was found."""
    settings = read_settings()
    with open_store(settings.database_url) as store:
        run = store.run(name)
        scores, findings = [s for s in store.scores(run.id) if s.sample_id is None], store.findings(run.id)
    if not scores:
        return Listing([], f"run {run.id} has no scores yet ({run.state}).")
    lines = [["metric", "model", "value", "95 % interval", "anchored", "n", "tells base from real", "measured by"]]
    rows = [_score_row(score) | {"anchored": anchored(score, scores)} for score in scores]
    lines += [_score_line(score, row["anchored"]) for score, row in zip(scores, rows, strict=True)]
    notes = "anchored: base is 0, real pictures are 1, measured alike. Intervals by: " + "; ".join(
        sorted({score.method for score in scores})
    )
    if any(score.interval is None for score in scores):
        notes += f"; none of fewer than {LEAST_PROMPTS} prompts or pictures"
    return Listing(rows, f"{columns(lines)}\n\n{notes}\n\n{_told(findings)}".rstrip())


def write_scores(name: str, path: Path) -> Path:
    """All scores of a run, those of single pictures too, as a table file; RecipeInvalid for another kind of file."""
    writers = {".csv": write_csv, ".parquet": write_parquet}
    if path.suffix not in writers:
        raise RecipeInvalid(f"{path}: write to a .csv or a .parquet file.")
    settings = read_settings()
    with open_store(settings.database_url) as store:
        run = store.run(name)
        found = store.scores(run.id)
    rows = [_score_row(one) | {"run": run.id, "sample": one.sample_id or "", **one.details} for one in found]
    columns_of = dict.fromkeys(key for row in rows for key in row)
    with atomic_file(path) as scratch:
        writers[path.suffix](Table.from_pydict({key: [row.get(key) for row in rows] for key in columns_of}), scratch)
    return path


def _score_line(one: Score, placed: float | None) -> list[str]:
    places = digits(one.metric)
    interval = interval_text(one.interval, f".{places}f")
    shown = "" if placed is None else f"{placed:.2f}"
    ruler = f"{one.extractor}, {one.version}"
    value, tells = f"{one.value:.{places}f}", tells_base_from_real(one)[0]
    return [one.metric, one.variant, value, interval, shown, str(one.n), tells, ruler]


def _told(findings: Sequence[Finding]) -> str:
    return "\n".join(f"{'warning' if f.warning else 'ok':<8} {f.name}: {f.sentence}" for f in findings)


def verify_all() -> Listing:
    """What is missing, altered or unknown among all recorded files."""
    settings = read_settings()
    layout = Layout(settings.root)
    with open_store(settings.database_url) as store:
        pictures = {p.sha256: p for version in store.datasets() for p in read_pictures(layout, version)}
        findings = verify(store, layout, pictures.values())
    if not findings:
        return Listing([], "every recorded file is there and is what was recorded.")
    rows = [{"trouble": str(f.trouble), "what": f.what, "path": f.path} for f in findings]
    return Listing(rows, columns([list(row.values()) for row in rows]))
