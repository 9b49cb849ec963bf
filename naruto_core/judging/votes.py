"""From ratings to what is counted: comparisons of two models, and who said what of which unit."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from naruto_core.judging.ranking import Vote
from naruto_core.ratings import Extremes, Grades, Outcome, Rating

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
