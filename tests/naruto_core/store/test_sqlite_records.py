"""What is recorded of a run is the same by SQLAlchemy and by sqlite3, which reads plain SQLite files only."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from recorded import NOON, open_run, sample, score

from naruto_core.domain import DatasetVersion, Finding, Prompt, PromptSuite, Run, Variant
from naruto_core.errors import NotRecorded, RecordDamaged, StorageFailed
from naruto_core.store import database, sqlite_records
from naruto_core.store.database import open_store
from naruto_core.store.run_queries import RunQueries
from naruto_core.store.sqlite_records import SqliteRecords, open_records
from naruto_core.store.writes import Store
from tests.postgres import serving_postgres

SUITE = PromptSuite(
    "two", "5" * 64, (Prompt("kage", "a 100 % ninja", "a ninja", ("portrait",)), Prompt("b", "b", "b", ())), (7, 2**40)
)
DATASET = DatasetVersion("d" * 64, "world:ninja", "datasets/world", 3, 80, 20, 2, 1)


def _record(store: Store) -> Run:
    store.add_dataset(DATASET, [])
    run = open_run(store, DATASET.id)
    store.add_prompts(run.id, SUITE)
    samples = [sample(run.id, number, variant) for variant in (Variant.BASE, Variant.ADAPTED) for number in (2, 1)]
    store.add_samples(samples)
    store.add_scores([score(run.id, 12.5), score(run.id, 0.25, sample_id=samples[0].id)])
    store.add_findings(run.id, [Finding(run.id, "blank", False, "none"), Finding(run.id, "x", True, "y", {"n": 0.5})])
    store.finish_run(run.id, NOON)
    return run


def _all_of(records: RunQueries, run: Run) -> list[object]:
    return [
        records.run(run.id), records.run(run.id[:-1]), records.recipe_json(run.id), records.git_commit(run.id),
        records.find_dataset(run.dataset_id), records.find_dataset("none"), records.prompts(run.id),
        records.samples(run.id), records.samples(run.id, Variant.BASE), records.scores(run.id),
        records.scores(run.id, of_samples=False), records.findings(run.id), records.has_voted_pairs(),
    ]  # fmt: skip


@pytest.fixture
def plain(store: Store, url: str) -> Iterator[tuple[RunQueries, Run]]:
    run = _record(store)
    with open_records(url) as records:
        yield records, run


def test_sqlite3_reads_of_a_run_what_was_recorded(plain: tuple[RunQueries, Run], store: Store) -> None:
    records, run = plain
    assert isinstance(records, SqliteRecords)
    assert _all_of(records, run) == _all_of(store, run)
    assert records.prompts(run.id) == SUITE
    assert records.find_dataset(run.dataset_id) == DATASET
    assert [finding.name for finding in records.findings(run.id)] == ["x", "blank"]
    assert records.run(run.id).finished_at == NOON
    assert [len(records.samples(run.id, variant)) for variant in (None, Variant.BASE, Variant.FUSED)] == [4, 2, 0]


@pytest.mark.parametrize("part", ["", "%", "nobody", "2026_"])
def test_both_say_the_same_of_a_run_that_is_not_there(plain: tuple[RunQueries, Run], store: Store, part: str) -> None:
    said = list[str]()
    for records in (plain[0], store):
        with pytest.raises(NotRecorded) as refused:
            records.run(part)
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert "the nearest is" in said[0]


def test_postgresql_reads_of_a_run_what_sqlite3_does(plain: tuple[RunQueries, Run]) -> None:
    records, run = plain
    with serving_postgres() as url, open_store(url) as server:
        assert _record(server) == run
        with open_records(url) as opened:
            assert isinstance(opened, Store)
            assert _all_of(opened, run) == _all_of(records, run)


def _remove(path: Path) -> None:
    path.unlink()


def _use_a_rollback_journal(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = delete")


def _age(path: Path) -> None:
    path.unlink()
    path.touch()


@pytest.mark.parametrize("change", [_remove, _use_a_rollback_journal, _age])
def test_a_file_that_must_be_made_or_changed_is_opened_by_sqlalchemy(
    new_database: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "home" / "naruto.db"
    path.parent.mkdir()
    path.write_bytes(new_database.read_bytes())
    change(path)
    for kind in (Store, SqliteRecords):  # then it is a plain file
        with open_records(f"sqlite:///{path}") as records:
            assert isinstance(records, kind)
            assert not records.has_voted_pairs()


def test_faults_of_the_file_are_told_as_by_sqlalchemy(plain: tuple[RunQueries, Run], url: str, tmp_path: Path) -> None:
    path = tmp_path / "naruto.db"
    with sqlite3.connect(path) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(RecordDamaged, match=r"schema 9999.*newer version"), open_records(url):
        pass
    other = tmp_path / "text.db"
    other.write_text("no database " * 1000)
    with pytest.raises(StorageFailed, match="is not a SQLite database"), open_records(f"sqlite:///{other}"):
        pass


def test_a_file_that_stays_locked_is_waited_for_once(
    new_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "naruto.db"
    path.write_bytes(new_database.read_bytes())
    monkeypatch.setattr(sqlite_records, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(database, "open_store", None)  # nobody opens it a second time
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM runs")
        with (
            pytest.raises(StorageFailed, match="another process has been writing to it for too long"),
            open_records(f"sqlite:///{path}"),
        ):
            pass


def test_a_page_that_is_damaged_is_said_in_a_sentence(new_database: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    data = bytearray(new_database.read_bytes())
    with sqlite3.connect(new_database) as connection:
        pages = connection.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'runs'").fetchall()
    size = int.from_bytes(data[16:18])
    for (page,) in pages:  # of the table and of its indexes
        data[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(data)
    with open_records(f"sqlite:///{path}") as records, pytest.raises(RecordDamaged, match=r"the file is damaged"):
        records.run("x")
