"""How often the decisions and forecasts of votes are right, when people look while the votes come in."""

from collections.abc import Iterator

import numpy as np
from scipy import stats

from naruto_core.errors import NarutoError
from naruto_core.judging.decision import PairDecision, PairVerdict, decide_pairs, win_rates
from naruto_core.judging.ranking import Vote, rank, reach
from naruto_core.ratings import Outcome
from tests.benchmarks.bench_rates import Rate, at_least, at_most
from tests.benchmarks.equal_models import LEFT_BIAS, false_better


def rates(seconds: float) -> Iterator[Rate]:
    """Every claim with its rate, in about so many seconds."""
    n, many = max(40, round(seconds * 0.7)), max(2000, round(seconds * 50))
    for prompts, differences in ((44, 0.0), (44, 0.5), (44, 1.0), (8, 0.7), (4, 0.7)):
        claim = f'equal models are ever "better" in 500 votes, a look after each ({prompts} prompts, sd {differences})'
        yield at_most(claim, false_better(many, 500, prompts, differences), many, 0.05)
    claim = 'four equal models: any neighbour is ever "better" in 500 votes, a look every 10'
    yield at_most(claim, false_decisions(n, 500, 10, 44, 0.5, models=4), n, 0.05)
    yield at_least("better by 62 % of votes is found within 500 votes", power(n, 0.5, 500), n, 0.8)
    yield at_least("better by 69 % of votes is found within 150 votes", power(n, 0.8, 150), n, 0.6)
    yield at_most('models with a win rate of 62 % are called "equal" in 600 votes', called_equal(n, 0.5, 600), n, 0.05)
    yield at_least('equal models are called "equal" within 800 votes', called_equal(n, 0.0, 800), n, 0.8)
    held, shown = ranges_that_hold(4 * n)
    yield at_least("the range of further votes holds", held, shown, 0.8)
    covered = win_rate_coverage(10 * n, 5)
    yield at_least("the interval of a win rate covers (5 prompts, 1 vote each)", covered, 10 * n, 0.95)


def campaign(
    rng: np.random.Generator, votes: int, gap: float = 0.0, prompts: int = 44, differences: float = 0.3, models: int = 2
) -> list[Vote]:
    """Votes on models of which the first is stronger by `gap`; prompts move each model's strength by `differences`."""
    strengths = rng.normal(0, differences, (prompts, models)) + np.append(gap, np.zeros(models - 1))
    cast: list[Vote] = []
    for prompt in rng.integers(prompts, size=votes).tolist():
        left, right = rng.permutation(models)[:2].tolist()
        likely = 1 / (1 + np.exp(strengths[prompt, right] - strengths[prompt, left] - LEFT_BIAS))
        outcome = Outcome.LEFT if rng.random() < likely else Outcome.RIGHT
        cast.append(Vote(str(prompt), f"m{left}", f"m{right}", outcome))
    return cast


def decisions(votes: list[Vote]) -> list[PairDecision]:
    """The decisions after these votes; none where they give no ranking yet."""
    try:
        return decide_pairs(rank(votes), votes)
    except NarutoError:
        return []


def false_decisions(
    campaigns: int, votes: int, every: int, prompts: int = 44, differences: float = 0.5, models: int = 2
) -> float:
    """The share of campaigns of equal models in which any look finds one of them better."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(campaigns):
        cast = campaign(rng, votes, 0.0, prompts, differences, models)
        looks = (decisions(cast[:n]) for n in range(every, votes + 1, every))
        wrong += any(decision.verdict is PairVerdict.BETTER for look in looks for decision in look)
    return wrong / campaigns


def power(campaigns: int, gap: float, votes: int) -> float:
    """The share of campaigns in which the better model is called so after so many votes."""
    rng = np.random.default_rng(6)
    looks = (decisions(campaign(rng, votes, gap)) for _ in range(campaigns))
    return float(np.mean([look[0].verdict is PairVerdict.BETTER and look[0].stronger == "m0" for look in looks]))


def called_equal(campaigns: int, gap: float, votes: int) -> float:
    """The share of campaigns in which two models are called equal after so many votes."""
    rng = np.random.default_rng(7)
    looks = (decisions(campaign(rng, votes, gap, differences=0.0)) for _ in range(campaigns))
    return float(np.mean([look[0].verdict is PairVerdict.EQUAL for look in looks]))


def ranges_that_hold(campaigns: int) -> tuple[float, int]:
    """The share of the ranges of further votes that hold the true number, and how many were shown.

    True is the number of votes, on as many prompts, after which 80 % of campaigns are decided.
    """
    rng, held = np.random.default_rng(8), list[bool]()
    for _ in range(campaigns):
        gap, votes = float(rng.uniform(0.05, 1.2)), int(rng.choice([40, 100, 200]))
        for decision in decisions(campaign(rng, votes, gap, prompts=votes, differences=0.0)):
            if decision.more is not None:
                needed, more = max(0.0, true_votes(gap) - votes), decision.more
                held.append(more.low <= needed and (more.high is None or needed <= more.high))
    return float(np.mean(held)), len(held)


def true_votes(gap: float) -> float:
    """The votes with which a gap in log-odds is decided with 80 % power, when either side is left equally often."""
    likely = (1 / (1 + np.exp(-gap - LEFT_BIAS)), 1 / (1 + np.exp(-gap + LEFT_BIAS)))
    information = float(np.mean([p * (1 - p) for p in likely]))  # of one vote
    counts = np.arange(10, 20_000)
    decided = gap * np.sqrt(counts * information) - np.array([reach(n * information) for n in counts])
    enough = np.flatnonzero(decided >= stats.norm.ppf(0.8))
    return float(counts[enough[0]]) if len(enough) else np.inf


def win_rate_coverage(campaigns: int, prompts: int) -> float:
    """The share of campaigns of one vote a prompt in which the interval holds the true win rate of 0.8."""
    rng, hits = np.random.default_rng(9), 0
    for _ in range(campaigns):
        won = rng.random(prompts) < 0.8
        votes = [Vote(str(i), "a", "b", Outcome.LEFT if win else Outcome.RIGHT) for i, win in enumerate(won)]
        rate = next(rate for rate in win_rates(votes) if rate.model == "a")
        hits += rate.low <= 0.8 <= rate.high
    return hits / campaigns
