"""Thousands of campaigns of two equal models at once, with a look after every vote: how often one is ever "better".

`judging.ranking` fits one campaign in a millisecond, and a look after each of 500 votes in 2,000 campaigns is a million
fits. Here the same model of two contenders is fitted to all campaigns together, in two parameters: the gap of the
strengths and the bias towards the left side. `tests/naruto_core/judging/test_judging_votes.py` compares both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from naruto_core.intervals import LEVEL
from naruto_core.judging.ranking import EFFECT, PRIOR

LEFT_BIAS = 0.3  # log-odds
_AT_ONCE = 2000  # campaigns
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Campaigns:
    """Votes (c, n) of c campaigns: the prompt, 1 where the first model is on the right side, 1 where left wins."""

    prompts: int
    prompt: NDArray[np.intp]
    exchanged: NDArray[np.intp]
    left_wins: NDArray[np.bool_]


def simulated_campaigns(
    rng: np.random.Generator, campaigns: int, votes: int, prompts: int, differences: float, gap: float = 0.0
) -> Campaigns:
    """Campaigns of two models, the first stronger by `gap`; prompts move each model's strength by `differences`.

    Both are in log-odds.
    """
    gaps = gap + rng.normal(0, differences, (campaigns, prompts, 2)) @ np.array([1.0, -1.0])
    prompt = rng.integers(prompts, size=(campaigns, votes))
    exchanged = rng.integers(2, size=(campaigns, votes))
    of_left = np.take_along_axis(gaps, prompt, axis=1) * (1 - 2 * exchanged)
    return Campaigns(prompts, prompt, exchanged, rng.random((campaigns, votes)) < expit(of_left + LEFT_BIAS))


def first_better(campaigns: Campaigns) -> NDArray[np.intp]:
    """For each campaign (c,), the number of votes before the first one after which one model is better; n for none."""
    count, votes = campaigns.prompt.shape
    won, total = np.zeros((2, count, campaigns.prompts, 2))
    fitted, first, each = np.zeros((2, count)), np.full(count, votes), np.arange(count)
    for vote in range(votes):
        cell = each, campaigns.prompt[:, vote], campaigns.exchanged[:, vote]
        total[cell] += 1
        won[cell] += campaigns.left_wins[:, vote]
        fitted = _fit(won.sum(axis=1), total.sum(axis=1), fitted)
        first = np.where((first == votes) & _better(won, total, fitted), vote, first)
    return first


def _expected(fitted: Array) -> Array:
    """The chance (c, 2) of a vote for the left side: as they are, and with exchanged sides."""
    return expit(np.stack([fitted[0], -fitted[0]], axis=1) + fitted[1][:, None])


def _information(total: Array, fitted: Array) -> tuple[Array, Array, Array]:
    """The entries (c,) of the information on gap and bias: gap, bias, and both. The strengths are +- half the gap."""
    expected = _expected(fitted)
    weight = total * expected * (1 - expected)
    both = weight.sum(axis=1)
    return both + 1 / (2 * PRIOR**2), both + 1 / PRIOR**2, weight[:, 0] - weight[:, 1]


def _fit(won: Array, total: Array, fitted: Array) -> Array:
    """Gap and bias (2, c) by Newton's method from the fit before this vote; `won` and `total` are (c, 2)."""
    for _ in range(20):
        surplus = won - total * _expected(fitted)
        gap, bias, mixed = _information(total, fitted)
        of_gap = surplus[:, 0] - surplus[:, 1] - fitted[0] / (2 * PRIOR**2)
        of_bias = surplus.sum(axis=1) - fitted[1] / PRIOR**2
        step = np.stack([bias * of_gap - mixed * of_bias, gap * of_bias - mixed * of_gap]) / (gap * bias - mixed**2)
        fitted = fitted + step / np.maximum(1.0, np.abs(step).max(axis=0))
        if np.abs(step).max() < 1e-8:
            break
    return fitted


def _better(won: Array, total: Array, fitted: Array) -> NDArray[np.bool_]:
    """Whether the interval of the win rate lies above 0.5; `won` and `total` are (c, prompts, 2). See `_Fit.gap`."""
    gap, bias, mixed = _information(total.sum(axis=1), fitted)
    surplus = won - total * _expected(fitted)[:, None]
    moved = bias[:, None] * (surplus[..., 0] - surplus[..., 1]) - mixed[:, None] * surplus.sum(axis=2)
    prompts = np.count_nonzero(total.sum(axis=2), axis=1)
    determinant = gap * bias - mixed**2
    model = bias / determinant
    sandwich = (moved**2).sum(axis=1) / determinant**2 * prompts / np.maximum(1, prompts - 1)
    variance = expit(fitted[0]) * expit(-fitted[0])
    precision, mixture = 1 / (np.maximum(model, sandwich) * variance) / 4, EFFECT**-2
    normal = np.sqrt((1 + mixture / precision) * np.log((precision + mixture) / (mixture * LEVEL**2)))
    rate = expit(np.abs(fitted[0]))
    divergence = rate * np.log(2 * rate) + (1 - rate) * np.log(2 * (1 - rate))
    near = (prompts > 1) & (divergence > normal**2 / 2 * np.maximum(model, sandwich) * variance)
    heavy = stats.t.isf(stats.norm.sf(normal[near]), prompts[near] - 1)
    widened = np.maximum(model[near], sandwich[near] * (heavy / normal[near]) ** 2) * variance[near]
    near[near] = divergence[near] > normal[near] ** 2 / 2 * widened
    return near


def false_better(campaigns: int, votes: int, prompts: int, differences: float, seed: int = 5) -> float:
    """The share of campaigns of two equal models in which a look after any vote finds one of them better."""
    rng, wrong = np.random.default_rng(seed), 0
    for start in range(0, campaigns, _AT_ONCE):
        some = min(_AT_ONCE, campaigns - start)
        wrong += int((first_better(simulated_campaigns(rng, some, votes, prompts, differences)) < votes).sum())
    return wrong / campaigns
