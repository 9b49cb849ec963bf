"""The domain model of serving: requests for pictures, scores of served pictures, drift. No prompts, no users."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    REFUSED = "refused"  # the moderation blocked a picture
    LOST = "lost"  # the service ended before the picture was drawn


OPEN = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class ServiceJob:
    """One request for `n` pictures by `model` (a run's id, or "base"), with the API key named `key`.

    `pictures` are file names in the service's folder; empty when the response contained the pictures.
    """

    id: str
    instance: str
    key: str
    model: str
    n: int
    width: int
    height: int
    num_inference_steps: int
    seeds: list[int]
    asked_at: datetime
    state: JobState = JobState.QUEUED
    started_at: datetime | None = None
    finished_at: datetime | None = None
    failure: str = ""
    pictures: list[str] = field(default_factory=list[str])


class JobTimes(NamedTuple):
    """When a request for `n` pictures arrived, started and finished, and its state."""

    asked_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    n: int
    state: JobState


@dataclass(frozen=True, slots=True)
class ServedScore:
    """A metric of one served picture; the picture and its prompt are not stored.

    `asked` is a keyed hash of the prompt: equal for equal prompts, and the prompt cannot be computed from it.
    """

    picture: str
    run_id: str
    asked: str
    drawn_at: datetime
    metric: str
    value: float
    extractor: str


class Steadiness(StrEnum):
    """Whether served pictures score as the run's samples do."""

    STEADY = "steady"
    DRIFTED = "drifted"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Drift:
    """Served pictures compared with the samples of the run that drew them, on one metric.

    `difference` is served minus own, `low` and `high` its 95 % interval; a difference within `margin` is no drift.
    `n_served` pictures of `prompts_served` prompts were drawn after `since`; `said_at` is the time of the comparison.
    """

    run_id: str
    metric: str
    since: datetime
    said_at: datetime
    served: float
    own: float
    difference: float
    low: float
    high: float
    margin: float
    n_served: int
    prompts_served: int
    n_own: int
    extractor: str
    verdict: Steadiness
