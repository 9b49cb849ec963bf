"""Types of human evaluation: campaigns, units, assignments, votes, promotions. Frozen, standard library only.

A campaign asks reviewers about units: one, two or four pictures of the same prompt and seed. Every action of a reviewer
is kept as an event that is never changed; the last event of each assignment counts.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class Mode(StrEnum):
    """The kind of question that a campaign asks."""

    PAIR = "pair"  # two pictures: which is better?
    SCALE = "scale"  # one picture: grades for prompt and style, and defects
    BEST_WORST = "best-worst"  # four pictures: which is the best, and which the worst?

    @property
    def pictures(self) -> int:
        """How many pictures a reviewer sees at once."""
        return {Mode.PAIR: 2, Mode.SCALE: 1, Mode.BEST_WORST: 4}[self]


class Outcome(StrEnum):
    """The answer about two pictures that are shown side by side."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both-bad"


class Defect(StrEnum):
    """A visible defect of a generated picture."""

    HANDS = "hands"
    FACE = "face"
    EYES = "eyes"
    LINE_ART = "line-art"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Grades:
    """The answer about one picture: 1 (worst) to 5 for agreement with the prompt and with the style, and defects."""

    adherence: int
    style: int
    defects: frozenset[Defect] = frozenset()


@dataclass(frozen=True, slots=True)
class Extremes:
    """The answer about four pictures: the positions (0 to 3, as shown) of the best and of the worst."""

    best: int
    worst: int


Answer = Outcome | Grades | Extremes

GRADES = range(1, 6)


def answer_fault(answer: Answer, mode: Mode) -> str:
    """Why `answer` is none to the question of `mode`, for people; "" where it is one."""
    if type(answer) is not {Mode.PAIR: Outcome, Mode.SCALE: Grades, Mode.BEST_WORST: Extremes}[mode]:
        return f"this campaign asks another question: it needs an answer of mode {mode.value}."
    if isinstance(answer, Grades) and not (answer.adherence in GRADES and answer.style in GRADES):
        return "grades go from 1 to 5."
    if isinstance(answer, Extremes) and (
        answer.best == answer.worst or not {answer.best, answer.worst} <= set(range(mode.pictures))
    ):
        return "the best and the worst must be two different pictures of the four."
    return ""


class Action(StrEnum):
    """A reviewer's action on an assignment."""

    VOTE = "vote"
    SKIP = "skip"
    UNDO = "undo"  # takes back the last vote or skip


class Role(StrEnum):
    """What a registered person may do."""

    REVIEWER = "reviewer"  # rates pictures, blind
    ADMIN = "admin"  # opens campaigns, sees their results, promotes runs


@dataclass(frozen=True, slots=True)
class Reviewer:
    """A registered person; `id` is opaque. `email` is the address of their single sign-on, or "".

    `link_digest` changes when their personal link does: what was opened with the old link ends then. It is the same
    person with another link, so it does not count when people are compared.
    """

    id: str
    name: str
    role: Role
    email: str = ""
    link_digest: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Campaign:
    """A question that reviewers answer for many units; a closed campaign takes no votes.

    `informative` (0 to 1) is the share of assignments that are chosen because they are most informative; the rest are
    sampled uniformly. `repeats` (0 to 1) is the share of assignments that show a reviewer an earlier unit again with
    sides swapped, to test consistency. `example` marks votes that a program made up. A paused campaign gives nobody new
    units, and takes the votes on those that are on a screen.
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
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """What is rated: samples (by id) of one prompt and seed, rated by `raters` reviewers.

    `contenders` are the models that drew the samples ("RUN/fused"), in the same order; `text` is the text of the
    prompt. `gold` is the id of the sample that every attentive reviewer prefers, or "": gold units test attention, go
    to every reviewer and count for no model. The order on the screen is drawn for each assignment.
    """

    prompt: str
    text: str
    seed: int
    samples: tuple[str, ...]
    contenders: tuple[str, ...]
    raters: int = 1
    gold: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A unit as one reviewer sees it: the text of the prompt and the samples in the order shown; no model's name.

    It is leased to the reviewer until `leased_until`. A later vote still counts, unless the unit was assigned to
    somebody else in the meantime.
    """

    id: str
    campaign_id: str
    text: str
    samples: tuple[str, ...]
    leased_until: datetime


@dataclass(frozen=True, slots=True)
class RatingEvent:
    """A vote, skip or undo as the review page sends it. The page makes the `nonce`: an event sent twice counts once.

    `seconds` from showing the pictures to the action; `viewport` in pixels ("390x844"); only a vote has an `answer`.
    """

    assignment_id: str
    action: Action
    nonce: str
    seconds: float
    viewport: str
    answer: Answer | None = None


class Rating(NamedTuple):
    """A vote that counts: samples and contenders in the order shown, and the answer.

    `propensity` (0 to 1) is the probability that this unit was assigned at that moment; `repeat` marks the second
    rating of the unit by the same reviewer. A tuple, because there are many: it is made in a quarter of the time.
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
class AnswerCount:
    """How many reviewers gave a unit the same answer, of those who saw it in this order.

    Repeats (a second answer of the same person) and gold units (which test the person) are not counted.
    """

    unit_id: int
    prompt: str
    samples: tuple[str, ...]
    contenders: tuple[str, ...]
    answer: Answer
    count: int = 1


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A reviewer whose votes do not count in a campaign: who decided it, and why. The votes stay recorded."""

    campaign_id: str
    reviewer_id: str
    by: str
    why: str
    at: datetime


@dataclass(frozen=True, slots=True)
class PictureNote:
    """What a reviewer wrote about a unit, or the place of a defect in one of its pictures.

    `position` is that of the picture as shown, from 0; None for a note on the unit. `x` and `y`, 0 to 1 from the upper
    left, are the place of `defect`. The page makes the `nonce`: a note sent twice counts once.
    """

    assignment_id: str
    nonce: str
    text: str = ""
    position: int | None = None
    defect: Defect | None = None
    x: float | None = None
    y: float | None = None


@dataclass(frozen=True, slots=True)
class RecordedNote:
    """A note as it is kept: the prompt's text, the sample by id ("" for a note on the unit) and who drew it."""

    reviewer_id: str
    prompt: str
    sample: str
    contender: str
    text: str
    defect: Defect | None
    x: float | None
    y: float | None
    at: datetime


@dataclass(frozen=True, slots=True)
class ReviewerProgress:
    """What one reviewer did in a campaign: votes (repeats and gold units included), skips, units that others rated
    too, and the time of the last event (None before the first)."""

    reviewer_id: str
    votes: int
    skips: int
    overlap: int
    gold: int
    last_at: datetime | None


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """Progress of a campaign: its units, the votes it needs, and the votes so far; without repeats and gold units."""

    units: int
    votes_needed: int
    votes: int

    @property
    def share(self) -> float:
        """Votes so far as a share of the votes needed, 0 to 1."""
        return min(1.0, self.votes / self.votes_needed) if self.votes_needed else 1.0


@dataclass(frozen=True, slots=True)
class Promotion:
    """A person set an alias to a run, or rolled it back to an earlier run; the newest promotion counts."""

    alias: str
    run_id: str
    by: str
    why: str
    at: datetime
    checks: dict[str, str] = field(default_factory=dict[str, str])
    rollback: bool = False
