"""The nouns of human judgement. Frozen, standard library only.

A campaign puts units before reviewers: two pictures of the same prompt and seed, a single one, or four. What reviewers
do is kept as events that are never changed; what counts is the last one of each assignment.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Mode(StrEnum):
    """What a reviewer is shown, and asked."""

    PAIR = "pair"  # two pictures: which is better?
    SCALE = "scale"  # one picture: how well does it fit the prompt and the style, and what is wrong with it?
    BEST_WORST = "best-worst"  # four pictures: which is the best, and which the worst?

    @property
    def pictures(self) -> int:
        return {Mode.PAIR: 2, Mode.SCALE: 1, Mode.BEST_WORST: 4}[self]


class Outcome(StrEnum):
    """What a reviewer says of two pictures that are shown side by side."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both-bad"


class Defect(StrEnum):
    """What may be wrong with a drawn picture."""

    HANDS = "hands"
    FACE = "face"
    EYES = "eyes"
    LINE_ART = "line-art"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Grades:
    """Of one picture: 1 (worst) to 5 for how well it fits the prompt and the style, and its defects."""

    adherence: int
    style: int
    defects: frozenset[Defect] = frozenset()


@dataclass(frozen=True, slots=True)
class Extremes:
    """Of four pictures: the places (0 to 3, as they were shown) of the best and of the worst."""

    best: int
    worst: int


Answer = Outcome | Grades | Extremes


class Action(StrEnum):
    """What a reviewer does with an assignment."""

    VOTE = "vote"
    SKIP = "skip"
    UNDO = "undo"  # of whatever was done last with it


class Role(StrEnum):
    REVIEWER = "reviewer"  # sees pictures, blind
    LEAD = "lead"  # makes campaigns and sees what came of them


@dataclass(frozen=True, slots=True)
class Reviewer:
    """One person; `id` is opaque. `email` is what a single sign-on says of them, empty without one."""

    id: str
    name: str
    role: Role
    email: str = ""


@dataclass(frozen=True, slots=True)
class Campaign:
    """A question put to reviewers over many units; closed ones take no votes.

    `informative` is the share of units that are chosen because they say most about who is better, the others are drawn
    evenly; `repeats` the share of what one reviewer sees that they have seen before, with the sides changed. `example`
    marks votes that a program made up.
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
    """What is judged: samples (by id) of one prompt and seed, by `wanted` reviewers. The order they are shown in is not
    said here.

    `contenders` says which models drew them ("RUN/fused"), `text` is the prompt's. `gold` is the sample that everybody
    who looks must prefer, or empty: such units show who looks, and count for no model.
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
    """A unit as one reviewer sees it: the prompt's text and samples in the order shown, nothing that names a model.

    It is held for the reviewer until `leased_until`; a vote that comes later still counts unless the unit was given to
    somebody else in the meantime.
    """

    id: str
    campaign_id: str
    text: str
    samples: tuple[str, ...]
    leased_until: datetime


@dataclass(frozen=True, slots=True)
class RatingEvent:
    """One event as a reviewer's page sends it. `nonce` is made by the page: sent twice, it counts once.

    `seconds` from showing to deed, `viewport` in pixels ("390x844"); `answer` of a vote only.
    """

    assignment_id: str
    act: Action
    nonce: str
    seconds: float
    viewport: str
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Rating:
    """A vote that counts: what was shown, in which order, and what was said.

    `propensity` is the probability with which this unit was given when it was; `repeat` marks the second time that one
    reviewer judged the unit.
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
    """How far a campaign is: units, ratings wanted in all, ratings there are (repeats not counted)."""

    units: int
    wanted: int
    rated: int


@dataclass(frozen=True, slots=True)
class Promotion:
    """An alias set to a run by a person, or taken back to what it was before (a rollback); the newest one counts."""

    alias: str
    run_id: str
    by: str
    why: str
    at: datetime
    checks: dict[str, str] = field(default_factory=dict[str, str])
    rollback: bool = False
