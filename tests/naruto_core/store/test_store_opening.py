"""Opening creates a database or migrates an old one; errors are one sentence."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from naruto_core.errors import RecordDamaged, StorageFailed
from naruto_core.ratings import Role
from naruto_core.settings import Settings
from naruto_core.store.connection import make_engine, migrate, parse_url, sqlite_file
from naruto_core.store.database import open_database, open_store
from naruto_core.store.rating_schema import Base
from naruto_core.store.writes import Store

ROWS_OF_THE_FIRST_SCHEMA = """
INSERT INTO datasets VALUES ('d1', 'toons', 'datasets/toons', 0, 9, 0, 0, 0);
INSERT INTO runs (id, profile, fingerprint, dataset_id, state, started_at, failure, recipe_json, git_commit)
  VALUES ('2026-11-01-t4-0a0a', 't4', 'f1', 'd1', 'running', '2026-11-01 08:00:00.000000', '', '{}', 'c0ffee');
INSERT INTO adapters VALUES ('2026-11-01-t4-0a0a', 'runs/a.safetensors', '00', 4, 500);
INSERT INTO samples VALUES ('s1', '2026-11-01-t4-0a0a', 'base', 'kage', 7, 'runs/s1.png', '00');
INSERT INTO scores
  (run_id, metric, variant, value, low, high, n, extractor, version, reference, method, subject, sample_id)
  VALUES ('2026-11-01-t4-0a0a', 'clip', 'base', 0.3, 0.3, 0.3, 1, 'judge', '1', '', '', 's1', 's1');
"""


def test_migrations_and_models_agree(store: Store, url: str) -> None:
    engine = make_engine(parse_url(url))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_a_database_made_by_the_first_migration_is_brought_up_to_date(url: str, tmp_path: Path) -> None:
    migrate(parse_url(url), "0001")
    with sqlite3.connect(tmp_path / "naruto.db") as old:
        old.executescript(ROWS_OF_THE_FIRST_SCHEMA)
    with open_store(url) as store:
        (summary,) = store.runs()
        assert summary.run.started_at == datetime(2026, 11, 1, 8, tzinfo=UTC)
        assert [sample.id for sample in store.samples(summary.run.id)] == ["s1"]
        (adapter,) = store.adapters(summary.run.id)
        assert (adapter.path, adapter.style, adapter.steps) == ("runs/a.safetensors", "", 500)
        assert [score.sample_id for score in store.scores(summary.run.id)] == ["s1"]


def test_a_lead_of_an_older_version_is_an_admin(url: str, tmp_path: Path) -> None:
    migrate(parse_url(url), "0008")
    with sqlite3.connect(tmp_path / "naruto.db") as old:
        old.execute("INSERT INTO reviewers VALUES ('r1', 'Lea', 'lead', NULL, '00')")
        old.execute("INSERT INTO reviewers VALUES ('r2', 'Max', 'reviewer', NULL, '01')")
    with open_database(url) as database:
        assert [person.role for person in database.ratings.reviewers()] == [Role.ADMIN, Role.REVIEWER]


def test_distances_of_an_older_version_are_named_after_their_extractor(url: str, tmp_path: Path) -> None:
    migrate(parse_url(url), "0001")
    with sqlite3.connect(tmp_path / "naruto.db") as old:
        old.executescript(ROWS_OF_THE_FIRST_SCHEMA)
    migrate(parse_url(url), "0010")
    judge, dino, inception = "open_clip:0123456789abcdef-aa", "timm:fedcba9876543210-bb", "inception:99-torchmetrics"
    recipe = {"scoring": {"set_extractor": "package:naruto_core.mini/weights/judge", "more_set_extractors": ["a", "b"]}}
    former = [("fid", judge, "torchmetrics 1.9"), ("kid", judge, "1"), ("fd", judge, "1"), ("fd", dino, "1")]
    former += [("fid", inception, "torchmetrics 1.9"), ("mmd", judge, "1")]
    with sqlite3.connect(tmp_path / "naruto.db") as old:
        old.execute("UPDATE runs SET recipe_json = ?", [json.dumps(recipe)])
        (run,) = old.execute("SELECT id FROM runs").fetchone()
        old.executemany(
            "INSERT INTO scores (run_id, metric, variant, value, low, high, n, extractor, version, reference, method, "
            "details, subject) VALUES (?, ?, 'base', 9, 8, 10, 40, ?, ?, 'd', 'jackknife', '{}', '')",
            [(run, *row) for row in former],
        )
    with open_store(url) as store:
        names = {(s.metric, s.extractor, s.version) for s in store.scores(run) if s.sample_id is None}
    assert names == {
        ("fd-judge", judge, "Frechet 1"),
        ("kd-judge", judge, "1"),
        ("fd-timm-fedcba98", dino, "1"),
        ("fid", inception, "torchmetrics 1.9"),
        ("mmd", judge, "1"),
    }


def test_the_repositories_of_a_database_share_its_connections(url: str) -> None:
    with open_database(url) as database:
        engines = {
            repository._engine
            for repository in (database.runs, database.ratings, database.service_jobs, database.served_scores)
        }
    assert len(engines) == 1


def test_programs_that_create_the_database_at_the_same_moment_all_open_it(tmp_path: Path) -> None:
    start = Barrier(8)

    def open_and_close(url: str) -> None:
        start.wait()
        open_store(url).close()

    with ThreadPoolExecutor(8) as programs:
        for n in range(10):
            list(programs.map(open_and_close, [f"sqlite:///{tmp_path}/{n}.db"] * 8))


def test_a_database_of_a_newer_version_is_left_alone(store: Store, url: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "naruto.db") as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(RecordDamaged, match=r"schema 9999.*newer version"):
        open_store(url)


def test_sqlite_waits_for_other_writers_and_keeps_its_references(store: Store) -> None:
    with store._reading() as session:
        pragmas = {
            name: session.connection().exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match="a file is where a folder is needed"):
        open_store(f"sqlite:///{tmp_path / 'file' / 'below' / 'naruto.db'}")


def test_a_folder_in_the_place_of_the_database_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="may not write there"):
        open_store(f"sqlite:///{tmp_path}")


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    letter = tmp_path / "naruto.db"
    letter.write_text("Dear diary, " * 200)
    with pytest.raises(StorageFailed, match="not a SQLite database"):
        open_store(f"sqlite:///{letter}")
    assert letter.read_text().startswith("Dear diary")


def test_a_file_without_a_write_ahead_log_is_one_sentence(tmp_path: Path) -> None:
    """SQLite then keeps the old journal and says nothing."""
    with pytest.raises(StorageFailed, match="can have no journal of mode wal"):
        open_store(f"sqlite:///file:{tmp_path}/naruto.db?vfs=unix-dotfile&uri=true")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a?b", "a%3Fb", "a%b", "a#b", "?"])
def test_the_database_is_in_its_home_whatever_the_homes_name(name: str, tmp_path: Path, new_database: Path) -> None:
    home = tmp_path / name
    home.mkdir()
    (home / "naruto.db").write_bytes(new_database.read_bytes())
    open_store(Settings(home=home).database_url).close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sqlite_file(Settings(home=home).database_url) == home / "naruto.db"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("naruto.db", "not a database URL"),
        ("oracle9000://secret@host/x", "no database of the kind 'oracle9000'"),
        ("mysql+oursql9://me:secret@host/x", "no database of the kind"),
    ],
)
def test_a_url_that_means_nothing_is_one_sentence_without_its_password(wrong: str, sentence: str) -> None:
    with pytest.raises(StorageFailed, match=sentence) as caught:
        open_store(wrong)
    assert "secret" not in str(caught.value)
