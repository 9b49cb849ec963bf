"""Which model people prefer: Bradley-Terry strengths, with the pull of the left side taken out.

log-odds of "left is better" = strength of the left model - strength of the right one + pull of the left side (Bradley &
Terry 1952; the term for order is Davidson & Beaver 1977's). A tie, or "both bad", is half a vote for either side: it
moves strengths together and leaves the scale alone. Strengths have a normal prior of deviation `PRIOR`, so that a model
that won every vote stays finite. Everything is summed by prompt first: votes on one prompt move together, so intervals
resample whole prompts.
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
_STEPS, _CLOSE = 50, 1e-10


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote, or `count` alike: on which prompt, which models were on which side, what was said."""

    prompt: str
    left: str
    right: str
    outcome: Outcome
    count: int = 1


@dataclass(frozen=True, slots=True)
class Strength:
    """A model's strength in log-odds (their mean is 0) with its 95 % interval, and the votes it is in."""

    model: str
    value: float
    low: float
    high: float
    votes: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Models, strongest first. `left` is the pull of the left side in log-odds, its name "left".

    `better` (k, k) is the probability, 0 to 1, that the row's model is stronger than the column's, ordered as `models`.
    """

    models: tuple[Strength, ...]
    left: Strength
    better: Array


def rank(votes: Sequence[Vote], resamples: int, seed: int) -> Ranking:
    """Strengths of all models in `votes`; `resamples` of whole prompts, drawn by `seed`, make the intervals.

    Raises NarutoError for no votes, a model against itself, and models that no chain of comparisons connects: nothing
    can be said of which of those is stronger.
    """
    names = sorted({name for vote in votes for name in (vote.left, vote.right)})
    won, seen = _tables(votes, names)
    _refuse_unconnected(names, seen.sum(axis=0))
    found = _fit(won.sum(axis=0), seen.sum(axis=0))
    random, prompts = np.random.default_rng(seed), len(won)
    picks = random.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(np.float64)
    drawn = np.array([_fit(*(np.einsum("p,pij->ij", counted, x) for x in (won, seen))) for counted in picks])
    reach = _reach(drawn, prompts)
    counts = seen.sum(axis=0).sum(axis=0) + seen.sum(axis=0).sum(axis=1)
    order = np.argsort(-found[:-1], kind="stable")
    models = tuple(_strength(names[i], found.item(i), reach.item(i), int(counts[i])) for i in order.tolist())
    apart = drawn[:, order, None] - drawn[:, None, order]
    better = (apart > 0).mean(axis=0) + (apart == 0).mean(axis=0) / 2
    return Ranking(models, _strength("left", found.item(-1), reach.item(-1), sum(vote.count for vote in votes)), better)


def _reach(drawn: Array, prompts: int) -> Array:
    """Half the width of 95 % intervals: the bootstrap's deviation times Student's t for so many prompts."""
    if prompts < 2:
        return np.full(drawn.shape[1], np.inf)
    widened = np.sqrt(prompts / (prompts - 1)) * drawn.std(axis=0, ddof=1)
    return float(stats.t.ppf(0.975, prompts - 1)) * widened


def _strength(name: str, value: float, reach: float, votes: int) -> Strength:
    return Strength(name, value, value - reach, value + reach, votes)


def _tables(votes: Sequence[Vote], names: Sequence[str]) -> tuple[Array, Array]:
    """Votes for the left (p, k, k) and all votes (p, k, k), by prompt, left model and right model."""
    if not votes:
        raise NarutoError("there are no votes yet: nothing can be ranked.")
    row = {name: i for i, name in enumerate(names)}
    prompts = {prompt: i for i, prompt in enumerate(sorted({vote.prompt for vote in votes}))}
    won = np.zeros((len(prompts), len(names), len(names)))
    seen = np.zeros_like(won)
    for vote in votes:
        if vote.left == vote.right:
            raise NarutoError(f"{vote.left} was shown against itself on {vote.prompt}; such a vote says nothing.")
        cell = prompts[vote.prompt], row[vote.left], row[vote.right]
        won[cell] += _FOR_LEFT[vote.outcome] * vote.count
        seen[cell] += vote.count
    return won, seen


def _refuse_unconnected(names: Sequence[str], seen: Array) -> None:
    parts, member = connected_components(seen, directed=False)
    if parts > 1:
        groups = [", ".join(name for name, part in zip(names, member, strict=True) if part == i) for i in range(parts)]
        raise NarutoError(
            f"these were never compared with each other: {'; '.join(groups)}. Let a campaign connect them."
        )


def _fit(won: Array, seen: Array) -> Array:
    """The k strengths (mean 0) and the pull of the left side, where the penalised likelihood is largest (Newton)."""
    k = len(won)
    at = np.zeros(k + 1)
    for _ in range(_STEPS):
        surplus = won - seen * _expected(at)
        gradient = np.append(surplus.sum(axis=1) - surplus.sum(axis=0), surplus.sum()) - at / PRIOR**2
        step = np.linalg.solve(_information(seen, at), gradient)
        at = at + step / max(1.0, float(np.abs(step).max()))  # never further than one in log-odds at a time
        if np.abs(step).max() < _CLOSE:
            break
    at[:k] -= at[:k].mean()
    return at


def _expected(at: Array) -> Array:
    """How probable a vote for the left is, of every model on the left (k,) against every one on the right (k,)."""
    return expit(at[:-1, None] - at[None, :-1] + at[-1])


def _information(seen: Array, at: Array) -> Array:
    """What the votes and the prior say of strengths and of the left side (k + 1, k + 1); its inverse is the posterior's
    covariance near `at`."""
    k, expected = len(seen), _expected(at)
    weight = seen * expected * (1 - expected)
    both = weight + weight.T
    found = np.diag(np.full(k + 1, 1 / PRIOR**2))
    found[:k, :k] += np.diag(both.sum(axis=1)) - both
    found[:k, k] += weight.sum(axis=1) - weight.sum(axis=0)
    found[k, :k] += weight.sum(axis=1) - weight.sum(axis=0)
    found[k, k] += weight.sum()
    return found


def most_telling(names: Sequence[str], votes: Sequence[Vote]) -> tuple[str, str]:
    """Which two of `names` the next vote says most about: where it takes most from the variance of their difference.

    A vote of variance pq on a difference of variance v leaves v / (1 + v pq) of it (a step of Laplace's approximation;
    the criterion is Chatbot Arena's, Chiang et al. 2024, section 4). Votes on other models are not looked at.
    """
    known = sorted(set(names))
    ours = [vote for vote in votes if {vote.left, vote.right} <= set(known)]
    won, seen = (table.sum(axis=0) for table in _tables(ours, known)) if ours else _nothing(len(known))
    at = _fit(won, seen)
    spread = np.linalg.inv(_information(seen, at))[:-1, :-1]
    apart = np.diag(spread)[:, None] + np.diag(spread)[None, :] - 2 * spread
    chance = expit(at[:-1, None] - at[None, :-1])
    even = chance * (1 - chance)
    gain = np.triu(apart**2 * even / (1 + apart * even), 1)
    first, second = np.unravel_index(int(gain.argmax()), gain.shape)
    return known[int(first)], known[int(second)]


def _nothing(k: int) -> tuple[Array, Array]:
    return np.zeros((k, k)), np.zeros((k, k))
