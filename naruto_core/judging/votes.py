"""From ratings to numbers: votes on two models, answers by unit, mean grades and defects of each model."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from naruto_core.intervals import effective_trials, exact_share
from naruto_core.judging.ranking import Vote
from naruto_core.judging.reviewer_quality import Share, share
from naruto_core.ratings import AnswerCount, Defect, Extremes, Grades, Outcome, Rating

Array = NDArray[np.float64]
GRADE_QUESTIONS = tuple(field.name for field in fields(Grades) if field.name != "defects")  # adherence, style
_CODES = {Outcome.LEFT: 0.0, Outcome.RIGHT: 1.0, Outcome.TIE: 2.0, Outcome.BOTH_BAD: 3.0}


def countable(ratings: Iterable[Rating]) -> list[Rating]:
    """The ratings without repeats (a second answer of the same person) and gold units (which test the person)."""
    return [rating for rating in ratings if not rating.repeat and not rating.gold]


def to_votes(answers: Iterable[AnswerCount]) -> list[Vote]:
    """Votes on two models at a time.

    The best and the worst of four are five votes: the best wins against the other three, and the worst loses to the two
    in the middle (Louviere et al. 2015). The picture that was shown earlier counts as the left one. Grades give no
    votes.
    """
    return [vote for one in answers for vote in _votes(one)]


def _votes(one: AnswerCount) -> Iterator[Vote]:
    names, answer = one.contenders, one.answer
    if isinstance(answer, Outcome):
        yield Vote(one.prompt, names[0], names[1], answer, one.count)
    elif isinstance(answer, Extremes):
        order = {answer.best: 0, answer.worst: 2}
        for left, right in combinations(range(len(names)), 2):
            first, second = order.get(left, 1), order.get(right, 1)
            if first != second:
                outcome = Outcome.LEFT if first < second else Outcome.RIGHT
                yield Vote(one.prompt, names[left], names[right], outcome, one.count)


def answers_by_unit(answers: Sequence[AnswerCount], question: str) -> Array:
    """How many people gave each answer about each unit (units, answers), answers in ascending order.

    For Krippendorff's alpha. `question` is "better" (which of two pictures, on whichever side it was), "best", "worst",
    or one of `GRADE_QUESTIONS`.
    """
    codes = [_code(one, question) for one in answers]
    row = {unit: i for i, unit in enumerate(sorted({one.unit_id for one in answers}))}
    column = {code: i for i, code in enumerate(sorted(set(codes)))}
    table = np.zeros((len(row), len(column)))
    for one, code in zip(answers, codes, strict=True):
        table[row[one.unit_id], column[code]] += one.count
    return table


def _code(one: AnswerCount, question: str) -> float:
    """The answer as a number, which does not depend on the order in which pictures were shown."""
    answer, order = one.answer, sorted(one.samples)
    if isinstance(answer, Grades):
        return float(getattr(answer, question))
    if isinstance(answer, Extremes):
        return float(order.index(one.samples[{"best": answer.best, "worst": answer.worst}[question]]))
    if answer in (Outcome.TIE, Outcome.BOTH_BAD):
        return _CODES[answer]
    return float(order.index(one.samples[0 if answer is Outcome.LEFT else 1]))


@dataclass(frozen=True, slots=True)
class MeanGrade:
    """A model's mean grade for one question, 1 to 5, with a 95 % interval over prompts."""

    model: str
    question: str
    mean: float
    low: float
    high: float
    ratings: int
    prompts: int


def mean_grades(ratings: Sequence[Rating]) -> list[MeanGrade]:
    """The mean grade of every model for every question; every prompt has the same weight."""
    models = sorted({rating.contenders[0] for rating in ratings})
    return [_mean_grade(model, question, ratings) for model in models for question in GRADE_QUESTIONS]


def defect_shares(ratings: Sequence[Rating]) -> dict[str, dict[Defect, Share]]:
    """For every model, the share of its ratings in which each defect was flagged."""
    shares: dict[str, dict[Defect, Share]] = {}
    for model in sorted({rating.contenders[0] for rating in ratings}):
        flags = [r.answer.defects for r in ratings if r.contenders[0] == model and isinstance(r.answer, Grades)]
        shares[model] = {defect: share(sum(defect in flagged for flagged in flags), len(flags)) for defect in Defect}
    return shares


def _mean_grade(model: str, question: str, ratings: Sequence[Rating]) -> MeanGrade:
    by_prompt: dict[str, list[int]] = {}
    for rating in ratings:
        if rating.contenders[0] == model and isinstance(rating.answer, Grades):
            by_prompt.setdefault(rating.prompt, []).append(getattr(rating.answer, question))
    means = np.array([np.mean(grades) for grades in by_prompt.values()])
    n, prompts = sum(map(len, by_prompt.values())), len(means)
    error = float(means.std(ddof=1)) / math.sqrt(prompts) / 4 if prompts > 1 else math.inf
    share = (float(means.mean()) - 1) / 4  # of the way from 1 to 5: its interval has a width where all grades are equal
    interval = exact_share(share, effective_trials(share, error, prompts, n))
    return MeanGrade(model, question, float(means.mean()), 1 + 4 * interval.low, 1 + 4 * interval.high, n, prompts)
