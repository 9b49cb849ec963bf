"""How each reviewer judges: pace, sides, agreement with themselves and with what is known. For the lead only."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from naruto_core.judging.agreement import left_bias
from naruto_core.ratings import Extremes, Grades, Outcome, Rating


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `n`, as a share with its 95 % interval (Wilson 1927); 0 to 1 without any."""

    hits: int
    n: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ReviewerQuality:
    """Of one reviewer: votes, the middle of their seconds, the share of decided pairs that went to the left, repeats
    answered as the first time, and gold pairs answered right."""

    reviewer_id: str
    votes: int
    seconds: float
    left: Share
    consistent: Share
    gold: Share


def reviewer_qualities(ratings: Sequence[Rating]) -> list[ReviewerQuality]:
    """One for everybody who voted, in the order of their ids; `ratings` with repeats and gold units."""
    return [
        _conduct(reviewer, [rating for rating in ratings if rating.reviewer_id == reviewer])
        for reviewer in sorted({rating.reviewer_id for rating in ratings})
    ]


def share(hits: int, n: int) -> Share:
    return Share(hits, n, *left_bias(hits, n - hits)[1:])


def _conduct(reviewer: str, ratings: Sequence[Rating]) -> ReviewerQuality:
    plain = [rating for rating in ratings if not rating.gold]
    decided = [rating.answer for rating in plain if rating.answer in (Outcome.LEFT, Outcome.RIGHT)]
    first = {rating.unit_id: rating for rating in plain if not rating.repeat}
    again = [(first[rating.unit_id], rating) for rating in plain if rating.repeat and rating.unit_id in first]
    gold = [rating for rating in ratings if rating.gold]
    return ReviewerQuality(
        reviewer,
        len(ratings),
        float(median(rating.seconds for rating in ratings)),
        share(decided.count(Outcome.LEFT), len(decided)),
        share(sum(_opinion(one) == _opinion(other) for one, other in again), len(again)),
        share(sum(_opinion(rating) == (rating.gold,) for rating in gold), len(gold)),
    )


def _opinion(rating: Rating) -> tuple[object, ...]:
    """What was said, by picture and not by place."""
    answer = rating.answer
    if isinstance(answer, Grades):
        return answer.adherence, answer.style
    if isinstance(answer, Extremes):
        return rating.samples[answer.best], rating.samples[answer.worst]
    return (rating.samples[(Outcome.LEFT, Outcome.RIGHT).index(answer)],) if _decided(answer) else (answer,)


def _decided(answer: Outcome) -> bool:
    return answer in (Outcome.LEFT, Outcome.RIGHT)


def leans(found: Share) -> bool:
    """Whether a share is off one half by more than chance: the interval leaves 1/2 out."""
    return not found.low <= 0.5 <= found.high
