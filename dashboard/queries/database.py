"""The database, opened once for all requests and sessions: opening it takes longer than a query."""

from functools import lru_cache
from pathlib import Path

from naruto_core.settings import read_settings
from naruto_core.store.database import Database, open_database


def database() -> Database:
    """The open database of the settings; opened again when its file was replaced, or restored from a backup."""
    url = read_settings().database_url
    return _open(url, _inode(url))


def _inode(url: str) -> int:
    path = Path(url.removeprefix("sqlite:///"))
    return path.stat().st_ino if url.startswith("sqlite:///") and path.exists() else 0


@lru_cache(maxsize=4)
def _open(url: str, inode: int) -> Database:
    del inode
    return open_database(url)
