"""Open the database: runs, sweeps, ratings, service jobs and scores of served pictures, with one connection pool."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from naruto_core.artifacts import storage_errors
from naruto_core.store.assignments import Assignments
from naruto_core.store.campaigns import Campaigns
from naruto_core.store.connection import make_engine, migrate, parse_url
from naruto_core.store.deletion import Deletion
from naruto_core.store.promotions import Promotions
from naruto_core.store.review_control import ReviewControl
from naruto_core.store.reviewers import Reviewers
from naruto_core.store.served_scores import ServedScores
from naruto_core.store.service_jobs import ServiceJobs
from naruto_core.store.sweeps import Sweeps
from naruto_core.store.unit_counts import UnitCounts
from naruto_core.store.writes import Store


class Ratings(Reviewers, Campaigns, Assignments, UnitCounts, ReviewControl, Promotions):
    """Reviewers, campaigns, assignments with their votes, notes and counts, exclusions, and promotions."""


@dataclass(frozen=True, slots=True)
class Database:
    """An open database: repositories that share one connection pool. Close it, or use it in a `with`."""

    runs: Store
    ratings: Ratings
    service_jobs: ServiceJobs
    served_scores: ServedScores
    deletion: Deletion
    sweeps: Sweeps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection pool that they share."""
        self.runs.close()


def open_database(url: str) -> Database:
    """Open the database at an SQLAlchemy `url`; it is created, or migrated to the newest schema, first.

    Raises StorageFailed when the place cannot be written or holds something else, RecordDamaged when a newer version
    of this program has migrated it.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not parsed.database.startswith("file:"):
        folder = Path(parsed.database).parent
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    migrate(parsed)
    engine = make_engine(parsed)
    return Database(
        runs=Store(engine),
        ratings=Ratings(engine),
        service_jobs=ServiceJobs(engine),
        served_scores=ServedScores(engine),
        deletion=Deletion(engine),
        sweeps=Sweeps(engine),
    )


def open_store(url: str) -> Store:
    """`open_database(url).runs`, for programs that need runs only. Close it, or use it in a `with`."""
    return open_database(url).runs
