"""The database, opened once for all requests and sessions: opening it takes longer than a query."""

from functools import lru_cache
from threading import Lock

from naruto_core.settings import read_settings
from naruto_core.store.connection import sqlite_file
from naruto_core.store.database import Database, open_database

_opening = Lock()


def database() -> Database:
    """The open database of the settings; opened again when its file was replaced, or restored from a backup."""
    url = read_settings().database_url
    with _opening:  # once, although many requests may come first: threads take turns to write by the engine's lock
        return _open(url, _inode(url))


def _inode(url: str) -> int:
    path = sqlite_file(url)
    return path.stat().st_ino if path and path.exists() else 0


@lru_cache(maxsize=4)
def _open(url: str, inode: int) -> Database:
    del inode
    return open_database(url)
