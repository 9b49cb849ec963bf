"""`verify` finds missing, altered and unrecorded files."""

import hashlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recorded import NOON, sample, score

from naruto_core.artifacts import (
    Layout,
    sha256_bytes,
    sha256_file,
    sha256_folder,
    sha256_of_all,
    write_atomically,
)
from naruto_core.checkpoint import write_checkpoint
from naruto_core.domain import Adapter, FusedModel, Picture, Progress, Run, Split
from naruto_core.errors import RecordDamaged
from naruto_core.picture_file import encode_picture
from naruto_core.store.embedding_cache import EmbeddingCache
from naruto_core.store.scores_digest import write_scores_digest
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
    write_atomically(fused / "model_index.json", b"{}")
    store.add_fused(FusedModel(run.id, layout.relative(fused), sha256_of_all(fused), 1.0))
    write_atomically(layout.recipe(run.id), store.recipe_json(run.id).encode())
    write_atomically(layout.contact_sheet(run.id), encode_picture(Image.new("RGB", (8, 8)), {}))
    for number in range(2):
        data = b"picture %d" % number
        drawn = sample(run.id, number, sha256=sha256_bytes(data))
        write_atomically(layout.absolute(drawn.path), data)
        store.add_samples([drawn])
    store.add_scores([score(run.id, 3.0)])
    write_scores_digest(layout, run.id, store.scores(run.id))
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


def _flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_one_flipped_bit_is_found_beside_the_weights(store: Store, layout: Layout, run: Run) -> None:
    _flip(layout.fused(run.id) / "model_index.json")
    _flip(layout.recipe(run.id))
    _flip(layout.contact_sheet(run.id), -20)
    problems = [(problem.kind.value, problem.what) for problem in verify(store, layout)]
    assert problems == [("altered", "fused model"), ("altered", "recipe"), ("altered", "contact sheet")]
    layout.recipe(run.id).unlink()
    layout.contact_sheet(run.id).unlink()
    problems = [(problem.kind.value, problem.what) for problem in verify(store, layout)]
    assert problems == [("altered", "fused model"), ("missing", "recipe"), ("missing", "contact sheet")]


def test_a_fused_model_of_an_earlier_version_is_intact(store: Store, layout: Layout, run: Run) -> None:
    """Its sha256 is over the weights alone."""
    fused = layout.fused(run.id)
    store.add_fused(FusedModel(run.id, layout.relative(fused), sha256_folder(fused), 1.0))
    _flip(fused / "model_index.json")
    assert verify(store, layout) == []


def test_damage_in_the_database_is_found(store: Store, layout: Layout, run: Run) -> None:
    path = layout.root / "naruto.db"
    with sqlite3.connect(path) as careless:
        careless.execute("UPDATE scores SET value = value + 0.001")
    (problem,) = verify(store, layout)
    assert (problem.kind.value, problem.what) == ("altered", f"scores of {run.id} in the database")
    with sqlite3.connect(path) as careless:
        careless.execute("UPDATE samples SET variant = 'bose'")
    (problem,) = verify(store, layout)
    assert problem.what.startswith("database (a value cannot be read")
    with sqlite3.connect(path) as careless:
        careless.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = careless.execute("SELECT rootpage FROM sqlite_master WHERE name = 'samples'").fetchone()
        (size,) = careless.execute("PRAGMA page_size").fetchone()
    store.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * size + 3)
        file.write(b"\xff" * 40)
    problems = verify(store, layout)
    assert problems
    assert all(problem.what.startswith("database (") for problem in problems)


def test_damage_in_every_cache_is_found(store: Store, layout: Layout) -> None:
    picture = layout.picture_cache / "aa" / f"{'a' * 64}.{sha256_bytes(b'drawn')}.png"
    write_atomically(picture, b"drawn")
    shard = layout.cache("examples-1") / "shard-00000.safetensors"
    tensors = {"mean": torch.randn(2, 4), "half": torch.ones(3, dtype=torch.bfloat16), "count": torch.tensor(3)}
    write_checkpoint(shard, tensors, {"names": ["a"]})
    result = layout.results / "r.json"
    write_atomically(result, f"{sha256_bytes(b'1')}\n1".encode())
    with EmbeddingCache(layout.embeddings) as cache:
        cache.add("judge", ["a"], np.ones((1, 4)), [False])
    assert verify(store, layout) == []
    for path in (picture, shard, result):
        _flip(path)
    with sqlite3.connect(layout.embeddings) as careless:
        careless.execute("UPDATE embeddings SET features = zeroblob(8)")
    names = ["cached picture of the base model", "encoded pictures", "kept result", "kept embeddings"]
    assert [problem.what for problem in verify(store, layout)] == names


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
