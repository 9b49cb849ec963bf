"""Another NARUTO_HOME is read through a copy: any version, nothing is written there."""

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from naruto_core.artifacts import Layout
from naruto_core.errors import NotRecorded, StorageFailed
from naruto_core.store.connection import migrate, parse_url
from naruto_core.store.database import open_store
from naruto_core.store.embedding_cache import EmbeddingCache
from naruto_core.store.read_only_home import DATABASE_FILE, read_only_layout


def _recorded(home: Path, revision: str = "head") -> Path:
    """A NARUTO_HOME with an empty database of that revision."""
    home.mkdir()
    migrate(parse_url(f"sqlite:///{home / DATABASE_FILE}"), revision)
    return home


def _files(home: Path) -> dict[str, tuple[int, bytes]]:
    paths = [home, *home.rglob("*")]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}


def test_a_database_of_an_older_version_is_read_and_not_migrated(tmp_path: Path) -> None:
    old = _recorded(tmp_path / "old", "0003")
    before = _files(old)
    with (
        read_only_layout(old, Layout(tmp_path / "own")) as layout,
        open_store(f"sqlite:///{layout.root / DATABASE_FILE}") as store,
    ):
        assert store.runs() == []
    assert _files(old) == before
    assert list((tmp_path / "own" / "cache").iterdir()) == []


def test_rows_in_the_write_ahead_log_are_read(tmp_path: Path) -> None:
    home = _recorded(tmp_path / "home")
    writer = sqlite3.connect(home / DATABASE_FILE)
    writer.execute("insert into datasets values ('ds-1', 'world', 'datasets/world', 0, 1, 2, 3, 4)")
    writer.commit()
    assert (home / f"{DATABASE_FILE}-wal").stat().st_size > 0
    with (
        read_only_layout(home, Layout(tmp_path / "own")) as layout,
        open_store(f"sqlite:///{layout.root / DATABASE_FILE}") as store,
    ):
        assert [version.id for version in store.datasets()] == ["ds-1"]
    writer.close()


def test_a_database_that_changes_while_it_is_copied_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = _recorded(tmp_path / "busy")
    copyfile = shutil.copyfile

    def copy_while_somebody_writes(source: Path, target: Path) -> None:
        copyfile(source, target)
        os.utime(source)

    monkeypatch.setattr(shutil, "copyfile", copy_while_somebody_writes)
    with (
        pytest.raises(StorageFailed, match=r"busy/naruto.db is being written to: try again"),
        read_only_layout(busy, Layout(tmp_path / "own")),
    ):
        pass


def test_own_embeddings_come_first_then_those_of_the_compared_home_then_its_own(tmp_path: Path) -> None:
    roots = [_recorded(tmp_path / name) for name in ("own", "beside", "home")]
    for i, root in enumerate(roots):
        contents = ["a", "b", "c"][: i + 1]  # own has a; the next one b too; the last one all
        with EmbeddingCache(Layout(root).embeddings) as cache:
            cache.add("judge", contents, np.full((len(contents), 2), i), [False] * len(contents))
    with (
        read_only_layout(roots[2], Layout(roots[0]), compared_with=roots[1]) as layout,
        EmbeddingCache(layout.embeddings) as merged,
    ):
        assert merged.read("judge", ["a", "b", "c"]).features[:, 0].tolist() == [0, 1, 2]
    with EmbeddingCache(Layout(roots[0]).embeddings) as own:
        assert own.missing("judge", ["a", "b", "c"]) == ["b", "c"]


def test_a_folder_without_a_database_is_not_a_home(tmp_path: Path) -> None:
    with (
        pytest.raises(NotRecorded, match=r"is not a NARUTO_HOME: it has no naruto\.db"),
        read_only_layout(tmp_path, Layout(tmp_path / "own")),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
