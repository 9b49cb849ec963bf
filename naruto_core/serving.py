"""The nouns of serving: what became of a request for pictures. No prompt and no person is among them."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
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
