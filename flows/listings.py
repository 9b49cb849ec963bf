"""What the listing commands show, except `scores`; and what recaption and report write."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from flows.profiles import choose_recipe
from flows.score_listing import score_row
from flows.terminal import Listing, columns
from naruto_core.artifacts import Layout
from naruto_core.dataset.caption_audit import CaptionSummary
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import DatasetVersion, Picture, Run, RunLease, RunState, Variant, format_duration
from naruto_core.errors import RecordDamaged
from naruto_core.recipe_sections import ImportedSection
from naruto_core.scoring.metrics import is_in_lists
from naruto_core.settings import read_settings
from naruto_core.store.database import Ratings, open_database, open_store
from naruto_core.store.verification import NOT_COVERED, FileProblem, ProblemKind, verify
from naruto_core.store.writes import Store
from naruto_core.training.checkpoint_selection import best_steps


def list_runs() -> Listing:
    """Every run with its set scores."""
    settings = read_settings()
    with open_store(settings.database_url) as store:
        summaries = store.runs()
    if not summaries:
        return Listing([], "no runs yet: start one with  naruto run --recipe mini")
    rows = [
        {
            "id": summary.run.id,
            "state": summary.run.state,
            "profile": summary.run.profile,
            "dataset": summary.run.dataset_id,
            "source": summary.dataset_source,
            "seconds": summary.seconds,
            "failure": summary.run.failure,
            "tags": list(summary.tags),
            "scores": [score_row(score) for score in summary.scores],
        }
        for summary in summaries
    ]
    lines = [["run", "state", "tags", "dataset", "seconds", "scores"]]
    for summary in summaries:
        headline = [s for s in summary.scores if is_in_lists(s.metric) and s.variant is not Variant.REAL]
        shown = ", ".join(f"{s.metric} {s.variant} {s.value:.3g} (n {s.n})" for s in headline)
        seconds = "" if summary.seconds is None else f"{summary.seconds:.0f}"
        run, tags = summary.run, " ".join(summary.tags)
        lines.append([run.id, run.state, tags, summary.dataset_source, seconds, shown or run.failure])
    return Listing(rows, columns(lines))


def show_run(name: str) -> Listing:
    """One run, its recipe and where its files lie."""
    settings = read_settings()
    layout = Layout(settings.root, settings.store)
    with open_store(settings.database_url) as store:
        run = store.run(name)
        dataset, adapters = store.find_dataset(run.dataset_id), store.adapters(run.id)
        recipe = json.loads(store.recipe_json(run.id))
        tags, notes, leases = store.tags(run.id), store.notes(run.id), store.leases(run.id)
        live, worked = store.live_lease(run.id, datetime.now(UTC)), store.worked_seconds(run.id)
        names = list(dict.fromkeys(adapter.style for adapter in adapters)) or [""]
        bests = best_steps(store.steps(run.id), names, recipe.get("training", {}).get("max_train_steps", 0))
    imported = recipe.get("imported") and ImportedSection.model_validate(recipe["imported"])
    facts = {
        "id": run.id,
        "state": run.state,
        "failure": run.failure,
        "started": run.started_at.isoformat(),
        "finished": run.finished_at.isoformat() if run.finished_at else "",
        "worked": format_duration(worked) if worked is not None else "",
        "process": _process(run, live),
        "CPU threads": ", then ".join(dict.fromkeys(str(lease.threads) for lease in leases)),
        "CPU instructions": ", then ".join(dict.fromkeys(lease.cpu for lease in leases if lease.cpu)),
        "tags": " ".join(tags),
        "notes": "; ".join(f"{note.at:%Y-%m-%d}: {note.text}" for note in notes),
        "dataset": run.dataset_id,
        "source": dataset.source if dataset else "",
        "imported": imported.sentence if imported else "",
        "adapters": " ".join(adapter.path for adapter in adapters),
        "adapter sha256": " ".join(adapter.sha256 for adapter in adapters),
        "best step": "; ".join(f"{head}: {best.reason}" if head else best.reason for head, best in bests.items()),
        "files": str(layout.run(run.id)),
    }
    text = columns([[name, str(value)] for name, value in facts.items() if value], head=False)
    return Listing(facts | {"recipe": recipe}, f"{text}\n\n{json.dumps(recipe, indent=2)}")


def _process(run: Run, live: RunLease | None) -> str:
    """Which process works on a run; of one that is recorded as running without a process, how it goes on."""
    if live is not None:
        stopping = f"; {live.stop_requested_by} asked it to stop" if live.stop_requested_by else ""
        return f"{live.process} on {live.host}{stopping}"
    return "none any more; the same command resumes it" if run.state is RunState.RUNNING else ""


def verify_all() -> Listing:
    """What is missing, altered or unknown among all recorded files."""
    settings = read_settings()
    layout = Layout(settings.root, settings.store)
    with open_database(settings.database_url) as database:
        if database.runs.integrity_problems():  # it cannot be read; `verify` says why
            findings = verify(database.runs, layout)
        else:
            pictures, findings = _recorded_pictures(database.runs, layout)
            findings += [*verify(database.runs, layout, pictures), *_wrong_counts(database.ratings)]
    if not findings:
        return Listing([], f"every recorded file is there and is what was recorded.\n{NOT_COVERED}.")
    rows = [{"trouble": str(f.kind), "what": f.what, "path": f.path} for f in findings]
    return Listing(rows, f"{columns([list(row.values()) for row in rows], head=False)}\n\n{_REMEDIES}")


_REMEDIES = (
    "`naruto run` with the choices of a run makes its missing or altered files again, and what was trained or drawn "
    "with them; `naruto ingest` does so for pictures and tables of a dataset, `naruto rescore RUN` for scores. A "
    "damaged file of the cache can be deleted; it is made again. `naruto votes recount` repairs counts of a campaign. "
    "Another damage of the database: move it away, then `naruto restore FOLDER`. An unrecorded file belongs to no run "
    "of this database, for instance because the run was deleted after `naruto backup` had copied it: if it is the "
    "right database, delete the file."
)


def _wrong_counts(ratings: Ratings) -> list[FileProblem]:
    return [
        FileProblem(ProblemKind.ALTERED, f"database (campaign {counts.campaign}: {counts.sentence})", "naruto.db")
        for counts in ratings.wrong_counts()
    ]


def _recorded_pictures(store: Store, layout: Layout) -> tuple[list[Picture], list[FileProblem]]:
    """The pictures of all datasets, and the tables that exist and cannot be read."""
    pictures: dict[str, Picture] = {}
    damaged: list[FileProblem] = []
    for version in store.datasets():
        try:
            pictures |= {picture.sha256: picture for picture in read_pictures(layout, version)}
        except RecordDamaged:
            if layout.absolute(version.table).is_dir():  # `verify` lists those that are missing
                damaged.append(FileProblem(ProblemKind.ALTERED, f"table of dataset {version.source}", version.table))
    return list(pictures.values()), damaged


_SHOWN = 60  # signs of a caption in the terminal; programs get it whole


def list_caption_findings(dataset: str, profile: str, *, words_only: bool = False) -> Listing:
    """The summary of a dataset's captions and every finding; raises NotRecorded for a dataset that is not there."""
    from tasks.captions import check_captions

    audit = check_captions(dataset, choose_recipe(profile), words_only=words_only)
    layout = Layout(read_settings().root)
    files = {p.sha256: layout.relative(layout.picture(p.sha256, p.suffix)) for p in audit.pictures}
    rows = [asdict(finding) | {"file": files[finding.sha256]} for finding in audit.findings]
    text = f"{audit.length}\n{_audit_text(audit.dataset, audit.summary)}"
    if rows:
        lines = [["kind", "caption", "picture", "detail"]]
        lines += [[f.kind, _short(f.caption), files[f.sha256], f.detail] for f in audit.findings]
        text = f"{columns(lines)}\n\n{text}"
    facts = {"dataset": audit.dataset.id, "source": audit.dataset.source}
    return Listing(facts | {"summary": asdict(audit.summary), "findings": rows}, text)


def recaption(
    dataset: str, profile: str, model: str, revision: str | None, folder: Path | None, *, only_flagged: bool
) -> str:
    """Recaption a dataset; what came of it and how to train on it, in words."""
    from tasks.recaption import recaption_dataset

    recipe = choose_recipe(profile)
    result = recaption_dataset(dataset, model, revision, folder, recipe, only_flagged=only_flagged)
    held_out = result.version.n_reference
    same = "" if held_out == recipe.dataset.hold_out else f" --set dataset.hold_out={held_out}"
    return (
        f"{result.n} of {result.version.n_pictures} captions of {result.before.id} written anew by {result.captioner}: "
        f"dataset {result.version.id}\ntrain on it with  naruto run --recipe {profile} --dataset {result.folder}{same}"
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


def write_page(name: str, path: Path) -> Path:
    """The report of one run, written as `path`."""
    from tasks.context import task_context
    from tasks.report import write_report

    with task_context() as context:
        return write_report(context, name, path)
