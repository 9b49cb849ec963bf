"""Whether more votes would change anything: how many more would tell two models apart, and what is said so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats

from naruto_core.judging.ranking import Ranking, Vote
from naruto_core.ratings import Outcome

_HOPELESS = 20  # times the votes there are: nobody will look at so many


class PairVerdict(StrEnum):
    """What the votes say of the stronger of two models."""

    BETTER = "better"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class PairDecision:
    """Of two models, the stronger first: the chance that it is stronger, what may be said, and the votes still needed.

    `needed` is 0 when it is decided, and None when it would take more than people have time for: the two are as good as
    equal.
    """

    stronger: str
    weaker: str
    chance: float
    verdict: PairVerdict
    needed: int | None


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often a model won, ties as half a win, with a 95 % interval over prompts (Student's t), 0 to 1."""

    model: str
    value: float
    low: float
    high: float
    votes: int
    prompts: int


def decisions(ranking: Ranking, votes: Sequence[Vote]) -> list[PairDecision]:
    """One for each two neighbours of `ranking`, top first.

    With `n` votes the difference is d deviations from zero, and deviations shrink with the root of votes: (z / d)^2 n
    votes on as many more prompts would make it z, the 97.5 % point.
    """
    pairs = zip(ranking.models, ranking.models[1:], strict=False)
    return [_decide(ranking, place, one.model, two.model, votes) for place, (one, two) in enumerate(pairs)]


def _decide(ranking: Ranking, place: int, one: str, two: str, votes: Sequence[Vote]) -> PairDecision:
    chance = float(ranking.better[place, place + 1])
    n = sum(vote.count for vote in votes if {vote.left, vote.right} & {one, two})
    z = float(stats.norm.ppf(0.975))
    away = float(stats.norm.ppf(min(max(chance, 0.5), 1 - 1e-9)))
    if away >= z:
        return PairDecision(one, two, chance, PairVerdict.BETTER, 0)
    if away <= z / math.sqrt(_HOPELESS):
        return PairDecision(one, two, chance, PairVerdict.UNDECIDED, None)
    return PairDecision(one, two, chance, PairVerdict.UNDECIDED, math.ceil(n * ((z / away) ** 2 - 1)))


def win_rates(votes: Sequence[Vote]) -> list[WinRate]:
    """Of every model, the best first; a prompt counts as much as another, however many voted on it."""
    names = sorted({name for vote in votes for name in (vote.left, vote.right)})
    return sorted((_win_rate(name, votes) for name in names), key=lambda rate: -rate.value)


def _win_rate(name: str, votes: Sequence[Vote]) -> WinRate:
    by_prompt: dict[str, list[tuple[float, int]]] = {}
    for vote in votes:
        if name in (vote.left, vote.right):
            by_prompt.setdefault(vote.prompt, []).append((_won(name, vote), vote.count))
    means = np.array([sum(won * n for won, n in found) / sum(n for _, n in found) for found in by_prompt.values()])
    reach = math.inf
    if len(means) > 1:
        reach = float(stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means)))
    value, count = float(means.mean()), sum(n for found in by_prompt.values() for _, n in found)
    return WinRate(name, value, max(0.0, value - reach), min(1.0, value + reach), count, len(means))


def _won(name: str, vote: Vote) -> float:
    if vote.outcome in (Outcome.TIE, Outcome.BOTH_BAD):
        return 0.5
    return float((vote.outcome is Outcome.LEFT) == (vote.left == name))
