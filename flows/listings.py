"""What the `naruto` listings show: rows for programs and text for people. Reads only; no model is loaded."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from naruto_core.artifacts import Layout
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import Score
from naruto_core.settings import read_settings
from naruto_core.store.opening import open_store
from naruto_core.store.verification import verify
from naruto_core.training.best import best_of_heads


@dataclass(frozen=True, slots=True)
class Listing:
    """`rows` are JSON-able values, `text` says the same in the terminal."""

    rows: Any
    text: str


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _score_row(score: Score) -> dict[str, Any]:
    kept = ("metric", "variant", "value", "low", "high", "n", "extractor", "version", "reference", "method")
    return {name: getattr(score, name) for name in kept}


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
        shown = ", ".join(f"{s.metric} {s.variant} {s.value:.3g} (n {s.n})" for s in one.scores)
        seconds = "" if one.seconds is None else f"{one.seconds:.0f}"
        lines.append([one.run.id, one.run.state, one.dataset_source, seconds, shown or one.run.failure])
    return Listing(rows, _columns(lines))


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
    text = _columns([[name, str(value)] for name, value in facts.items() if value])
    return Listing(facts | {"recipe": recipe}, f"{text}\n\n{json.dumps(recipe, indent=2)}")


def list_scores(name: str) -> Listing:
    """The set scores and means of one run."""
    settings = read_settings()
    with open_store(settings.database_url) as store:
        run = store.run(name)
        scores = [s for s in store.scores(run.id) if s.sample_id is None]
    if not scores:
        return Listing([], f"run {run.id} has no scores yet ({run.state}).")
    lines = [["metric", "model", "value", "95 % interval", "n", "measured by", "interval by"]]
    for one in scores:
        digits = 1 if one.metric == "fid" else 3
        interval = f"{one.low:.{digits}f} … {one.high:.{digits}f}"
        ruler = f"{one.extractor}, {one.version}"
        lines.append([one.metric, one.variant, f"{one.value:.{digits}f}", interval, str(one.n), ruler, one.method])
    return Listing([_score_row(s) for s in scores], _columns(lines))


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
    return Listing(rows, _columns([list(row.values()) for row in rows]))
