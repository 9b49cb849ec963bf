"""The domain model of human evaluation: campaigns, units, assignments, votes. Standard library only.

A campaign shows units to reviewers: two pictures of the same prompt and seed, a single picture, or four. Reviewers'
actions are stored as events that are never changed; the last event of an assignment counts.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Mode(StrEnum):
    """What a reviewer sees, and the question."""

    PAIR = "pair"  # two pictures: which is better?
    SCALE = "scale"  # one picture: how well does it fit the prompt and the style, and what is wrong with it?
    BEST_WORST = "best-worst"  # four pictures: which is the best, and which the worst?

    @property
    def pictures(self) -> int:
        """The number of pictures of a unit."""
        return {Mode.PAIR: 2, Mode.SCALE: 1, Mode.BEST_WORST: 4}[self]


class Outcome(StrEnum):
    """The answer to a pair of pictures."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both-bad"


class Defect(StrEnum):
    """A defect of a generated picture."""

    HANDS = "hands"
    FACE = "face"
    EYES = "eyes"
    LINE_ART = "line-art"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Grades:
    """Grades of one picture: 1 (worst) to 5 for how well it fits the prompt and the style, and its defects."""

    adherence: int
    style: int
    defects: frozenset[Defect] = frozenset()


@dataclass(frozen=True, slots=True)
class Extremes:
    """Of four pictures: the positions (0 to 3, in the order shown) of the best and of the worst."""

    best: int
    worst: int


Answer = Outcome | Grades | Extremes


class Action(StrEnum):
    """A reviewer's action on an assignment."""

    VOTE = "vote"
    SKIP = "skip"
    UNDO = "undo"  # of the last action on the assignment


class Role(StrEnum):
    REVIEWER = "reviewer"  # votes without knowing which model drew a picture
    LEAD = "lead"  # an admin: creates campaigns and sees their results


@dataclass(frozen=True, slots=True)
class Reviewer:
    """A person who votes; `id` is opaque. `email` comes from a single sign-on, "" without one."""

    id: str
    name: str
    role: Role
    email: str = ""


@dataclass(frozen=True, slots=True)
class Campaign:
    """A question to reviewers about many units; a closed campaign accepts no votes.

    `informative` is the share of units that are chosen for the most information on which model is better, the others
    are drawn evenly; `repeats` is the share of a reviewer's units that are repeated with sides swapped. `example`
    marks votes that a program generated.
    """

    id: str
    name: str
    question: str
    mode: Mode
    opened_at: datetime
    closed_at: datetime | None = None
    informative: float = 0.7
    repeats: float = 0.06
    example: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """The samples (by id) of one prompt and seed that `wanted` reviewers compare; the order of display is not set here.

    `contenders` are the models that drew them ("RUN/fused"), `text` is the prompt's. `gold` is the sample that every
    attentive reviewer prefers, or "": such units test attention, and do not count for a model.
    """

    prompt: str
    text: str
    seed: int
    samples: tuple[str, ...]
    contenders: tuple[str, ...]
    wanted: int = 1
    gold: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A unit as one reviewer sees it: the prompt's text, and samples in the order shown, without model names.

    It is reserved for the reviewer until `leased_until`; a later vote still counts unless the unit was assigned to
    another reviewer meanwhile.
    """

    id: str
    campaign_id: str
    text: str
    samples: tuple[str, ...]
    leased_until: datetime


@dataclass(frozen=True, slots=True)
class RatingEvent:
    """An event that a reviewer's page sends. The page creates `nonce`: an event that is sent twice counts once.

    `seconds` from display to action, `viewport` in pixels ("390x844"); `answer` is set for a vote only.
    """

    assignment_id: str
    act: Action
    nonce: str
    seconds: float
    viewport: str
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Rating:
    """A vote that counts: the pictures in the order shown, and the answer.

    `propensity` is the probability with which this unit was chosen at that time; `repeat` marks the second vote of a
    reviewer on the unit.
    """

    unit_id: int
    reviewer_id: str
    prompt: str
    seed: int
    samples: tuple[str, ...]
    contenders: tuple[str, ...]
    answer: Answer
    seconds: float
    at: datetime
    propensity: float = 1.0
    repeat: bool = False
    gold: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """The progress of a campaign: number of units, ratings wanted, ratings received (without repeats)."""

    units: int
    wanted: int
    rated: int


@dataclass(frozen=True, slots=True)
class Promotion:
    """An alias set to a run by a person, or set back to the run before (a rollback); the newest promotion counts."""

    alias: str
    run_id: str
    by: str
    why: str
    at: datetime
    checks: dict[str, str] = field(default_factory=dict[str, str])
    rollback: bool = False
