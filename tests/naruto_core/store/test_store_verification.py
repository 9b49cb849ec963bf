"""`verify` finds missing, altered and unrecorded files."""

import hashlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from recorded import NOON, sample

from naruto_core.artifacts import Layout, sha256_bytes, sha256_file, sha256_folder, write_atomically
from naruto_core.domain import Adapter, FusedModel, Picture, Progress, Run, Split
from naruto_core.errors import RecordDamaged
from naruto_core.store.verification import FileProblem, ProblemKind, verify
from naruto_core.store.writes import Store


@pytest.fixture
def layout(tmp_path: Path, store: Store, run: Run) -> Layout:
    """A done run with every kind of file, all as recorded."""
    layout = Layout(tmp_path)
    (tmp_path / "datasets" / "world").mkdir(parents=True)
    write_atomically(layout.picture(sha256_bytes(b"ninja"), ".png"), b"ninja")
    write_atomically(layout.adapter(run.id), b"lora")
    adapter = layout.adapter(run.id)
    store.add_adapters([Adapter(run.id, layout.relative(adapter), sha256_file(adapter), 4, 500)])
    fused = layout.fused(run.id)
    write_atomically(fused / "unet" / "model.safetensors", b"weights")
    write_atomically(fused / "vae" / "model.safetensors", b"more weights")
    store.add_fused(FusedModel(run.id, layout.relative(fused), sha256_folder(fused), 1.0))
    for number in range(2):
        data = b"picture %d" % number
        drawn = sample(run.id, number, sha256=sha256_bytes(data))
        write_atomically(layout.absolute(drawn.path), data)
        store.add_samples([drawn])
    store.finish_run(run.id, NOON)
    return layout


def test_an_unchanged_archive_has_no_problems(store: Store, layout: Layout) -> None:
    reports: list[Progress] = []
    assert verify(store, layout, on_progress=reports.append) == []
    assert [(progress.done, progress.total) for progress in reports] == [(done, 5) for done in range(1, 6)]


def test_a_deleted_picture_is_missing(store: Store, layout: Layout, run: Run) -> None:
    path = sample(run.id, 1).path
    layout.absolute(path).unlink()
    assert verify(store, layout) == [FileProblem(ProblemKind.MISSING, "base picture of kage, seed 1", path)]


def test_one_flipped_bit_is_found_in_every_kind_of_file(store: Store, layout: Layout, run: Run) -> None:
    fused = layout.fused(run.id)
    victims = [
        layout.adapter(run.id),
        fused / "vae" / "model.safetensors",
        layout.absolute(sample(run.id, 0).path),
        layout.picture(sha256_bytes(b"ninja"), ".png"),
    ]
    for victim in victims:
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
    problems = verify(store, layout)
    assert {problem.kind for problem in problems} == {ProblemKind.ALTERED}
    assert [problem.what for problem in problems] == [
        "adapter",
        "fused model",
        "base picture of kage, seed 0",
        "dataset picture",
    ]


def test_a_deleted_dataset_picture_is_missing_when_it_is_known_to_belong(store: Store, layout: Layout) -> None:
    absent = Picture(hashlib.sha256(b"gone").hexdigest(), ".png", 64, 64, "gone", Split.TRAIN, "0" * 16)
    (problem,) = verify(store, layout, [absent])
    assert (problem.kind, problem.what) == (ProblemKind.MISSING, "dataset picture")


def test_a_deleted_dataset_table_is_missing(store: Store, layout: Layout) -> None:
    (layout.root / "datasets" / "world").rmdir()
    assert verify(store, layout) == [FileProblem(ProblemKind.MISSING, "table of dataset world:ninja", "datasets/world")]


def test_files_nobody_recorded_are_named_once_a_run_has_ended(store: Store, layout: Layout, run: Run) -> None:
    stranger = layout.sample(run.id, "stranger")
    write_atomically(stranger, b"?")
    write_atomically(layout.sample("2020-01-01-old-0000", "x"), b"?")
    assert verify(store, layout) == [
        FileProblem(ProblemKind.UNRECORDED, "run", "runs/2020-01-01-old-0000"),
        FileProblem(ProblemKind.UNRECORDED, "file of a run", layout.relative(stranger)),
    ]


def test_a_picture_whose_run_was_taken_away_is_found(store: Store, layout: Layout, run: Run, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "naruto.db") as careless:  # no foreign keys here
        careless.execute("DELETE FROM runs")
    problems = verify(store, layout)
    strays = [problem for problem in problems if problem.what.startswith(f"run {run.id} of a recorded picture")]
    assert [problem.path for problem in strays] == [sample(run.id, 0).path, sample(run.id, 1).path]


@pytest.mark.parametrize("hostile", ["/etc/passwd", "../outside.png", "runs/../../outside.png"])
def test_a_recorded_path_never_leads_out_of_the_root(store: Store, layout: Layout, run: Run, hostile: str) -> None:
    with pytest.raises(RecordDamaged, match="leads out"):
        layout.absolute(hostile)
    store.add_samples([replace(sample(run.id, 5), path=hostile)])
    assert FileProblem(ProblemKind.ALTERED, "base picture of kage, seed 5", hostile) in verify(store, layout)
