"""Whom to believe: how far a metric says what people say, next to how far one person says what the others say.

Three questions, as in the meta-evaluation of machine translation (Mathur et al. 2020; Freitag et al. 2023): does the
metric choose the picture that people choose (pairwise), does it order pictures as they do (pointwise), does it order
models as they do (ordering)? Votes on one prompt move together, so intervals resample whole prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from naruto_core.ratings import Outcome, Rating

Array = NDArray[np.float64]
ENOUGH_VOTES, ENOUGH_PROMPTS, ENOUGH_MODELS = 30, 10, 4


@dataclass(frozen=True, slots=True)
class Agreeing:
    """A share (0 to 1, pairwise) or a rank correlation (-1 to 1), its 95 % interval, and the votes, pictures or models
    (`n`) and prompts behind it."""

    value: float
    low: float
    high: float
    n: int
    prompts: int

    @property
    def enough(self) -> bool:
        return self.n >= ENOUGH_VOTES and self.prompts >= ENOUGH_PROMPTS


def pairwise(ratings: Sequence[Rating], scores: Mapping[str, float], better: int) -> Agreeing | None:
    """How often the metric chooses as people did, in votes that decided; half where it cannot choose. `better` is -1
    where less is better. None without such votes."""
    return _share([(one.prompt, _hit(one, scores, better)) for one in _decided(ratings) if _scored(one, scores)])


def ceiling(ratings: Sequence[Rating]) -> Agreeing | None:
    """How often one person chooses as most of the others did on the same unit; half where those are split."""
    units: dict[int, list[Rating]] = {}
    for one in _decided(ratings):
        units.setdefault(one.unit_id, []).append(one)
    found: list[tuple[str, float]] = []
    for together in units.values():
        chosen = [_chosen(one) for one in together]
        for place, one in enumerate(together):
            others = chosen[:place] + chosen[place + 1 :]
            if others:
                share = others.count(chosen[place]) / len(others)
                found.append((one.prompt, 0.5 if share == 0.5 else float(share > 0.5)))
    return _share(found)


def pointwise(ratings: Sequence[Rating], scores: Mapping[str, float], better: int) -> Agreeing | None:
    """Spearman's correlation of a picture's share of votes won (ties are half) with its score; None for fewer than
    three pictures, or where one of the two is the same for all."""
    won: dict[str, list[float]] = {}
    prompts: dict[str, str] = {}
    for one in ratings:
        for place, sample in enumerate(one.samples):
            if sample in scores and isinstance(one.answer, Outcome):
                won.setdefault(sample, []).append(_won(one.answer, place))
                prompts[sample] = one.prompt
    samples = sorted(won)
    people: Array = np.array([float(np.mean(won[sample])) for sample in samples], dtype=np.float64)
    metric = better * np.array([scores[sample] for sample in samples])
    if len(samples) < 3 or np.ptp(people) == 0 or np.ptp(metric) == 0:
        return None
    groups = [prompts[sample] for sample in samples]
    value, low, high = _resampled(groups, lambda rows: _spearman(people[rows], metric[rows]))
    return Agreeing(value, low, high, len(samples), len(set(groups)))


def ordering(strengths: Mapping[str, float], means: Mapping[str, float], better: int) -> tuple[float, int]:
    """Kendall's tau-b of models by people and by metric, -1 to 1, and how many models; NaN for fewer than two."""
    names = sorted(set(strengths) & set(means))
    if len(names) < 2:
        return float("nan"), len(names)
    tau = stats.kendalltau([strengths[name] for name in names], [better * means[name] for name in names])[0]
    return float(np.asarray(tau)), len(names)


def _decided(ratings: Sequence[Rating]) -> list[Rating]:
    return [one for one in ratings if one.answer in (Outcome.LEFT, Outcome.RIGHT)]


def _scored(one: Rating, scores: Mapping[str, float]) -> bool:
    return all(sample in scores for sample in one.samples)


def _chosen(one: Rating) -> str:
    return one.samples[0 if one.answer is Outcome.LEFT else 1]


def _hit(one: Rating, scores: Mapping[str, float], better: int) -> float:
    left, right = (better * scores[sample] for sample in one.samples)
    return 0.5 if left == right else float((left > right) == (one.answer is Outcome.LEFT))


def _won(answer: Outcome, place: int) -> float:
    if answer in (Outcome.TIE, Outcome.BOTH_BAD):
        return 0.5
    return float((answer is Outcome.LEFT) == (place == 0))


def _share(hits: Sequence[tuple[str, float]]) -> Agreeing | None:
    if not hits:
        return None
    groups, values = [prompt for prompt, _ in hits], np.array([hit for _, hit in hits])
    value, low, high = _resampled(groups, lambda rows: float(values[rows].mean()))
    return Agreeing(value, low, high, len(hits), len(set(groups)))


def _spearman(one: Array, other: Array) -> float:
    ranks = stats.rankdata(one), stats.rankdata(other)
    if np.ptp(ranks[0]) == 0 or np.ptp(ranks[1]) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _resampled(
    groups: Sequence[str], measure: Callable[[NDArray[np.intp]], float], resamples: int = 500
) -> tuple[float, float, float]:
    """`measure` of all rows, and its interval: the deviation over resampled prompts times Student's t."""
    names, member = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(member == i) for i in range(len(names))]
    value = measure(np.arange(len(groups)))
    if len(names) < 2:
        return value, -np.inf, np.inf
    draw = np.random.default_rng(0)
    found = [
        measure(np.concatenate([members[i] for i in draw.integers(len(names), size=len(names))]))
        for _ in range(resamples)
    ]
    widened = np.nanstd(found, ddof=1) * np.sqrt(len(names) / (len(names) - 1))
    reach = float(stats.t.ppf(0.975, len(names) - 1) * widened)
    return value, value - reach, value + reach
