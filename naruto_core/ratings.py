"""The nouns of human judgement. Frozen, standard library only.

A campaign asks reviewers which of two pictures of the same prompt and seed is better. What they do is kept as events
that are never changed; what counts is the last one of each assignment.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Outcome(StrEnum):
    """What a reviewer says of two pictures that are shown side by side."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both-bad"


class Act(StrEnum):
    """What a reviewer does with an assignment."""

    VOTE = "vote"
    SKIP = "skip"
    UNDO = "undo"  # of whatever was done last with it


class Role(StrEnum):
    REVIEWER = "reviewer"  # sees pictures, blind
    LEAD = "lead"  # makes campaigns and sees what came of them


@dataclass(frozen=True, slots=True)
class Reviewer:
    """One person; `id` is opaque."""

    id: str
    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Campaign:
    """A question put to reviewers over many comparisons; closed ones take no votes."""

    id: str
    name: str
    question: str
    opened_at: datetime
    closed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two samples (by id) of one prompt and seed, to be judged by `wanted` reviewers; which side is not said here."""

    prompt: str
    seed: int
    first: str
    second: str
    wanted: int = 1


@dataclass(frozen=True, slots=True)
class Assignment:
    """A comparison as one reviewer sees it: opaque ids of two samples and the sides they are on, nothing else.

    It is held for the reviewer until `leased_until`; a vote that comes later still counts unless the comparison was
    given to somebody else in the meantime.
    """

    id: str
    campaign_id: str
    prompt: str
    left: str
    right: str
    leased_until: datetime


@dataclass(frozen=True, slots=True)
class Deed:
    """One event as a reviewer's page sends it. `nonce` is made by the page: sent twice, it counts once.

    `seconds` from showing to deed, `viewport` in pixels ("390x844"); `outcome` of a vote only.
    """

    assignment_id: str
    act: Act
    nonce: str
    seconds: float
    viewport: str
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Rating:
    """A vote that counts: which samples were on which side, and what was said."""

    reviewer_id: str
    prompt: str
    seed: int
    left: str
    right: str
    outcome: Outcome
    seconds: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a campaign is: comparisons, ratings wanted in all, ratings there are."""

    comparisons: int
    wanted: int
    rated: int
