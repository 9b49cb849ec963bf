"""The quality of each reviewer's votes: speed, side bias, consistency, gold pairs. Only admins see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from naruto_core.judging.agreement import left_bias
from naruto_core.ratings import Extremes, Grades, Outcome, Rating


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `n`, with the 95 % interval of the share (Wilson 1927), which is 0 to 1 for n = 0."""

    hits: int
    n: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ReviewerQuality:
    """The quality of one reviewer.

    votes: the number of votes, repeats and gold units included.
    seconds: the median time of a vote.
    left: the share of decided pairs in which the left picture was chosen.
    consistent: the share of repeated units with the same answer as the first time.
    gold: the share of gold units with the right answer.
    """

    reviewer_id: str
    votes: int
    seconds: float
    left: Share
    consistent: Share
    gold: Share


def reviewer_qualities(ratings: Sequence[Rating]) -> list[ReviewerQuality]:
    """The quality of everybody who voted, in the order of their ids; `ratings` include repeats and gold units."""
    by_reviewer: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_reviewer.setdefault(rating.reviewer_id, []).append(rating)
    return [_quality(reviewer, by_reviewer[reviewer]) for reviewer in sorted(by_reviewer)]


def share(hits: int, n: int) -> Share:
    """`hits` of `n` as a share with its interval."""
    return Share(hits, n, *left_bias(hits, n - hits)[1:])


def _quality(reviewer: str, ratings: Sequence[Rating]) -> ReviewerQuality:
    plain = [rating for rating in ratings if not rating.gold]
    decided = [rating.answer for rating in plain if rating.answer in (Outcome.LEFT, Outcome.RIGHT)]
    first = {rating.unit_id: rating for rating in plain if not rating.repeat}
    repeats = [(first[rating.unit_id], rating) for rating in plain if rating.repeat and rating.unit_id in first]
    gold = [rating for rating in ratings if rating.gold]
    return ReviewerQuality(
        reviewer,
        len(ratings),
        float(median(rating.seconds for rating in ratings)),
        share(decided.count(Outcome.LEFT), len(decided)),
        share(sum(_choice(before) == _choice(after) for before, after in repeats), len(repeats)),
        share(sum(_choice(rating) == (rating.gold,) for rating in gold), len(gold)),
    )


def _choice(rating: Rating) -> tuple[object, ...]:
    """The answer by sample and not by position, so that it is the same when the sides are swapped."""
    answer = rating.answer
    if isinstance(answer, Grades):
        return answer.adherence, answer.style
    if isinstance(answer, Extremes):
        return rating.samples[answer.best], rating.samples[answer.worst]
    return (rating.samples[(Outcome.LEFT, Outcome.RIGHT).index(answer)],) if _decided(answer) else (answer,)


def _decided(answer: Outcome) -> bool:
    return answer in (Outcome.LEFT, Outcome.RIGHT)


def is_biased(share: Share) -> bool:
    """Whether a share differs from one half by more than chance: its interval does not contain 1/2."""
    return not share.low <= 0.5 <= share.high
