"""Does the store still tell the truth? Every recorded file is hashed again, and files nobody recorded are named."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from naruto_core.artifacts import Layout, find_non_finite, sha256_file, sha256_folder
from naruto_core.domain import Adapter, Picture, Progress, RunState, Sample
from naruto_core.errors import RecordDamaged
from naruto_core.store.queries import Queries


class Trouble(StrEnum):
    MISSING = "missing"  # recorded, but not there
    ALTERED = "altered"  # there, but with other bytes than were recorded
    UNRECORDED = "unrecorded"  # there, or referred to, but the store does not know it


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as recorded; `path` is relative to the data root."""

    trouble: Trouble
    what: str
    path: str


@dataclass(frozen=True, slots=True)
class _Expected:
    """A file or folder that should have this digest."""

    what: str
    path: str
    sha256: str


def verify(
    reports: Queries,
    layout: Layout,
    pictures: Iterable[Picture] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Finding]:
    """Everything below `layout` that is missing, altered or unrecorded.

    Dataset pictures are named by their hash, so every one on disk is checked; which ones should be there
    is in the Delta tables, so a missing one is found only among the `pictures` that are handed in.
    """
    wanted = {layout.relative(layout.picture(picture.sha256, picture.suffix)) for picture in pictures}
    expected = [*_recorded(reports), *_pictures(layout, wanted)]
    findings: list[Finding] = []
    started = time.monotonic()
    for done, one in enumerate(expected, 1):
        if (trouble := _trouble(layout, one)) is not None:
            findings.append(Finding(trouble, one.what, one.path))
        if on_progress is not None:
            seconds = time.monotonic() - started
            left = seconds / done * (len(expected) - done)
            on_progress(Progress("verify", done, len(expected), "file", seconds, left, f"{len(findings)} findings"))
    findings += _missing_tables(reports, layout)
    findings += _strays(reports, layout, {one.path for one in expected})
    return findings


def adapter_fault(layout: Layout, adapter: Adapter) -> str:
    """What is wrong with a recorded adapter file, as the end of a sentence; "" when it can be loaded as recorded."""
    trouble = _trouble(layout, _Expected("adapter", adapter.path, adapter.sha256))
    if trouble is Trouble.MISSING:
        return f"its file {adapter.path} is missing"
    if trouble is not None:
        return f"its file {adapter.path} is not the one that was recorded"
    if tensor := find_non_finite(layout.absolute(adapter.path)):
        return f"its file {adapter.path} has weights that are not numbers ({tensor})"
    return ""


def _recorded(reports: Queries) -> Iterator[_Expected]:
    for summary in reports.runs():
        run_id = summary.run.id
        yield from (_Expected("adapter", one.path, one.sha256) for one in reports.adapters(run_id))
        if (fused := reports.find_fused(run_id)) is not None:
            yield _Expected("fused model", fused.path, fused.sha256)
        yield from (_expected(sample) for sample in reports.samples(run_id))


def _expected(sample: Sample) -> _Expected:
    return _Expected(f"{sample.variant} picture of {sample.prompt}, seed {sample.seed}", sample.path, sample.sha256)


def _pictures(layout: Layout, wanted: set[str]) -> Iterator[_Expected]:
    found = {layout.relative(path) for path in (layout.root / "pictures").glob("*/[!.]*")}
    for path in sorted(found | wanted):
        yield _Expected("dataset picture", path, Path(path).stem)


def _trouble(layout: Layout, expected: _Expected) -> Trouble | None:
    try:
        path = layout.absolute(expected.path)
        digest = sha256_folder(path) if path.is_dir() else sha256_file(path)
    except FileNotFoundError:
        return Trouble.MISSING
    except (RecordDamaged, OSError):
        return Trouble.ALTERED
    return None if digest == expected.sha256 else Trouble.ALTERED


def _missing_tables(reports: Queries, layout: Layout) -> Iterator[Finding]:
    for version in reports.datasets():
        if not (layout.root / version.table).is_dir():
            yield Finding(Trouble.MISSING, f"table of dataset {version.source}", version.table)


def _strays(reports: Queries, layout: Layout, expected: set[str]) -> Iterator[Finding]:
    """What the store does not know: rows without a run, folders without a run, files without a row."""
    for sample in reports.stray_samples():
        yield Finding(Trouble.UNRECORDED, f"run {sample.run_id} of a recorded picture", sample.path)
    states = {summary.run.id: summary.run.state for summary in reports.runs()}
    for folder in sorted((layout.root / "runs").glob("[!.]*")):
        state = states.get(folder.name)
        if state is None:
            yield Finding(Trouble.UNRECORDED, "run", layout.relative(folder))
        elif state is not RunState.RUNNING:  # a run under way records its files a little after they are written
            adapters = layout.adapter(folder.name).parent.glob("**/*.safetensors")
            files = [*adapters, layout.fused(folder.name), *folder.glob("samples/[!.]*")]
            for path in sorted(path for path in files if path.exists()):
                if layout.relative(path) not in expected:
                    yield Finding(Trouble.UNRECORDED, "file of a run", layout.relative(path))
