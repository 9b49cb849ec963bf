"""The database of this machine, opened: runs, ratings, jobs of the service and scores of served pictures."""

from pathlib import Path

from sqlalchemy import Engine

from naruto_core.artifacts import storage_errors
from naruto_core.store.assignments import Assignments
from naruto_core.store.campaigns import Campaigns
from naruto_core.store.connection import make_engine, migrate, parse
from naruto_core.store.promotions import Promotions
from naruto_core.store.reviewers import Reviewers
from naruto_core.store.served_scores import ServedScores
from naruto_core.store.service_jobs import ServiceJobs
from naruto_core.store.writes import Store


class Ratings(Reviewers, Campaigns, Assignments, Promotions):
    """Reviewers, campaigns, who was asked what and what they said, and what was promoted on the strength of it."""


def open_store(url: str) -> Store:
    """The store at an SQLAlchemy `url`, made or brought up to date first; close it, or use it in a `with`.

    Raises StorageFailed when the place cannot be written or holds something else, RecordDamaged
    when a newer version of this program made it.
    """
    return Store(_prepared(url))


def open_ratings(url: str) -> Ratings:
    """The record of human judgement in the same database, under the same conditions."""
    return Ratings(_prepared(url))


def _prepared(url: str) -> Engine:
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        folder = Path(parsed.database).parent
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    migrate(parsed)
    return make_engine(parsed)


def open_service_jobs(url: str) -> ServiceJobs:
    """What the HTTP service was asked for, in the same database, under the same conditions."""
    return ServiceJobs(_prepared(url))


def open_served_scores(url: str) -> ServedScores:
    """How good served pictures were, in the same database, under the same conditions."""
    return ServedScores(_prepared(url))
