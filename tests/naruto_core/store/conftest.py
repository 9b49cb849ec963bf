"""A store on a real file, with one run to hang things on."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from recorded import open_run

from naruto_core.domain import DatasetVersion, Run
from naruto_core.store.database import Ratings, open_database, open_store
from naruto_core.store.writes import Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'naruto.db'}"


@pytest.fixture
def store(url: str, new_database: Path) -> Iterator[Store]:
    _copy_database(new_database, url)
    with open_store(url) as store:
        yield store


@pytest.fixture
def dataset(store: Store) -> DatasetVersion:
    version = DatasetVersion("d" * 64, "world:ninja", "datasets/world", 3, 80, 20, 2, 1)
    store.add_dataset(version, [])
    return version


@pytest.fixture
def run(store: Store, dataset: DatasetVersion) -> Run:
    return open_run(store, dataset.id)


@pytest.fixture
def ratings(url: str, new_database: Path) -> Iterator[Ratings]:
    _copy_database(new_database, url)
    with open_database(url) as database:
        yield database.ratings


def _copy_database(new_database: Path, url: str) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    if not path.exists():
        shutil.copyfile(new_database, path)
