"""Latency, throughput and quality of the HTTP service over time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import groupby
from operator import itemgetter

import numpy as np

from naruto_core.intervals import Estimate, exact_share, mean_estimate
from naruto_core.scoring.drift import LEAST_PROMPTS
from naruto_core.serving import JobState, JobTimes, ServedScore


class Period(StrEnum):
    """The period that the page shows."""

    HOUR = "hour"
    DAY = "24 hours"
    WEEK = "7 days"
    MONTH = "30 days"


_LENGTH = {
    Period.HOUR: timedelta(hours=1),
    Period.DAY: timedelta(days=1),
    Period.WEEK: timedelta(days=7),
    Period.MONTH: timedelta(days=30),
}
_STEP = {
    Period.HOUR: timedelta(minutes=5),
    Period.DAY: timedelta(hours=1),
    Period.WEEK: timedelta(hours=6),
    Period.MONTH: timedelta(days=1),
}


@dataclass(frozen=True, slots=True)
class TimeBucket:
    """The requests of a step of time: pictures drawn, pictures failed or lost, quantiles of the latency in seconds."""

    at: datetime
    pictures: int
    lost: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """The requests of a period: number by state, pictures drawn, quantiles in seconds (None without done requests).

    `p50`, `p95` and `p99` are of the latency from request to end, `queue_p50` is of the time from request to start.
    `per_minute` is the mean number of pictures drawn in a minute from the first request to the last end; `errors` is
    the share of ended requests that failed or were lost, with its 95 % interval (None without ended requests).
    """

    requests: dict[JobState, int]
    pictures: int
    p50: float | None
    p95: float | None
    p99: float | None
    queue_p50: float | None
    per_minute: float | None
    errors: Estimate | None
    buckets: list[TimeBucket]


@dataclass(frozen=True, slots=True)
class QualityBucket:
    """The mean of a metric over the pictures of a run in a step of time, and a 95 % interval where prompts suffice."""

    run_id: str
    metric: str
    extractor: str
    at: datetime
    value: float
    low: float | None
    high: float | None
    n: int


def period_start(period: Period, now: datetime) -> datetime:
    """When a period that ends `now` began."""
    return now - _LENGTH[period]


def service_load(jobs: Sequence[JobTimes], period: Period) -> ServiceLoad:
    """Count the jobs of a period, in any order, in steps of time."""
    states: dict[JobState, int] = {}
    for job in jobs:
        states[job.state] = states.get(job.state, 0) + 1
    done = [job for job in jobs if job.state is JobState.DONE]
    waits = [(job.started_at - job.asked_at).total_seconds() for job in done if job.started_at]
    step = _STEP[period]
    by_step = groupby(sorted(jobs, key=lambda job: job.asked_at), lambda job: _floor(job.asked_at, step))
    return ServiceLoad(
        requests=states,
        pictures=sum(job.n for job in done),
        p50=_quantile(_latencies(done), 0.5),
        p95=_quantile(_latencies(done), 0.95),
        p99=_quantile(_latencies(done), 0.99),
        queue_p50=_quantile(waits, 0.5),
        per_minute=_per_minute(done),
        errors=_errors(states),
        buckets=[_time_bucket(at, list(group)) for at, group in by_step],
    )


def quality(scores: Iterable[ServedScore], period: Period) -> list[QualityBucket]:
    """Average `scores`, in any order, for each run, metric, extractor and step of time."""
    step = _STEP[period]

    def key(score: ServedScore) -> tuple[str, str, str, datetime]:
        return score.run_id, score.metric, score.extractor, _floor(score.drawn_at, step)

    keyed = sorted(((key(score), score) for score in scores), key=itemgetter(0))
    return [_quality_bucket(at, [score for _, score in group]) for (*_, at), group in groupby(keyed, key=itemgetter(0))]


def _time_bucket(at: datetime, jobs: Sequence[JobTimes]) -> TimeBucket:
    done = [job for job in jobs if job.state is JobState.DONE]
    lost = sum(job.n for job in jobs if job.state in (JobState.FAILED, JobState.LOST))
    return TimeBucket(at, sum(job.n for job in done), lost, *(_quantile(_latencies(done), q) for q in (0.5, 0.95)))


def _quality_bucket(at: datetime, scores: Sequence[ServedScore]) -> QualityBucket:
    first, prompts = scores[0], [score.asked for score in scores]
    mean = mean_estimate([score.value for score in scores], prompts)
    enough = len(set(prompts)) >= LEAST_PROMPTS
    low, high = (mean.low, mean.high) if enough else (None, None)
    return QualityBucket(first.run_id, first.metric, first.extractor, at, mean.value, low, high, len(scores))


def _per_minute(done: Sequence[JobTimes]) -> float | None:
    ends = [job.finished_at for job in done if job.finished_at]
    if not ends:
        return None
    seconds = (max(ends) - min(job.asked_at for job in done)).total_seconds()
    return 60 * sum(job.n for job in done) / seconds if seconds else None


def _errors(states: Mapping[JobState, int]) -> Estimate | None:
    failed = states.get(JobState.FAILED, 0) + states.get(JobState.LOST, 0)
    ended = failed + states.get(JobState.DONE, 0)
    return exact_share(failed / ended, ended) if ended else None


def _latencies(jobs: Iterable[JobTimes]) -> list[float]:
    return [(job.finished_at - job.asked_at).total_seconds() for job in jobs if job.finished_at]


def _quantile(values: Sequence[float], level: float) -> float | None:
    return float(np.quantile(values, level)) if values else None


def _floor(moment: datetime, step: timedelta) -> datetime:
    seconds = int(step.total_seconds())
    return datetime.fromtimestamp(int(moment.timestamp()) // seconds * seconds, UTC)
