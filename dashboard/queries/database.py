"""The record, opened once for all requests and sessions: opening it takes longer than asking it."""

from functools import lru_cache
from pathlib import Path

from naruto_core.settings import read_settings
from naruto_core.store.database import Ratings, open_ratings, open_served_scores, open_service_jobs, open_store
from naruto_core.store.served_scores import ServedScores
from naruto_core.store.service_jobs import ServiceJobs
from naruto_core.store.writes import Store


def the_store() -> Store:
    """Runs, pictures and scores."""
    url = read_settings().database_url
    return _store(url, _file(url))


def the_ratings() -> Ratings:
    """Reviewers, campaigns and votes."""
    url = read_settings().database_url
    return _ratings(url, _file(url))


def the_jobs() -> ServiceJobs:
    """What the HTTP service was asked for."""
    url = read_settings().database_url
    return _jobs(url, _file(url))


def the_served_scores() -> ServedScores:
    """How good served pictures were."""
    url = read_settings().database_url
    return _served_scores(url, _file(url))


def _file(url: str) -> int:
    """Which file it is now: one that was moved away or put back from a copy has to be opened anew."""
    path = Path(url.removeprefix("sqlite:///"))
    return path.stat().st_ino if url.startswith("sqlite:///") and path.exists() else 0


@lru_cache(maxsize=4)
def _store(url: str, file: int) -> Store:
    del file
    return open_store(url)


@lru_cache(maxsize=4)
def _ratings(url: str, file: int) -> Ratings:
    del file
    return open_ratings(url)


@lru_cache(maxsize=4)
def _jobs(url: str, file: int) -> ServiceJobs:
    del file
    return open_service_jobs(url)


@lru_cache(maxsize=4)
def _served_scores(url: str, file: int) -> ServedScores:
    del file
    return open_served_scores(url)
