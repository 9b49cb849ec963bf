"""The nouns of serving: what became of a request for pictures. No prompt and no person is among them."""

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
    REFUSED = "refused"  # a picture that the checker did not let go
    LOST = "lost"  # the service died before it was drawn


OPEN = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class ServiceJob:
    """One request: `n` pictures by `model` (a run's id, or base), asked with the API key called `key`.

    `pictures` are file names in the service's folder, empty when the pictures went back in the reply.
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
    """When a request for `n` pictures was asked, begun and ended, and what became of it."""

    asked_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    n: int
    state: JobState


@dataclass(frozen=True, slots=True)
class ServedScore:
    """A number of one picture that was served, measured afterwards; the picture and its prompt are not kept.

    `asked` stands for the prompt: equal for equal prompts, and not to be turned back into one.
    """

    picture: str
    run_id: str
    asked: str
    drawn_at: datetime
    metric: str
    value: float
    extractor: str


class Steadiness(StrEnum):
    """Whether pictures that are served still score as the run's own did."""

    STEADY = "steady"
    DRIFTED = "drifted"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Drift:
    """Served pictures held against the samples of the run that drew them, on one metric.

    `difference` is served minus own, `low` and `high` its 95 % interval; `margin` is what does not matter yet.
    `n_served` pictures of `prompts_served` prompts were drawn since `since`.
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
