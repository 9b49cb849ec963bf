"""How fast the service was, how much it drew, and how good that was, in steps of time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import groupby

import numpy as np

from naruto_core.recipe import RESAMPLES
from naruto_core.scoring.drift import LEAST_PROMPTS
from naruto_core.scoring.resampling import bootstrap_mean
from naruto_core.serving import JobState, JobTimes, ServedScore


class Period(StrEnum):
    """How far back is looked."""

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
class Moment:
    """One step of time: pictures by what became of them, and seconds that half (95 of 100) of its requests took."""

    at: datetime
    pictures: int
    lost: int
    median: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Load:
    """A period: requests by what became of them, pictures drawn, seconds from asking to the end and to the begin."""

    requests: dict[JobState, int]
    pictures: int
    median: float | None
    p95: float | None
    waited: float | None
    moments: list[Moment]


@dataclass(frozen=True, slots=True)
class Level:
    """The mean of one metric of what one run drew in a step of time; its 95 % interval where prompts are enough."""

    run_id: str
    metric: str
    extractor: str
    at: datetime
    value: float
    low: float | None
    high: float | None
    n: int


def since(period: Period, now: datetime) -> datetime:
    """When a period began."""
    return now - _LENGTH[period]


def count(jobs: Sequence[JobTimes], period: Period) -> Load:
    """`jobs` in any order."""
    states: dict[JobState, int] = {}
    for job in jobs:
        states[job.state] = states.get(job.state, 0) + 1
    done = [job for job in jobs if job.state is JobState.DONE]
    waits = [(job.started_at - job.asked_at).total_seconds() for job in done if job.started_at]
    step = _STEP[period]
    by_moment = groupby(sorted(jobs, key=lambda job: job.asked_at), lambda job: _floor(job.asked_at, step))
    return Load(
        requests=states,
        pictures=sum(job.n for job in done),
        median=_quantile(_seconds(done), 0.5),
        p95=_quantile(_seconds(done), 0.95),
        waited=_quantile(waits, 0.5),
        moments=[_moment(at, list(some)) for at, some in by_moment],
    )


def levels(scores: Iterable[ServedScore], period: Period) -> list[Level]:
    """`scores` in any order; of one run, metric, extractor and step at a time."""
    step = _STEP[period]

    def key(one: ServedScore) -> tuple[str, str, str, datetime]:
        return one.run_id, one.metric, one.extractor, _floor(one.drawn_at, step)

    return [_level(at, list(some)) for (*_, at), some in groupby(sorted(scores, key=key), key)]


def _moment(at: datetime, jobs: Sequence[JobTimes]) -> Moment:
    done = [job for job in jobs if job.state is JobState.DONE]
    lost = sum(job.n for job in jobs if job.state in (JobState.FAILED, JobState.LOST))
    return Moment(at, sum(job.n for job in done), lost, *(_quantile(_seconds(done), q) for q in (0.5, 0.95)))


def _level(at: datetime, scores: Sequence[ServedScore]) -> Level:
    first, asked = scores[0], [one.asked for one in scores]
    found = bootstrap_mean([one.value for one in scores], asked, RESAMPLES, 0)
    told = len(set(asked)) >= LEAST_PROMPTS
    low, high = (found.low, found.high) if told else (None, None)
    return Level(first.run_id, first.metric, first.extractor, at, found.value, low, high, len(scores))


def _seconds(jobs: Iterable[JobTimes]) -> list[float]:
    return [(job.finished_at - job.asked_at).total_seconds() for job in jobs if job.finished_at]


def _quantile(values: Sequence[float], level: float) -> float | None:
    return float(np.quantile(values, level)) if values else None


def _floor(moment: datetime, step: timedelta) -> datetime:
    seconds = int(step.total_seconds())
    return datetime.fromtimestamp(int(moment.timestamp()) // seconds * seconds, UTC)
