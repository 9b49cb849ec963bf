"""Validation of metrics against people's votes, beside the agreement of one person with the other people.

Three questions, as in the meta-evaluation of machine translation (Mathur et al. 2020; Freitag et al. 2023): does the
metric choose the picture that people choose (pairwise), does it order pictures as they do (pointwise), does it order
models as they do (ordering)? Votes on one prompt depend on each other, so that intervals are over whole prompts.

Arguments: `scores` are a metric's values by sample id; `better` is 1 where more is better, -1 where less is better.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from naruto_core.intervals import LEAST_GROUPS, share_estimate, student
from naruto_core.ratings import AnswerCount, Outcome

Array = NDArray[np.float64]
ENOUGH_VOTES, ENOUGH_PROMPTS, ENOUGH_MODELS = 30, 10, 4


@dataclass(frozen=True, slots=True)
class MetricAgreement:
    """A share (0 to 1, pairwise) or a rank correlation (-1 to 1) with its 95 % interval.

    `n` is the number of votes, pictures or models behind it; `prompts` that of prompts.
    """

    value: float
    low: float
    high: float
    n: int
    prompts: int

    @property
    def enough(self) -> bool:
        """Whether there are enough votes and prompts to trust it."""
        return self.n >= ENOUGH_VOTES and self.prompts >= ENOUGH_PROMPTS


def pairwise_agreement(
    answers: Sequence[AnswerCount], scores: Mapping[str, float], better: int
) -> MetricAgreement | None:
    """The share of decided votes in which the metric prefers the same picture; equal scores count half.

    None without a decided vote on two scored pictures.
    """
    decided = [one for one in _decided(answers) if all(sample in scores for sample in one.samples)]
    return _share([(one.prompt, _hit(one, scores, better), one.count) for one in decided])


def human_ceiling(answers: Sequence[AnswerCount]) -> MetricAgreement | None:
    """The share of decided votes in which a person chose as most other people did on the same unit.

    An even split of the other people counts half. None where no unit was decided by two people.
    """
    units: dict[int, Counter[str]] = {}
    decided = _decided(answers)
    for one in decided:
        units.setdefault(one.unit_id, Counter())[_choice(one)] += one.count
    hits: list[tuple[str, float, int]] = []
    for one in decided:
        choices = units[one.unit_id]
        alike, others = choices[_choice(one)] - 1, choices.total() - 1
        if others:
            hits.append((one.prompt, 0.5 if 2 * alike == others else float(2 * alike > others), one.count))
    return _share(hits)


def pointwise_correlation(
    answers: Sequence[AnswerCount], scores: Mapping[str, float], better: int
) -> MetricAgreement | None:
    """Spearman's correlation, -1 to 1, of a picture's share of votes won (ties count half) with its score.

    None for fewer than three pictures, and where the shares or the scores are all equal.
    """
    won: dict[str, float] = {}
    total: dict[str, int] = {}
    prompts: dict[str, str] = {}
    for one in answers:
        for side, sample in enumerate(one.samples):
            if sample in scores and isinstance(one.answer, Outcome):
                won[sample] = won.get(sample, 0.0) + _won(one.answer, side) * one.count
                total[sample] = total.get(sample, 0) + one.count
                prompts[sample] = one.prompt
    samples = sorted(won)
    people: Array = np.array([won[sample] / total[sample] for sample in samples], dtype=np.float64)
    metric = better * np.array([scores[sample] for sample in samples])
    if len(samples) < 3 or np.ptp(people) == 0 or np.ptp(metric) == 0:
        return None
    groups = [prompts[sample] for sample in samples]
    value, low, high = _jackknife(groups, lambda rows: _spearman(people[rows], metric[rows]))
    return MetricAgreement(value, max(low, -1.0), min(high, 1.0), len(samples), len(set(groups)))


def ordering_correlation(strengths: Mapping[str, float], means: Mapping[str, float], better: int) -> tuple[float, int]:
    """Kendall's tau-b, -1 to 1, of models ordered by people and by a metric, and the number of models.

    `strengths` and `means` are by model. NaN for fewer than two models in both.
    """
    names = sorted(set(strengths) & set(means))
    if len(names) < 2:
        return float("nan"), len(names)
    tau = stats.kendalltau([strengths[name] for name in names], [better * means[name] for name in names])[0]
    return float(np.asarray(tau)), len(names)


def _decided(answers: Sequence[AnswerCount]) -> list[AnswerCount]:
    return [one for one in answers if one.answer in (Outcome.LEFT, Outcome.RIGHT)]


def _choice(one: AnswerCount) -> str:
    return one.samples[0 if one.answer is Outcome.LEFT else 1]


def _hit(one: AnswerCount, scores: Mapping[str, float], better: int) -> float:
    left, right = (better * scores[sample] for sample in one.samples)
    return 0.5 if left == right else float((left > right) == (one.answer is Outcome.LEFT))


def _won(answer: Outcome, side: int) -> float:
    """1 if the picture on `side` (0 left, 1 right) won, 0 if it lost, 0.5 for a tie."""
    if answer in (Outcome.TIE, Outcome.BOTH_BAD):
        return 0.5
    return float((answer is Outcome.LEFT) == (side == 0))


def _share(hits: Sequence[tuple[str, float, int]]) -> MetricAgreement | None:
    """The mean of `hits`: prompt, hit, and how many votes that is."""
    if not hits:
        return None
    groups, values, counts = zip(*hits, strict=True)
    share = share_estimate(values, groups, counts)
    return MetricAgreement(share.value, share.low, share.high, sum(counts), len(set(groups)))


def _spearman(a: Array, b: Array) -> float:
    ranks = stats.rankdata(a), stats.rankdata(b)
    if np.ptp(ranks[0]) == 0 or np.ptp(ranks[1]) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _jackknife(groups: Sequence[str], measure: Callable[[NDArray[np.intp]], float]) -> tuple[float, float, float]:
    """`measure` of all rows, and its interval: Student's t with the error from leaving out one group at a time.

    (-inf, inf) below `LEAST_GROUPS` groups, and where the measure is not defined without one of them.
    """
    names, member = np.unique(groups, return_inverse=True)
    value, count = measure(np.arange(len(groups))), len(names)
    left_out = np.array([measure(np.flatnonzero(member != group)) for group in range(count)])
    if count < LEAST_GROUPS or not np.isfinite(left_out).all():
        return value, -math.inf, math.inf
    margin = student(count) * math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    return value, value - margin, value + margin
