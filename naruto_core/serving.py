"""The domain of serving: requests for pictures, scores of served pictures, drift. None of it holds a prompt."""

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
    REFUSED = "refused"  # by the moderator
    LOST = "lost"  # the service died before the pictures were drawn


OPEN = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class ServiceJob:
    """One request: `n` pictures by `model` (a run's id, or base), for the API key called `key`.

    `width` and `height` are in pixels; `seeds` has one for each picture; `instance` is the process that took the
    request. `pictures` are file names in the service's folder, empty if the pictures were sent in the reply.
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
    """When a request for `n` pictures came, was started and ended, and its state."""

    asked_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    n: int
    state: JobState


@dataclass(frozen=True, slots=True)
class ServedScore:
    """A score of one served picture, measured afterwards; the picture and its prompt are not kept.

    `asked` is a keyed hash of the prompt: equal for equal prompts, and it does not reveal the prompt.
    """

    picture: str
    run_id: str
    asked: str
    drawn_at: datetime
    metric: str
    value: float
    extractor: str


class DriftVerdict(StrEnum):
    """Whether served pictures still score as the run's own samples do."""

    STEADY = "steady"
    DRIFTED = "drifted"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Drift:
    """A comparison of served pictures with the samples of the run that drew them, on one metric.

    `served` and `own` are the means; `difference` is served minus own, with its 95 % interval from `low` to `high`;
    differences within +-`margin` are irrelevant. `n_served` pictures of `prompts_served` prompts were drawn since
    `since`, and compared with `n_own` samples at `said_at`.
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
    verdict: DriftVerdict
