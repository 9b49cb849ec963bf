"""The decision between two models: which is better, how many more votes would decide it, and the win rates so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats
from scipy.special import expit

from naruto_core.intervals import POWER, Forecast, effective_trials, exact_share, forecast
from naruto_core.judging.ranking import Gap, Ranking, Vote, reach
from naruto_core.ratings import Outcome

_RATES = np.arange(51, 96) / 100  # that are looked at, as they are shown; above, the normal approximation ends
EQUAL_WITHIN = 0.1  # two models are equal when the win rate between them lies within 0.5 +- this


class PairVerdict(StrEnum):
    """Whether the stronger of two models is better by the votes."""

    BETTER = "better"
    EQUAL = "equal"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class PairDecision:
    """The decision between two models that are neighbours in the ranking.

    win_rate, low, high: the probability, 0 to 1, that `stronger` wins a comparison with `weaker`, ties as half, and its
        anytime-valid 95 % interval. The verdict says where the interval lies: above 0.5 (better), within 0.5 +-
        `EQUAL_WITHIN` (equal), or neither (undecided).
    votes: the votes on either of the two.
    more: the further votes that would decide it; None when it is decided.
    """

    stronger: str
    weaker: str
    win_rate: float
    low: float
    high: float
    votes: int
    verdict: PairVerdict
    more: Forecast | None


@dataclass(frozen=True, slots=True)
class WinRate:
    """The share of votes that a model won, 0 to 1, ties as half, with an anytime-valid 95 % interval over prompts."""

    model: str
    value: float
    low: float
    high: float
    votes: int
    prompts: int


def decide_pairs(ranking: Ranking, votes: Sequence[Vote]) -> list[PairDecision]:
    """The decision between each two neighbours of `ranking`, top first."""
    pairs = zip(ranking.models, ranking.models[1:], strict=False)
    return [
        _decide(ranking.gaps[position, position + 1], stronger.model, weaker.model, votes)
        for position, (stronger, weaker) in enumerate(pairs)
    ]


def _decide(gap: Gap, stronger: str, weaker: str, votes: Sequence[Vote]) -> PairDecision:
    n = sum(vote.count for vote in votes if {vote.left, vote.right} & {stronger, weaker})
    win_rate, low, high = (float(expit(x)) for x in (gap.value, gap.low, gap.high))
    verdict, more = PairVerdict.UNDECIDED, None
    if low > 0.5:
        verdict = PairVerdict.BETTER
    elif low > 0.5 - EQUAL_WITHIN and high < 0.5 + EQUAL_WITHIN:
        verdict = PairVerdict.EQUAL
    else:
        more = forecast(gap.value, gap.error, n, lambda effect: _needed(effect, gap.error, n))
    return PairDecision(stronger, weaker, win_rate, low, high, n, verdict, more)


def _needed(effect: float, error: float, n: int) -> float:
    """The votes, in all, with which an anytime-valid interval excludes 0 with 80 % power, at a true gap of `effect`.

    Errors shrink with the root of the votes: n votes, on as many prompts, gave `error`. The reach grows slowly with the
    votes, so that four steps from its smallest value are enough.
    """
    total, power = float(n), float(stats.norm.ppf(POWER))
    for _ in range(4):
        total = n * ((reach(total / n / error**2) + power) * error / effect) ** 2
    return total


def detectable_win_rate(votes: int, models: int) -> float:
    """The smallest win rate between two models, 0.5 to 1, that a campaign decides with 80 % power; 1.0 for none.

    `votes` are all votes of the campaign, spread evenly over the pairs of `models`. A strength is known from all pairs
    of its model, so that each of two strengths rests on as many votes as votes / (models - 1) direct comparisons would
    give. The interval is the anytime-valid one of the results. Prompts are taken to be alike and nobody to vote
    "equal": both make the true rate larger.
    """
    if models < 2 or votes < models - 1:
        return 1.0
    direct, power = votes / (models - 1), float(stats.norm.ppf(POWER))

    def missing(rate: float) -> float:
        error = 1 / math.sqrt(direct * rate * (1 - rate))
        return (reach(error**-2) + power) * error - math.log(rate / (1 - rate))

    return next((float(rate) for rate in _RATES if missing(float(rate)) <= 0), 1.0)


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
    value, count, prompts = float(means.mean()), sum(n for wins in by_prompt.values() for _, n in wins), len(means)
    error = float(means.std(ddof=1)) / math.sqrt(prompts) if prompts > 1 else math.inf
    trials = effective_trials(value, error, prompts, count)
    interval = exact_share(value, trials, float(stats.norm.sf(reach(trials / 4))))  # 4 / trials: variance of log-odds
    return WinRate(name, value, interval.low, interval.high, count, prompts)


def _won(name: str, vote: Vote) -> float:
    if vote.outcome in (Outcome.TIE, Outcome.BOTH_BAD):
        return 0.5
    return float((vote.outcome is Outcome.LEFT) == (vote.left == name))
