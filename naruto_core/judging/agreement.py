"""Agreement of reviewers: Krippendorff's alpha, and the bias towards the left side. Neither says who is right."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from naruto_core.errors import NarutoError
from naruto_core.intervals import LEVEL, exact_share

Array = NDArray[np.float64]
Level = Literal["nominal", "ordinal"]
_Z = NormalDist().inv_cdf(1 - LEVEL / 2)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Krippendorff's alpha, 1 for full agreement and 0 for chance, with its 95 % interval and the number of units."""

    alpha: float
    low: float
    high: float
    units: int


def krippendorff_alpha(counts: Array, level: Level, resamples: int, seed: int) -> Agreement:
    """Alpha of `counts` (units, answers): how many people gave each answer, in ascending order (Krippendorff 2011).

    `level` is "nominal" for answers without an order and "ordinal" for a scale. The interval resamples units; units of
    which none disagrees would give it no width, so that its lower end allows for as many further units that agree as by
    chance (alpha 0) as Clopper & Pearson's (1934) upper bound of 0 of them. Units with a single rating are left out.
    Raises NarutoError where fewer than two units have two ratings, and where all ratings are the same: chance agreement
    is then not defined.
    """
    counts = counts[counts.sum(axis=1) >= 2]
    counts = counts[:, counts.any(axis=0)]
    if min(counts.shape) < 2:
        raise NarutoError(
            f"units that two people judged: {counts.shape[0]}, different answers: {counts.shape[1]}; that is too few "
            "to tell agreement from chance; let more people judge the same pictures."
        )
    distance = {"nominal": _nominal, "ordinal": _ordinal}[level]
    random, n = np.random.default_rng(seed), len(counts)
    resampled = [_alpha(counts[random.integers(n, size=n)], distance) for _ in range(resamples)]
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    alpha, unseen = _alpha(counts, distance), exact_share(0.0, n).high
    return Agreement(alpha, min(float(low), alpha - unseen), float(high), n)


def left_bias(left: int, right: int) -> tuple[float, float, float]:
    """The share, 0 to 1, of decided votes that went to the left side, and its 95 % interval (Wilson 1927).

    Without any votes: one half, and the interval 0 to 1.
    """
    if left + right == 0:
        return 0.5, 0.0, 1.0
    n, share = left + right, left / (left + right)
    middle, margin = share + _Z**2 / 2 / n, _Z * math.sqrt(share * (1 - share) / n + (_Z / 2 / n) ** 2)
    return share, (middle - margin) / (1 + _Z**2 / n), (middle + margin) / (1 + _Z**2 / n)


def _alpha(counts: Array, distance: Callable[[Array], Array]) -> float:
    """1 - observed / expected disagreement, from the matrix of coincidences; NaN where all ratings are equal."""
    ratings = counts.sum(axis=1, keepdims=True)
    coincidences = (counts / (ratings - 1)).T @ counts - np.diag((counts / (ratings - 1)).sum(axis=0))
    totals = coincidences.sum(axis=0)
    distances, n = distance(totals), totals.sum()
    expected = (np.outer(totals, totals) - np.diag(totals)) / (n - 1)
    chance = float((expected * distances).sum())
    return 1 - float((coincidences * distances).sum()) / chance if chance > 0 else float("nan")


def _nominal(totals: Array) -> Array:
    return 1 - np.eye(len(totals))


def _ordinal(totals: Array) -> Array:
    """The squared number of ratings between two values, with half of the ratings at either value."""
    upto = np.cumsum(totals) - totals / 2
    return (upto[:, None] - upto[None, :]) ** 2
