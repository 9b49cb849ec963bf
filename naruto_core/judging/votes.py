"""From ratings to counts: comparisons of two models, answers by unit, mean grades and defects of each model."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from naruto_core.judging.ranking import Vote
from naruto_core.judging.reviewer_quality import Share, share
from naruto_core.ratings import Defect, Extremes, Grades, Outcome, Rating

Array = NDArray[np.float64]
_CODES = {Outcome.LEFT: 0.0, Outcome.RIGHT: 1.0, Outcome.TIE: 2.0, Outcome.BOTH_BAD: 3.0}


def counted(ratings: Iterable[Rating]) -> list[Rating]:
    """Without repeats (the same person said it before) and gold units (which are about the person)."""
    return [rating for rating in ratings if not rating.repeat and not rating.gold]


def comparisons(ratings: Iterable[Rating]) -> list[Vote]:
    """What `counted` ratings say of two models at a time.

    The best and the worst of four are five comparisons: the best beats the three others, and the worst loses to the two
    in the middle (Louviere et al. 2015); what was shown first counts as the left one. Grades compare nothing.
    """
    return [vote for rating in ratings for vote in _of(rating)]


def _of(rating: Rating) -> Iterator[Vote]:
    names, answer = rating.contenders, rating.answer
    if isinstance(answer, Outcome):
        yield Vote(rating.prompt, names[0], names[1], answer)
    elif isinstance(answer, Extremes):
        order = {answer.best: 0, answer.worst: 2}
        for left, right in combinations(range(len(names)), 2):
            first, second = order.get(left, 1), order.get(right, 1)
            if first != second:
                yield Vote(rating.prompt, names[left], names[right], Outcome.LEFT if first < second else Outcome.RIGHT)


def answers_by_unit(ratings: Sequence[Rating], question: str) -> tuple[Array, list[str]]:
    """Who answered what, (raters, units) with NaN where nobody did, and the raters' ids; for Krippendorff's alpha.

    `question` is "better" (which of two pictures, whichever side it was on), "best", "worst", "adherence" or "style".
    """
    raters = sorted({rating.reviewer_id for rating in ratings})
    units = sorted({rating.unit_id for rating in ratings})
    row = {name: i for i, name in enumerate(raters)}
    column = {unit: i for i, unit in enumerate(units)}
    table = np.full((len(raters), len(units)), np.nan)
    for rating in ratings:
        table[row[rating.reviewer_id], column[rating.unit_id]] = _code(rating, question)
    return table, raters


def _code(rating: Rating, question: str) -> float:
    """The answer as a number that is the same for the same opinion, whatever was shown where."""
    answer, order = rating.answer, sorted(rating.samples)
    if isinstance(answer, Grades):
        return float({"adherence": answer.adherence, "style": answer.style}[question])
    if isinstance(answer, Extremes):
        return float(order.index(rating.samples[{"best": answer.best, "worst": answer.worst}[question]]))
    if answer in (Outcome.TIE, Outcome.BOTH_BAD):
        return _CODES[answer]
    return float(order.index(rating.samples[0 if answer is Outcome.LEFT else 1]))


@dataclass(frozen=True, slots=True)
class Graded:
    """A model's mean of one question, 1 to 5, with a 95 % interval over prompts (Student's t)."""

    model: str
    question: str
    mean: float
    low: float
    high: float
    ratings: int
    prompts: int


def mean_grades(ratings: Sequence[Rating]) -> list[Graded]:
    """Of every model and question; a prompt counts as much as another."""
    models = sorted({rating.contenders[0] for rating in ratings})
    return [_graded(model, question, ratings) for model in models for question in ("adherence", "style")]


def defects(ratings: Sequence[Rating]) -> dict[str, dict[Defect, Share]]:
    """For every model, in which share of its ratings each defect was flagged."""
    found: dict[str, dict[Defect, Share]] = {}
    for model in sorted({rating.contenders[0] for rating in ratings}):
        flags = [r.answer.defects for r in ratings if r.contenders[0] == model and isinstance(r.answer, Grades)]
        found[model] = {defect: share(sum(defect in seen for seen in flags), len(flags)) for defect in Defect}
    return found


def _graded(model: str, question: str, ratings: Sequence[Rating]) -> Graded:
    by_prompt: dict[str, list[int]] = {}
    for rating in ratings:
        if rating.contenders[0] == model and isinstance(rating.answer, Grades):
            by_prompt.setdefault(rating.prompt, []).append(getattr(rating.answer, question))
    means = np.array([np.mean(found) for found in by_prompt.values()])
    mean, reach = float(means.mean()), math.inf
    if len(means) > 1:
        reach = float(stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means)))
    n = sum(map(len, by_prompt.values()))
    return Graded(model, question, mean, max(1.0, mean - reach), min(5.0, mean + reach), n, len(means))
