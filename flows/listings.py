"""What the listing commands show: rows for programs, text for people; and what recaption and report write."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyarrow import Table
from pyarrow.csv import write_csv
from pyarrow.parquet import write_table as write_parquet

from flows.profiles import choose_recipe
from naruto_core.artifacts import Layout, atomic_file
from naruto_core.dataset.caption_audit import CaptionSummary
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import DatasetVersion, Finding, Score, Variant
from naruto_core.errors import RecipeInvalid
from naruto_core.report.tables import (
    Compared,
    anchored,
    comparison_figures,
    comparison_markdown,
    digits,
    headline,
    interval_text,
    number_text,
    tells_base_from_real,
)
from naruto_core.scoring.comparison import Comparison
from naruto_core.scoring.findings import NOT_MEASURED
from naruto_core.scoring.resampling import LEAST_PROMPTS
from naruto_core.settings import read_settings
from naruto_core.store.database import open_store
from naruto_core.store.verification import verify
from naruto_core.training.checkpoint_selection import best_of_heads
from tasks.captions import check_captions
from tasks.compare import compare_models, missing_home
from tasks.context import working_place
from tasks.recaption import recaption_dataset
from tasks.report import write_report


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
    return Listing(rows, f"{columns(lines)}\n\n{notes}\n\n{_finding_lines(findings)}".rstrip())


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


def _finding_lines(findings: Sequence[Finding]) -> str:
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
    rows = [{"trouble": str(f.kind), "what": f.what, "path": f.path} for f in findings]
    return Listing(rows, columns([list(row.values()) for row in rows]))


_SHOWN = 60  # signs of a caption in the terminal; programs get it whole


def list_caption_findings(dataset: str, profile: str, *, words_only: bool = False) -> Listing:
    """The summary of a dataset's captions and every finding; raises NotRecorded for a dataset that is not there."""
    audit = check_captions(dataset, choose_recipe(profile), words_only=words_only)
    layout = Layout(read_settings().root)
    files = {p.sha256: layout.relative(layout.picture(p.sha256, p.suffix)) for p in audit.pictures}
    rows = [asdict(finding) | {"file": files[finding.sha256]} for finding in audit.findings]
    told = f"{audit.length}\n{_audit_text(audit.dataset, audit.summary)}"
    if rows:
        lines = [["kind", "caption", "picture", "detail"]]
        lines += [[f.kind, _short(f.caption), files[f.sha256], f.detail] for f in audit.findings]
        told = f"{columns(lines)}\n\n{told}"
    found = {"dataset": audit.dataset.id, "source": audit.dataset.source}
    return Listing(found | {"summary": asdict(audit.summary), "findings": rows}, told)


def recaption(
    dataset: str, profile: str, model: str, revision: str | None, folder: Path | None, *, only_flagged: bool
) -> str:
    """Recaption a dataset; what came of it and how to train on it, in words."""
    recipe = choose_recipe(profile)
    made = recaption_dataset(dataset, model, revision, folder, recipe, only_flagged=only_flagged)
    held_out = made.version.n_reference
    same = "" if held_out == recipe.dataset.hold_out else f" --set dataset.hold_out={held_out}"
    return (
        f"{made.n} of {made.version.n_kept} captions of {made.before.id} written anew by {made.captioner}: "
        f"dataset {made.version.id}\ntrain on it with  naruto run --recipe {profile} --dataset {made.folder}{same}"
    )


def _audit_text(dataset: DatasetVersion, summary: CaptionSummary) -> str:
    counts = ", ".join(f"{kind} {count}" for kind, count in summary.counts.items() if count)
    lines = [
        f"dataset {dataset.id} ({dataset.source}): {summary.flagged} of {summary.n} captions have a finding "
        f"({summary.share:.1%})" + (f": {counts}" if counts else "")
    ]
    if summary.median_similarity is not None:
        lines.append(f"median cosine of picture and caption {summary.median_similarity:.3f}, by {summary.extractor}")
    return "\n".join(lines)


def _short(caption: str) -> str:
    caption = " ".join(caption.split())
    return caption if len(caption) <= _SHOWN else f"{caption[: _SHOWN - 1]}…"


def compared(first: str, second: str) -> Compared:
    """Every metric of both models with the difference, its interval, and a verdict on the second."""
    with working_place() as place:
        return compare_models(place, first, second)


def nothing_to_compare(*models: str) -> Listing | None:
    """A sentence when the NARUTO_HOME of one of them is not there; None when all are."""
    missing = next((home for name in models if (home := missing_home(name))), None)
    return Listing([], f"Nothing to compare with yet: there is no record in {missing}.") if missing else None


def list_comparison(found: Compared, *, markdown: bool = False) -> Listing:
    """What was compared, for programs and for people; as Markdown, for a page."""
    rows = [asdict(one) | {"verdict": str(one.verdict)} for one in found.metrics]
    if markdown:
        return Listing(rows, comparison_markdown(found))
    return Listing(rows, f"{': '.join(headline(found))}\n\n{comparison_table(found.metrics)}")


def write_page(name: str, path: Path) -> Path:
    """The report of one run, written as `path`."""
    with working_place() as place:
        return write_report(place, name, path)


def unmeasured(name: str) -> str:
    """Which metrics of a run could not be had, and why; "" when there is none."""
    with working_place() as place:
        found = place.store.findings(place.store.run(name).id)
    return next((finding.sentence for finding in found if finding.name == NOT_MEASURED), "")


def comparison_table(found: Sequence[Comparison]) -> str:
    """Primary metrics first; the rest is exploratory."""
    head = ["metric", "first", "second", "difference", "95 % interval", "p (Holm)", "n", "verdict on the second"]
    parts: list[str] = []
    for primary, title in ((True, "primary: named in the recipe"), (False, "exploratory")):
        lines = [head, *(_line(one) for one in found if one.primary is primary)]
        if len(lines) > 1:
            parts.append(f"{title}\n{columns(lines)}")
    return "\n\n".join(parts)


def _line(one: Comparison) -> list[str]:
    return [one.metric, *comparison_figures(one), number_text(one.p, ".3f"), str(one.n), str(one.verdict)]
