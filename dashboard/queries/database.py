"""The database, opened once for all requests and sessions: opening it takes longer than a query."""

from functools import lru_cache
from threading import Lock

from naruto_core.settings import Settings, read_settings
from naruto_core.store.connection import sqlite_file
from naruto_core.store.database import Database, open_database

_opening = Lock()


def database() -> Database:
    """The open database of the settings; opened again when its file was replaced, or restored from a backup."""
    return database_of(read_settings())


def database_of(settings: Settings) -> Database:
    """`database`, where the settings were read already."""
    url = settings.database_url
    with _opening:  # once, although many requests may come first: threads take turns to write by the engine's lock
        return _open(url, _inode(url))


def _inode(url: str) -> int:
    path = _file(url)
    try:
        return path.stat().st_ino if path else 0
    except (FileNotFoundError, NotADirectoryError):
        return 0


_file = lru_cache(maxsize=4)(sqlite_file)  # to parse the URL takes ten times as long as to look at the file


@lru_cache(maxsize=4)
def _open(url: str, inode: int) -> Database:
    del inode
    return open_database(url)
