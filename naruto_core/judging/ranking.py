"""The ranking of models by people's votes: Bradley-Terry strengths, corrected for the bias towards the left side.

log-odds of "left is better" = strength of the left model - strength of the right model + bias of the left side (Bradley
& Terry 1952; the bias term is Davidson & Beaver 1977's). A tie, or "both bad", is half a vote for either side: it draws
strengths together and leaves the scale as it is. Strengths have a normal prior of standard deviation `PRIOR`, so that a
model that won every vote has a finite strength. Votes are summed by prompt first: votes on one prompt depend on each
other, so that intervals are over whole prompts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import root_scalar
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit

from naruto_core.errors import NarutoError
from naruto_core.intervals import LEVEL
from naruto_core.ratings import Outcome

Array = NDArray[np.float64]
EFFECT = 0.4  # log-odds, of the differences that intervals are narrowest for: a win rate of 60 %
PRIOR = 3.0  # log-odds; 95 % of strengths within a factor of 350
_FOR_LEFT = {Outcome.LEFT: 1.0, Outcome.RIGHT: 0.0, Outcome.TIE: 0.5, Outcome.BOTH_BAD: 0.5}
_NEWTON_STEPS, _TOLERANCE = 50, 1e-10
_FARTHEST = 30.0  # log-odds: a bound farther away is none


@dataclass(frozen=True, slots=True)
class Vote:
    """A vote, or `count` equal votes: the prompt, the models on either side, and the outcome."""

    prompt: str
    left: str
    right: str
    outcome: Outcome
    count: int = 1


@dataclass(frozen=True, slots=True)
class Strength:
    """A model's strength in log-odds (the mean of all is 0) with its 95 % interval, and the number of its votes."""

    model: str
    value: float
    low: float
    high: float
    votes: int


@dataclass(frozen=True, slots=True)
class Gap:
    """The strength of one model minus that of another, in log-odds, with its anytime-valid 95 % interval.

    error: its standard error, from the votes or from the differences between prompts, whichever is larger.
    """

    value: float
    low: float
    high: float
    error: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """Models, strongest first. `left` is the bias of the left side in log-odds, with "left" as its model.

    `gaps` are by the positions of two models: of the first minus the second.
    """

    models: tuple[Strength, ...]
    left: Strength
    gaps: Mapping[tuple[int, int], Gap]


def rank(votes: Sequence[Vote]) -> Ranking:
    """Strengths of all models in `votes`, with anytime-valid intervals.

    People look at votes while they come in, and stop when they like what they see. A usual 95 % interval is then wrong
    far more often than in 5 % of campaigns; these intervals, a confidence sequence (see `reach`), are not. Standard
    errors are the larger one of the model's own and of the sandwich over prompts (Liang & Zeger 1986).

    Raises NarutoError when there are no votes, when a model was shown against itself, and when no chain of comparisons
    connects some models: it is then unknown which of them is stronger.
    """
    names = sorted({name for vote in votes for name in (vote.left, vote.right)})
    won, total = _tables(votes, names)
    _check_connected(names, total.sum(axis=0))
    fit, k = _Fit.of(won, total), len(names)
    counts = total.sum(axis=0).sum(axis=0) + total.sum(axis=0).sum(axis=1)
    order = np.argsort(-fit.parameters[:-1], kind="stable").tolist()
    contrasts = np.eye(k + 1)
    centred = contrasts[:k] - np.append(np.full(k, 1 / k), 0.0)
    models = tuple(_strength(names[i], fit.gap(centred[i]), int(counts[i])) for i in order)
    gaps = {
        (i, j): fit.gap(contrasts[first] - contrasts[second])
        for i, first in enumerate(order)
        for j, second in enumerate(order)
        if i != j
    }
    left = _strength("left", fit.gap(contrasts[k]), sum(vote.count for vote in votes))
    return Ranking(models, left, gaps)


def reach(information: float) -> float:
    """How many standard errors a confidence sequence reaches on either side, at this information (1 / error^2).

    The normal mixture of Robbins (1970), with effects of standard deviation `EFFECT`: an estimate whose information
    grows as votes come in is ever farther from the truth than reach x error in at most 5 % of campaigns
    (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, "Time-uniform central limit theory", theorem 2.2).
    """
    mixed = EFFECT**-2
    return math.sqrt((1 + mixed / information) * math.log((information + mixed) / (mixed * LEVEL**2)))


@dataclass(frozen=True, slots=True)
class _Fit:
    """Fitted parameters (k + 1,), their covariances (k + 1, k + 1) by the model and by the sandwich, and the number of
    prompts."""

    parameters: Array
    model: Array
    sandwich: Array
    prompts: int

    @staticmethod
    def of(won: Array, total: Array) -> "_Fit":
        """The fit to votes (p, k, k), see `_tables`."""
        fitted, prompts = _fit(won.sum(axis=0), total.sum(axis=0)), len(won)
        model = np.asarray(np.linalg.inv(_information(total.sum(axis=0), fitted)), dtype=np.float64)
        surplus = won - total * _expected(fitted)
        by_prompt = np.column_stack([surplus.sum(axis=2) - surplus.sum(axis=1), surplus.sum(axis=(1, 2))])
        sandwich = model @ (by_prompt.T @ by_prompt) @ model * prompts / max(1, prompts - 1)
        return _Fit(fitted, model, sandwich, prompts)

    def gap(self, contrast: Array) -> Gap:
        """`contrast` (k + 1,) of the parameters; without an interval where votes are on one prompt only.

        Near certainty log-odds are far from normal, so that the interval is that of a win rate with as many trials as
        have the same error: all rates whose deviance is at most reach^2 (Chernoff's bound; Garivier & Cappe 2011). The
        sandwich comes from few prompts: its reach is the quantile of Student's t with the same tail.
        """
        value = float(contrast @ self.parameters)
        model, sandwich = (max(float(contrast @ x @ contrast), 1e-12) for x in (self.model, self.sandwich))
        error = math.sqrt(max(model, sandwich))
        if self.prompts < 2:
            return Gap(value, -math.inf, math.inf, error)
        variance = float(expit(value) * expit(-value))
        normal = reach(1 / (max(model, sandwich) * variance) / 4)
        heavy = float(stats.t.isf(stats.norm.sf(normal), self.prompts - 1))
        trials = 1 / (max(model, sandwich * (heavy / normal) ** 2) * variance)
        return Gap(value, *_rates_within(value, normal**2 / 2 / trials), error)


def _rates_within(value: float, divergence: float) -> tuple[float, float]:
    """The log-odds on either side of `value` whose Kullback-Leibler divergence from it is `divergence`."""
    rate = expit(value)

    def excess(other: float) -> float:
        won, lost = log_expit(value) - log_expit(other), log_expit(-value) - log_expit(-other)
        return float(rate * won + (1 - rate) * lost - divergence)

    low, high = value - _FARTHEST, value + _FARTHEST
    return (
        float(root_scalar(excess, bracket=(low, value)).root) if excess(low) > 0 else -math.inf,
        float(root_scalar(excess, bracket=(value, high)).root) if excess(high) > 0 else math.inf,
    )


def _strength(name: str, gap: Gap, votes: int) -> Strength:
    return Strength(name, gap.value, gap.low, gap.high, votes)


def _tables(votes: Sequence[Vote], names: Sequence[str]) -> tuple[Array, Array]:
    """Votes for the left (p, k, k) and all votes (p, k, k), by prompt, left model and right model."""
    if not votes:
        raise NarutoError("there are no votes yet: nothing can be ranked.")
    row = {name: i for i, name in enumerate(names)}
    prompts = {prompt: i for i, prompt in enumerate(sorted({vote.prompt for vote in votes}))}
    won = np.zeros((len(prompts), len(names), len(names)))
    total = np.zeros_like(won)
    for vote in votes:
        if vote.left == vote.right:
            raise NarutoError(f"{vote.left} was shown against itself on {vote.prompt}; such a vote has no meaning.")
        cell = prompts[vote.prompt], row[vote.left], row[vote.right]
        won[cell] += _FOR_LEFT[vote.outcome] * vote.count
        total[cell] += vote.count
    return won, total


def _check_connected(names: Sequence[str], total: Array) -> None:
    parts, member = connected_components(total, directed=False)
    if parts > 1:
        groups = [", ".join(name for name, part in zip(names, member, strict=True) if part == i) for i in range(parts)]
        raise NarutoError(
            f"these were never compared with each other: {'; '.join(groups)}. Start a campaign that connects them."
        )


def _fit(won: Array, total: Array) -> Array:
    """Strengths (mean 0) and bias of the left side, (k + 1,), that maximise the penalised likelihood (Newton).

    `won` (k, k) are the votes for the left model of all votes `total` (k, k), by left and right model.
    """
    k = len(won)
    parameters = np.zeros(k + 1)
    for _ in range(_NEWTON_STEPS):
        surplus = won - total * _expected(parameters)
        gradient = np.append(surplus.sum(axis=1) - surplus.sum(axis=0), surplus.sum()) - parameters / PRIOR**2
        step = np.linalg.solve(_information(total, parameters), gradient)
        parameters = parameters + step / max(1.0, float(np.abs(step).max()))  # at most 1 in log-odds at a time
        if np.abs(step).max() < _TOLERANCE:
            break
    parameters[:k] -= parameters[:k].mean()
    return parameters


def _expected(parameters: Array) -> Array:
    """The probability (k, k) of a vote for the left side, by left and right model."""
    return expit(parameters[:-1, None] - parameters[None, :-1] + parameters[-1])


def _information(total: Array, parameters: Array) -> Array:
    """The information matrix (k + 1, k + 1) of votes and prior; its inverse is the posterior covariance near
    `parameters`."""
    k, expected = len(total), _expected(parameters)
    weight = total * expected * (1 - expected)
    both = weight + weight.T
    matrix = np.diag(np.full(k + 1, 1 / PRIOR**2))
    matrix[:k, :k] += np.diag(both.sum(axis=1)) - both
    matrix[:k, k] += weight.sum(axis=1) - weight.sum(axis=0)
    matrix[k, :k] += weight.sum(axis=1) - weight.sum(axis=0)
    matrix[k, k] += weight.sum()
    return matrix


def most_informative_pair(names: Sequence[str], votes: Sequence[Vote]) -> tuple[str, str]:
    """The two of `names` for which the next vote is expected to reduce the variance of their difference most.

    A vote with outcome variance pq on a difference with variance v leaves the variance v / (1 + v pq): a step of
    Laplace's approximation. The criterion is Chatbot Arena's (Chiang et al. 2024, section 4). Votes on other models are
    not used.
    """
    models = sorted(set(names))
    relevant = [vote for vote in votes if {vote.left, vote.right} <= set(models)]
    no_votes = np.zeros((len(models), len(models)))
    won, total = (table.sum(axis=0) for table in _tables(relevant, models)) if relevant else (no_votes, no_votes)
    parameters = _fit(won, total)
    covariance = np.linalg.inv(_information(total, parameters))[:-1, :-1]
    variance = np.diag(covariance)[:, None] + np.diag(covariance)[None, :] - 2 * covariance
    chance = expit(parameters[:-1, None] - parameters[None, :-1])
    outcome_variance = chance * (1 - chance)
    reduction = np.triu(variance**2 * outcome_variance / (1 + variance * outcome_variance), 1)
    first, second = np.unravel_index(int(reduction.argmax()), reduction.shape)
    return models[int(first)], models[int(second)]
