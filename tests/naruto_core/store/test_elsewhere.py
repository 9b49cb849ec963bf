"""Another data root is looked at through a copy: as it is now, whoever made it, and without a trace there."""

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from naruto_core.artifacts import Layout
from naruto_core.errors import NotRecorded, StorageFailed
from naruto_core.store.connection import migrate, parse
from naruto_core.store.database import open_store
from naruto_core.store.embedding_cache import EmbeddingCache
from naruto_core.store.read_only_home import RECORD, read_only_layout


def _recorded(home: Path, revision: str = "head") -> Path:
    """A data root with an empty record of that version of the schema."""
    home.mkdir()
    migrate(parse(f"sqlite:///{home / RECORD}"), revision)
    return home


def _seen(home: Path) -> dict[str, tuple[int, bytes]]:
    paths = [home, *home.rglob("*")]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}


def test_a_record_of_an_older_version_is_read_and_stays_old(tmp_path: Path) -> None:
    old = _recorded(tmp_path / "old", "0003")
    before = _seen(old)
    with (
        read_only_layout(old, Layout(tmp_path / "ours")) as layout,
        open_store(f"sqlite:///{layout.root / RECORD}") as store,
    ):
        assert store.runs() == []
    assert _seen(old) == before
    assert list((tmp_path / "ours" / "cache").iterdir()) == []


def test_what_is_in_the_journal_still_is_seen(tmp_path: Path) -> None:
    home = _recorded(tmp_path / "home")
    writer = sqlite3.connect(home / RECORD)
    writer.execute("insert into datasets values ('ds-1', 'world', 'datasets/world', 0, 1, 2, 3, 4)")
    writer.commit()
    assert (home / f"{RECORD}-wal").stat().st_size > 0
    with (
        read_only_layout(home, Layout(tmp_path / "ours")) as layout,
        open_store(f"sqlite:///{layout.root / RECORD}") as store,
    ):
        assert [version.id for version in store.datasets()] == ["ds-1"]
    writer.close()


def test_a_record_that_changes_while_it_is_copied_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = _recorded(tmp_path / "busy")
    copyfile = shutil.copyfile

    def copy_while_somebody_writes(source: Path, target: Path) -> None:
        copyfile(source, target)
        os.utime(source)

    monkeypatch.setattr(shutil, "copyfile", copy_while_somebody_writes)
    with (
        pytest.raises(StorageFailed, match=r"busy/naruto.db is being written to: compare when that is done\."),
        read_only_layout(busy, Layout(tmp_path / "ours")),
    ):
        pass


def test_embeddings_are_ours_then_those_of_the_one_beside_then_its_own(tmp_path: Path) -> None:
    roots = [_recorded(tmp_path / name) for name in ("ours", "beside", "home")]
    for i, root in enumerate(roots):
        contents = ["a", "b", "c"][: i + 1]  # ours has a; the next one b too; the last one all
        with EmbeddingCache(Layout(root).embeddings) as kept:
            kept.add("judge", contents, np.full((len(contents), 2), i), [False] * len(contents))
    with (
        read_only_layout(roots[2], Layout(roots[0]), beside=roots[1]) as layout,
        EmbeddingCache(layout.embeddings) as joined,
    ):
        assert joined.read("judge", ["a", "b", "c"]).features[:, 0].tolist() == [0, 1, 2]
    with EmbeddingCache(Layout(roots[0]).embeddings) as ours:
        assert ours.missing("judge", ["a", "b", "c"]) == ["b", "c"]


def test_a_folder_without_a_record_is_not_taken_for_a_data_root(tmp_path: Path) -> None:
    with (
        pytest.raises(NotRecorded, match=r"there is no record in .*: it has no naruto\.db"),
        read_only_layout(tmp_path, Layout(tmp_path / "ours")),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
