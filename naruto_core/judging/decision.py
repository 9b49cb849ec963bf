"""The decision between two models: which is better, how many more votes would decide it, and the win rates so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats

from naruto_core.judging.ranking import Ranking, Vote
from naruto_core.ratings import Outcome

_MOST_VOTES = 20  # times the votes so far: reviewers do not cast more


class PairVerdict(StrEnum):
    """Whether the stronger of two models is better by the votes."""

    BETTER = "better"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class PairDecision:
    """The decision between two models that are neighbours in the ranking.

    chance: the probability, 0 to 1, that `stronger` is stronger.
    needed: the votes that are still needed; 0 when it is decided, None when it would take more than 20 times the votes
        so far: the two are nearly equal.
    """

    stronger: str
    weaker: str
    chance: float
    verdict: PairVerdict
    needed: int | None


@dataclass(frozen=True, slots=True)
class WinRate:
    """The share of votes that a model won, 0 to 1, ties as half, with a 95 % interval over prompts (Student's t)."""

    model: str
    value: float
    low: float
    high: float
    votes: int
    prompts: int


def decide_pairs(ranking: Ranking, votes: Sequence[Vote]) -> list[PairDecision]:
    """The decision between each two neighbours of `ranking`, top first.

    With n votes the difference is d standard errors from zero, and standard errors shrink with the root of the votes:
    with (z / d)^2 n votes, on as many more prompts, it would be z, the 97.5 % point.
    """
    pairs = zip(ranking.models, ranking.models[1:], strict=False)
    return [
        _decide(ranking, position, stronger.model, weaker.model, votes)
        for position, (stronger, weaker) in enumerate(pairs)
    ]


def _decide(ranking: Ranking, position: int, stronger: str, weaker: str, votes: Sequence[Vote]) -> PairDecision:
    chance = float(ranking.better[position, position + 1])
    n = sum(vote.count for vote in votes if {vote.left, vote.right} & {stronger, weaker})
    z = float(stats.norm.ppf(0.975))
    deviations = float(stats.norm.ppf(min(max(chance, 0.5), 1 - 1e-9)))
    if deviations >= z:
        return PairDecision(stronger, weaker, chance, PairVerdict.BETTER, 0)
    if deviations <= z / math.sqrt(_MOST_VOTES):
        return PairDecision(stronger, weaker, chance, PairVerdict.UNDECIDED, None)
    needed = math.ceil(n * ((z / deviations) ** 2 - 1))
    return PairDecision(stronger, weaker, chance, PairVerdict.UNDECIDED, needed)


def win_rates(votes: Sequence[Vote]) -> list[WinRate]:
    """The win rate of every model, the best first; every prompt has the same weight, whatever its number of votes."""
    names = sorted({name for vote in votes for name in (vote.left, vote.right)})
    return sorted((_win_rate(name, votes) for name in names), key=lambda rate: -rate.value)


def _win_rate(name: str, votes: Sequence[Vote]) -> WinRate:
    by_prompt: dict[str, list[tuple[float, int]]] = {}
    for vote in votes:
        if name in (vote.left, vote.right):
            by_prompt.setdefault(vote.prompt, []).append((_won(name, vote), vote.count))
    means = np.array([sum(won * n for won, n in wins) / sum(n for _, n in wins) for wins in by_prompt.values()])
    margin = math.inf
    if len(means) > 1:
        margin = float(stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means)))
    value, count = float(means.mean()), sum(n for wins in by_prompt.values() for _, n in wins)
    return WinRate(name, value, max(0.0, value - margin), min(1.0, value + margin), count, len(means))


def _won(name: str, vote: Vote) -> float:
    if vote.outcome in (Outcome.TIE, Outcome.BOTH_BAD):
        return 0.5
    return float((vote.outcome is Outcome.LEFT) == (vote.left == name))
