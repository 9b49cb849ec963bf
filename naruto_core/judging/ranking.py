"""The ranking of models by people's votes: Bradley-Terry strengths, corrected for the bias towards the left side.

log-odds of "left is better" = strength of the left model - strength of the right model + bias of the left side (Bradley
& Terry 1952; the bias term is Davidson & Beaver 1977's). A tie, or "both bad", is half a vote for either side: it draws
strengths together and leaves the scale as it is. Strengths have a normal prior of standard deviation `PRIOR`, so that a
model that won every vote has a finite strength. Votes are summed by prompt first: votes on one prompt depend on each
other, so that intervals resample whole prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from naruto_core.errors import NarutoError
from naruto_core.ratings import Outcome

Array = NDArray[np.float64]
PRIOR = 3.0  # log-odds; 95 % of strengths within a factor of 350
_FOR_LEFT = {Outcome.LEFT: 1.0, Outcome.RIGHT: 0.0, Outcome.TIE: 0.5, Outcome.BOTH_BAD: 0.5}
_NEWTON_STEPS, _TOLERANCE = 50, 1e-10


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
class Ranking:
    """Models, strongest first. `left` is the bias of the left side in log-odds, with "left" as its model.

    `better` (k, k) is the probability, 0 to 1, that the row's model is stronger than the column's, in the order of
    `models`.
    """

    models: tuple[Strength, ...]
    left: Strength
    better: Array


def rank(votes: Sequence[Vote], resamples: int, seed: int) -> Ranking:
    """Strengths of all models in `votes`; intervals from `resamples` of whole prompts, drawn with `seed`.

    Raises NarutoError when there are no votes, when a model was shown against itself, and when no chain of comparisons
    connects some models: it is then unknown which of them is stronger.
    """
    names = sorted({name for vote in votes for name in (vote.left, vote.right)})
    won, total = _tables(votes, names)
    _check_connected(names, total.sum(axis=0))
    fitted = _fit(won.sum(axis=0), total.sum(axis=0))
    random, prompts = np.random.default_rng(seed), len(won)
    picks = random.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(np.float64)
    resampled = np.array([_fit(*(np.einsum("p,pij->ij", counts, x) for x in (won, total))) for counts in picks])
    margin = _margin(resampled, prompts)
    counts = total.sum(axis=0).sum(axis=0) + total.sum(axis=0).sum(axis=1)
    order = np.argsort(-fitted[:-1], kind="stable")
    models = tuple(_strength(names[i], fitted.item(i), margin.item(i), int(counts[i])) for i in order.tolist())
    difference = resampled[:, order, None] - resampled[:, None, order]
    better = (difference > 0).mean(axis=0) + (difference == 0).mean(axis=0) / 2
    left = _strength("left", fitted.item(-1), margin.item(-1), sum(vote.count for vote in votes))
    return Ranking(models, left, better)


def _margin(resampled: Array, prompts: int) -> Array:
    """Half the width of 95 % intervals: the bootstrap's standard deviation times Student's t for so many prompts."""
    if prompts < 2:
        return np.full(resampled.shape[1], np.inf)
    error = np.sqrt(prompts / (prompts - 1)) * resampled.std(axis=0, ddof=1)
    return float(stats.t.ppf(0.975, prompts - 1)) * error


def _strength(name: str, value: float, margin: float, votes: int) -> Strength:
    return Strength(name, value, value - margin, value + margin, votes)


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
