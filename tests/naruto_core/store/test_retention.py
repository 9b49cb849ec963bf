"""What a service leaves is limited by age and number: the oldest goes, what is needed stays."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployments.service.image_files import ImageFiles
from naruto_core.artifacts import Layout, write_atomically
from naruto_core.serving import Drift, DriftVerdict, JobState, ServedScore, ServiceJob
from naruto_core.store import served_scores, service_jobs
from naruto_core.store.database import Database, open_database
from naruto_core.store.deletion import prune_cache

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.fixture
def database(url: str, new_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copyfile(new_database, tmp_path / "naruto.db")
    for module in (served_scores, service_jobs):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)  # several transactions
    with open_database(url) as opened:
        yield opened


def _job(hours: int, state: JobState = JobState.DONE) -> ServiceJob:
    return ServiceJob(f"job-{hours}", "here", "ada", "base", 1, 64, 64, 2, [1], NOW - timedelta(hours=hours), state)


def test_old_requests_go_and_open_ones_stay(database: Database) -> None:
    jobs = database.service_jobs
    for hours in range(10):
        jobs.put(_job(hours))
    jobs.put(_job(20, JobState.QUEUED))
    assert jobs.prune(NOW - timedelta(days=2), 100) == 0
    assert jobs.prune(NOW - timedelta(hours=5, minutes=30), 100) == 4
    assert jobs.prune(NOW - timedelta(days=2), 3) == 3
    assert [job.id for job in jobs.since(NOW - timedelta(days=9))] == ["job-0", "job-1", "job-2", "job-20"]


def test_old_scores_go_and_the_newest_drift_report_stays(database: Database) -> None:
    kept = database.served_scores
    scores = [
        ServedScore(f"p{hours}", "run", "q", NOW - timedelta(hours=hours), metric, 0.5, "e")
        for hours in range(6)
        for metric in ("clip", "style")
    ]
    kept.add_scores(scores)
    reports = [
        Drift("run", metric, NOW, NOW - timedelta(hours=hours), *[0.5] * 6, 4, 2, 4, "e", DriftVerdict.STEADY)
        for hours in (9, 8)
        for metric in ("clip", "style")
    ]
    kept.add_drifts(reports)
    assert kept.prune(NOW - timedelta(hours=3, minutes=30), 100) == 4
    assert sorted(d.said_at for d in kept.drifts()) == [NOW - timedelta(hours=8)] * 2
    assert kept.prune(NOW - timedelta(days=1), 4) == 4
    assert {score.picture for score in kept.scores(NOW - timedelta(days=1))} == {"p0", "p1"}


def test_the_oldest_pictures_go_when_there_are_too_many_bytes(tmp_path: Path) -> None:
    files = ImageFiles(tmp_path, 3600, most_bytes=250)
    names = [files.save(b"x" * 100, "jpeg") for _ in range(4)]
    for age, name in enumerate(names):
        os.utime(tmp_path / "pictures" / name, (NOW.timestamp() - age,) * 2)
    now = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert now == set(names)
    files = ImageFiles(tmp_path, 1e9, most_bytes=250)
    files.delete_expired()
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == set(names[:2])


def test_the_cache_loses_what_was_not_used_for_longest(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    files = [layout.picture_cache / "aa" / f"{n}.png" for n in range(3)] + [layout.results / "r.json"]
    shard = layout.cache("examples-1") / "shard.safetensors"
    for age, path in enumerate((*files, shard)):
        write_atomically(path, b"x" * 100)
        os.utime(path, (NOW.timestamp() - age,) * 2)
    assert prune_cache(layout, 1000) == 0
    assert prune_cache(layout, 250) == 2
    assert [path.exists() for path in (*files, shard)] == [True, True, False, False, True]
