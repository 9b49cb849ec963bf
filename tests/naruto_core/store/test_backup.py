"""A home is copied while it is written to, and a machine that begins with the copy goes on from it."""

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from naruto_core.artifacts import Layout, write_atomically
from naruto_core.errors import NarutoError, NotRecorded, RecordDamaged, StorageFailed
from naruto_core.settings import Settings
from naruto_core.store.backup import back_up, restore
from naruto_core.store.database import open_store
from naruto_core.store.embedding_cache import EmbeddingCache


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home with a database, a picture and a checkpoint."""
    made = Settings(home=tmp_path / "home")
    with open_store(made.database_url), EmbeddingCache(Layout(made.root).embeddings):
        write_atomically(made.root / "pictures" / "ab" / "picture.png", b"picture")
        write_atomically(made.root / "runs" / "r" / "checkpoint.safetensors", b"step 1")
    (made.root / "locks" / "cpu.lock").parent.mkdir(exist_ok=True)
    (made.root / "locks" / "cpu.lock").touch()
    (made.root / "runs" / "r" / ".scratch.png").touch()
    return made


def _files(home: Path) -> dict[str, bytes]:
    """What belongs into a copy of `home`, without the databases."""
    paths = [path for path in home.rglob("*") if path.is_file() and ".db" not in path.name]
    return {
        path.relative_to(home).as_posix(): path.read_bytes()
        for path in paths
        if path.parent.name != "locks" and not path.name.startswith(".")
    }


def test_a_restored_backup_has_every_file_and_an_intact_database(settings: Settings, tmp_path: Path):
    assert back_up(settings, tmp_path / "drive").files == 4
    other = Settings(home=tmp_path / "other machine")
    assert restore(tmp_path / "drive", other).files == 4
    assert _files(other.root) == _files(settings.root)
    assert not (other.root / "runs" / "r" / ".scratch.png").exists()
    with open_store(other.database_url) as store:
        assert store.runs() == []


def test_a_second_backup_copies_the_databases_and_what_changed_alone(settings: Settings, tmp_path: Path):
    back_up(settings, tmp_path / "drive")
    assert back_up(settings, tmp_path / "drive").files == 2
    write_atomically(settings.root / "runs" / "r" / "checkpoint.safetensors", b"step 2")  # equally long
    assert back_up(settings, tmp_path / "drive").files == 3
    assert (tmp_path / "drive" / "runs" / "r" / "checkpoint.safetensors").read_bytes() == b"step 2"


def test_a_disk_that_keeps_whole_seconds_is_not_written_again(settings: Settings, tmp_path: Path):
    back_up(settings, tmp_path / "drive")
    for path in (tmp_path / "drive").rglob("*"):
        os.utime(path, (int(path.stat().st_mtime), int(path.stat().st_mtime)))
    assert back_up(settings, tmp_path / "drive").files == 2


def test_a_database_that_is_written_to_all_the_time_is_copied_in_one_state(settings: Settings, tmp_path: Path):
    stop = threading.Event()

    def write() -> None:
        """Two rows at a time: a copy with an odd number is torn."""
        with sqlite3.connect(settings.root / "naruto.db", timeout=30) as database:
            while not stop.is_set():
                database.executemany("insert into pairs values (?)", [(1,), (1,)])
                database.commit()

    with sqlite3.connect(settings.root / "naruto.db") as database:
        database.execute("create table pairs (x)")
    writer = threading.Thread(target=write)
    writer.start()
    try:
        counts = []
        for _ in range(5):
            back_up(settings, tmp_path / "drive")
            with sqlite3.connect(tmp_path / "drive" / "naruto.db") as copy:
                counts.append(copy.execute("select count(*) from pairs").fetchone()[0])
    finally:
        stop.set()
        writer.join()
    assert [count % 2 for count in counts] == [0] * 5
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_what_cannot_be_copied_is_refused_in_one_sentence(settings: Settings, tmp_path: Path):
    def refused(kind: type[NarutoError], text: str, source: Settings, folder: Path) -> None:
        with pytest.raises(kind, match=text):
            back_up(source, folder)

    refused(NotRecorded, "nothing to back up", Settings(home=tmp_path / "empty"), tmp_path / "drive")
    refused(StorageFailed, "lies inside", settings, settings.root / "backup")
    refused(StorageFailed, "NARUTO_DATABASE", Settings(home=settings.root, database="postgresql://x"), tmp_path / "d")
    with pytest.raises(NotRecorded, match="holds no backup"):
        restore(tmp_path / "empty", settings)
    back_up(settings, tmp_path / "drive")
    with pytest.raises(StorageFailed, match="has a database already"):
        restore(tmp_path / "drive", settings)
    database = tmp_path / "drive" / "naruto.db"
    database.write_bytes(database.read_bytes()[:5000])
    with pytest.raises(RecordDamaged, match=r"naruto\.db"):
        restore(tmp_path / "drive", Settings(home=tmp_path / "new"))
    assert not (tmp_path / "new" / "naruto.db").exists()


def test_a_home_inside_the_folder_of_its_backup_is_refused_and_nothing_is_copied(settings: Settings, tmp_path: Path):
    back_up(settings, tmp_path / "drive")
    inside = Settings(home=tmp_path / "drive" / "var")
    with pytest.raises(StorageFailed, match="lies inside"):
        restore(tmp_path / "drive", inside)
    assert not inside.root.exists()
    with pytest.raises(StorageFailed, match="lies inside"):
        back_up(settings, settings.root.parent)
    assert not (tmp_path / "naruto.db").exists()
