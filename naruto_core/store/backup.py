"""Backup of a NARUTO_HOME into another folder, while runs go on there; and its restore.

For machines whose disk is deleted, as Colab's: a mounted Drive has no file locks, so a database cannot be used there,
but it can hold a copy. SQLite's own backup copies a database while it is written to; files are copied when their size
or time differs. Databases are copied first, so every file that they name is in the copy.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from naruto_core.artifacts import Layout, atomic_file, exclusive_lock
from naruto_core.errors import NotRecorded, RecordDamaged, StorageFailed
from naruto_core.settings import Settings
from naruto_core.store.read_only_home import DATABASE_FILE, has_database

_LEFT_OUT = {"locks", "watched"}  # folders: locks of this machine, and pictures that wait to be measured
_SECONDS = 2  # to which FAT rounds times


@dataclass(frozen=True, slots=True)
class CopiedFiles:
    """What a backup or a restore copied: how many files and bytes; files that were there already are not counted."""

    files: int
    size: int

    @property
    def summary(self) -> str:
        """E.g. "12 files, 3.4 MB"."""
        return f"{self.files} file{'' if self.files == 1 else 's'}, {self.size / 1e6:.1f} MB"


def back_up(settings: Settings, folder: Path) -> CopiedFiles:
    """Copy the databases and all new or changed files of NARUTO_HOME into `folder`. Nothing is deleted there.

    Raises NotRecorded when there is no database yet, StorageFailed when it is on a server, or when `folder` cannot be
    written, lies in NARUTO_HOME or contains it.
    """
    home = _home(settings)
    if not has_database(home):
        raise NotRecorded(f"there is nothing to back up: {home} has no {DATABASE_FILE}.")
    if folder.resolve().is_relative_to(home.resolve()):
        raise StorageFailed(f"{folder} lies inside {home}: back up to a folder outside it.")
    _check_outside(home, folder)
    with exclusive_lock(home / "locks" / "backup.lock"):
        copied = [_copy_database(home / name, folder / name) for name in _databases(home)]
        return _total([*copied, *_copy_files(home, folder)])


def restore(folder: Path, settings: Settings) -> CopiedFiles:
    """Copy a backup into NARUTO_HOME, which must have no database yet. A restore that was stopped can be repeated.

    Raises NotRecorded when `folder` holds no backup, RecordDamaged when a database in it is damaged, StorageFailed
    when NARUTO_HOME has a database, cannot be written, or lies in `folder`.
    """
    home = _home(settings)
    if not has_database(folder):
        raise NotRecorded(f"{folder} holds no backup: it has no {DATABASE_FILE}.")
    _check_outside(home, folder)
    with exclusive_lock(home / "locks" / "backup.lock"):
        if has_database(home):
            raise StorageFailed(f"{home} has a database already: set NARUTO_HOME to an empty folder.")
        copied = _copy_files(folder, home)
        # the runs' database last: a home with it is complete
        databases = sorted(_databases(folder), key=lambda name: name == DATABASE_FILE)
        return _total([*copied, *(_copy_database(folder / name, home / name) for name in databases)])


def _home(settings: Settings) -> Path:
    """NARUTO_HOME, if its database lies there. Raises StorageFailed."""
    if settings.database:
        raise StorageFailed("NARUTO_DATABASE names a database of its own: back it up with its server's own tools.")
    return settings.root


def _check_outside(home: Path, folder: Path) -> None:
    """Raise StorageFailed when `home` lies in `folder`: what is copied from one to the other would be copied again."""
    if home.resolve().is_relative_to(folder.resolve()):
        raise StorageFailed(f"NARUTO_HOME ({home}) lies inside {folder}: use a folder that does not contain it.")


def _databases(home: Path) -> list[str]:
    """The names of the SQLite databases in `home` that exist."""
    layout = Layout(home)
    return [name for name in (DATABASE_FILE, layout.relative(layout.embeddings)) if (home / name).is_file()]


def _copy_database(source: Path, target: Path) -> int:
    """Copy a database, which another program may be writing to, and check the copy; its bytes."""
    with atomic_file(target) as scratch:
        try:
            reading = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)
            with closing(reading), closing(sqlite3.connect(scratch)) as copy:
                reading.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file: the write-ahead log is not copied
                (state,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            raise RecordDamaged(f"{source} cannot be copied: {error}.") from error
        if state != "ok":
            raise RecordDamaged(f"{source} is damaged ({state}): it was not copied.")
    return target.stat().st_size


def _copy_files(source: Path, target: Path) -> list[int]:
    """Copy the files below `source` that `target` has not, or has otherwise; the bytes of each."""
    copied: list[int] = []
    databases = _databases(source)
    for path in _files(source):
        name = path.relative_to(source).as_posix()
        if name not in databases and (size := _copy_file(path, target / name)) is not None:
            copied.append(size)
    return copied


def _files(home: Path) -> Iterator[Path]:
    """The files below `home` that belong into a copy: no scratch files, no locks, no logs of databases."""
    for folder, folders, names in os.walk(home):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _LEFT_OUT)
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith(("-wal", "-shm", "-journal")):
                yield Path(folder, name)


def _copy_file(source: Path, target: Path) -> int | None:
    """Copy one file with its time, unless `target` is equal or `source` is gone meanwhile; its bytes."""
    try:
        content = source.open("rb")
    except FileNotFoundError:  # a checkpoint of a training that ended, for example
        return None
    with content:
        status = os.fstat(content.fileno())
        if target.is_file() and _looks_equal(status, target.stat()):
            return None
        with atomic_file(target) as scratch:
            with scratch.open("wb") as copy:
                shutil.copyfileobj(content, copy)
            os.utime(scratch, ns=(status.st_atime_ns, status.st_mtime_ns))
    return status.st_size


def _looks_equal(source: os.stat_result, target: os.stat_result) -> bool:
    """Whether size and time are equal; where the target's disk keeps whole seconds only, within `_SECONDS`."""
    if source.st_size != target.st_size:
        return False
    if target.st_mtime_ns % 10**9 == 0:
        return abs(source.st_mtime - target.st_mtime) < _SECONDS
    return source.st_mtime_ns == target.st_mtime_ns


def _total(sizes: list[int]) -> CopiedFiles:
    return CopiedFiles(len(sizes), sum(sizes))
