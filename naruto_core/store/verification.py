"""Compare the files with the database: every recorded file is hashed again, and unrecorded files are listed.

The database file, the caches and the scores of a run are compared with digests of their own. `NOT_COVERED` names what
has no digest anywhere.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from naruto_core.artifact_store import ArtifactStore, fetch_file, rows_name
from naruto_core.artifacts import (
    Layout,
    find_non_finite,
    is_intact,
    is_intact_folder,
)
from naruto_core.domain import Adapter, Picture, Progress, Run, RunState, Sample
from naruto_core.errors import RecordDamaged, ServiceFailed, amount
from naruto_core.store.cache_verification import cache_checks
from naruto_core.store.queries import Queries
from naruto_core.store.scores_digest import scores_digest

NOT_COVERED = (
    "not covered, because nothing records their content: previews, folders to publish, checkpoints of unfinished runs, "
    "rows other than scores that somebody changed in the database, sizes and hashes of likeness in dataset tables, "
    "results and pictures outside of NARUTO_HOME, files that only the bucket (NARUTO_STORE) has: they are compared "
    "when they are fetched"
)


class ProblemKind(StrEnum):
    """How a file and the database disagree."""

    MISSING = "missing"  # recorded, but the file does not exist
    ALTERED = "altered"  # the file has other bytes than recorded
    UNRECORDED = "unrecorded"  # the file exists, or is referred to, but is not recorded


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A file that is not as recorded; `path` is relative to the data root, `what` describes it."""

    kind: ProblemKind
    what: str
    path: str


@dataclass(frozen=True, slots=True)
class _Expected:
    """A file or folder and the sha256 that it should have."""

    what: str
    path: str
    sha256: str


def verify(
    queries: Queries,
    layout: Layout,
    pictures: Iterable[Picture] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> list[FileProblem]:
    """Every file below `layout` that is missing, altered or unrecorded. Of a damaged database, that alone.

    Dataset pictures are named by their sha256, so each of them on disk is checked. Which should exist is in the Delta
    tables, so a missing one is noticed only among the `pictures` that the caller passes.
    """
    if problems_of_database := queries.integrity_problems():
        return [_of_database(text) for text in problems_of_database]
    try:
        return _verify(queries, layout, pictures, on_progress)
    except (LookupError, ValueError) as error:  # a value that no version of this program writes
        reason = " ".join(str(error).split())[:200]
        return [_of_database(f"a value cannot be read: {reason}")]


def _of_database(problem: str) -> FileProblem:
    return FileProblem(ProblemKind.ALTERED, f"database ({problem})", "naruto.db")


def _verify(
    queries: Queries, layout: Layout, pictures: Iterable[Picture], on_progress: Callable[[Progress], None] | None
) -> list[FileProblem]:
    paths = {layout.relative(layout.picture(picture.sha256, picture.suffix)) for picture in pictures}
    expected = [*_recorded(queries), *_pictures(layout, paths)]
    problems: list[FileProblem] = []
    started = time.monotonic()
    for done, expected_file in enumerate(expected, 1):
        if (kind := _problem_kind(layout, expected_file)) is not None:
            problems.append(FileProblem(kind, expected_file.what, expected_file.path))
        if on_progress is not None:
            seconds = time.monotonic() - started
            left = seconds / done * (len(expected) - done)
            on_progress(
                Progress("verify", done, len(expected), "file", seconds, left, amount(len(problems), "problem"))
            )
    problems += [_of_database(text) for text in queries.missing_references()]
    problems += _damaged_of_runs(queries, layout)
    problems += _damaged_caches(layout)
    problems += _missing_tables(queries, layout)
    problems += _unrecorded(queries, layout, {expected_file.path for expected_file in expected})
    return problems


def adapter_fault(layout: Layout, adapter: Adapter) -> str:
    """What is wrong with a recorded adapter file, as the end of a sentence; "" when it is as recorded and loadable.

    A file that this machine has not is fetched from the layout's bucket.
    """
    try:
        fetch_file(layout, adapter.path, adapter.sha256)
    except (ServiceFailed, RecordDamaged) as error:
        return f"its file {adapter.path} is not on this machine, and cannot be fetched: {str(error).rstrip('.')}"
    kind = _problem_kind(layout, _Expected("adapter", adapter.path, adapter.sha256))
    if kind is ProblemKind.MISSING:
        return f"its file {adapter.path} is missing"
    if kind is not None:
        return f"its file {adapter.path} is not the one that was recorded"
    if tensor := find_non_finite(layout.absolute(adapter.path)):
        return f"its file {adapter.path} has weights that are not numbers ({tensor})"
    return ""


def _recorded(queries: Queries) -> Iterator[_Expected]:
    for summary in queries.runs():
        run_id = summary.run.id
        yield from (_Expected("adapter", adapter.path, adapter.sha256) for adapter in queries.adapters(run_id))
        if (fused := queries.find_fused(run_id)) is not None:
            yield _Expected("fused model", fused.path, fused.sha256)
        yield from (_expected(sample) for sample in queries.samples(run_id))


def _expected(sample: Sample) -> _Expected:
    return _Expected(f"{sample.variant} picture of {sample.prompt}, seed {sample.seed}", sample.path, sample.sha256)


def _pictures(layout: Layout, paths: set[str]) -> Iterator[_Expected]:
    on_disk = {layout.relative(path) for path in (layout.root / "pictures").glob("*/[!.]*")}
    for path in sorted(on_disk | paths):
        yield _Expected("dataset picture", path, Path(path).stem)


def _problem_kind(layout: Layout, expected: _Expected) -> ProblemKind | None:
    try:
        path = layout.absolute(expected.path)
        if not path.exists():
            return None if layout.bucket and ArtifactStore(layout.bucket).has(expected.sha256) else ProblemKind.MISSING
        intact = is_intact_folder(path, expected.sha256) if path.is_dir() else is_intact(path, expected.sha256)
    except (RecordDamaged, OSError):
        return ProblemKind.ALTERED
    return None if intact else ProblemKind.ALTERED


def _damaged_of_runs(queries: Queries, layout: Layout) -> Iterator[FileProblem]:
    """Of done runs: the copy of the recipe, the contact sheet, and the scores in the database."""
    for run in (summary.run for summary in queries.runs()):
        if run.state is RunState.DONE:
            yield from _damaged_of_run(queries, layout, run)


def _damaged_of_run(queries: Queries, layout: Layout, run: Run) -> Iterator[FileProblem]:
    recipe, sheet, scores = layout.recipe(run.id), layout.contact_sheet(run.id), layout.scores_digest(run.id)
    if not recipe.exists():
        if layout.bucket:  # these copies are not shared: the run was made on another machine
            return
        yield FileProblem(ProblemKind.MISSING, "recipe", layout.relative(recipe))
    elif recipe.read_bytes() != queries.recipe_json(run.id).encode():
        yield FileProblem(ProblemKind.ALTERED, "recipe", layout.relative(recipe))
    if not sheet.exists():
        yield FileProblem(ProblemKind.MISSING, "contact sheet", layout.relative(sheet))
    elif not _is_readable(sheet):
        yield FileProblem(ProblemKind.ALTERED, "contact sheet", layout.relative(sheet))
    # runs that an earlier version scored have no such file
    if scores.exists() and scores.read_bytes().strip() != scores_digest(queries.scores(run.id)).encode():
        yield FileProblem(ProblemKind.ALTERED, f"scores of {run.id} in the database", layout.relative(scores))


def _is_readable(picture: Path) -> bool:
    """Whether every part of a PNG file has its checksum."""
    from PIL import Image  # here: commands that verify nothing start without it

    try:
        with Image.open(picture) as opened:
            opened.verify()
    except Exception:  # noqa: BLE001 (decoders of damaged bytes raise nearly anything)
        return False
    return True


def _damaged_caches(layout: Layout) -> Iterator[FileProblem]:
    for what, path, is_whole in cache_checks(layout):
        try:
            problem = None if is_whole(path) else ProblemKind.ALTERED
        except FileNotFoundError:  # a running process has just removed it
            continue
        except OSError:
            problem = ProblemKind.ALTERED
        if problem:
            yield FileProblem(problem, what, layout.relative(path))


def _missing_tables(queries: Queries, layout: Layout) -> Iterator[FileProblem]:
    for version in queries.datasets():
        shared = layout.bucket and ArtifactStore(layout.bucket).has_object(rows_name(version.id))
        if not shared and not (layout.root / version.table).is_dir():
            yield FileProblem(ProblemKind.MISSING, f"table of dataset {version.source}", version.table)


def _unrecorded(queries: Queries, layout: Layout, expected: set[str]) -> Iterator[FileProblem]:
    """Rows without a run, folders without a run, files without a row."""
    for sample in queries.orphan_samples():
        yield FileProblem(ProblemKind.UNRECORDED, f"run {sample.run_id} of a recorded picture", sample.path)
    states = {summary.run.id: summary.run.state for summary in queries.runs()}
    for folder in sorted((layout.root / "runs").glob("[!.]*")):
        state = states.get(folder.name)
        if state is None:
            yield FileProblem(ProblemKind.UNRECORDED, "run", layout.relative(folder))
        elif state is not RunState.RUNNING:  # a running run records its files shortly after writing them
            adapters = layout.adapter(folder.name).parent.glob("**/*.safetensors")
            files = [*adapters, layout.fused(folder.name), *folder.glob("samples/[!.]*")]
            for path in sorted(path for path in files if path.exists()):
                if layout.relative(path) not in expected:
                    yield FileProblem(ProblemKind.UNRECORDED, "file of a run", layout.relative(path))
