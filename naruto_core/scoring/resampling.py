"""Uncertainty: intervals, differences and tests by resampling whole prompts.

Pictures of one prompt succeed or fail together; resampling single pictures would make every interval far too narrow
(Cameron, Gelbach & Miller 2008). Everything here calls a `Measure` again with other counts, so that a mean of sample
scores and a distance between sets are treated alike. With fewer than `LEAST_PROMPTS` prompts there is a value, but no
interval and no test.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import scipy  # its parts are imported at their first use
from numpy.typing import NDArray

from naruto_core.errors import NarutoError
from naruto_core.scoring.feature_set import Counts, Measure, Vector, each_once

# With n prompts the exchange test has 2^n outcomes, of which at least 2 are as large as the observed one: 2 / 2^5 is
# above 5 %, so that fewer prompts can never decide anything. They have at most 126 different resamples, too.
LEAST_PROMPTS = 6
JACKKNIFE_BLOCKS = 50  # the most blocks of groups that are left out in turn


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval; (-inf, inf) where nothing can be said about it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first, its 95 % interval, the p-value of "both are alike", and the number of prompts.

    With fewer than `LEAST_PROMPTS` prompts only the value is known; but see `between_equals`.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    prompts: int

    def between_equals(self) -> "Difference":
        """The same when both sides are known to be equal, picture by picture: exactly 0, and p is 1.

        Rounding alone can make FID of the same features, computed twice, differ in its last digits.
        """
        return replace(self, value=0.0, p=1.0)


def mean_measure(values: Sequence[float] | Vector) -> Measure:
    """The mean of `values` (n,), as a Measure."""
    array = np.asarray(values, dtype=np.float64)
    return lambda counts: float(counts @ array / counts.sum())


def bootstrap_mean(values: Sequence[float] | Vector, groups: Sequence[str], resamples: int, seed: int) -> Estimate:
    """The mean of `values` (n,) and its percentile-bootstrap interval over `groups` (n,), widened for few groups."""
    measure = mean_measure(values)
    if len(set(groups)) < LEAST_PROMPTS:
        return Estimate(measure(each_once(len(groups))), -np.inf, np.inf)
    means = [measure(counts) for counts in resampled(groups, resamples, seed)]
    low, high = np.quantile(means, _levels(len(set(groups))))
    return Estimate(measure(each_once(len(groups))), float(low), float(high))


def bootstrap_share(values: Sequence[float] | Vector, groups: Sequence[str], resamples: int, seed: int) -> Estimate:
    """The mean of `values` (n,) that are 0 or 1, as `bootstrap_mean`.

    Where all are equal, so is every resample, and the interval would have no width. Then it is Clopper & Pearson's
    (1934) with each group as one trial, which holds for any number of groups.
    """
    value = float(np.mean(values))
    if value not in (0.0, 1.0):
        return bootstrap_mean(values, groups, resamples, seed)
    reach = float(scipy.stats.beta.ppf(0.975, 1, len(set(groups))))
    return Estimate(0.0, 0.0, reach) if value == 0 else Estimate(1.0, 1 - reach, 1.0)


def jackknife(measure: Measure, groups: Sequence[str]) -> Estimate:
    """The value for all, and an interval from leaving out one group at a time (Efron & Tibshirani 1993, chapter 11).

    For set scores: their bootstrap is biased, because a resample with doubled pictures looks like a smaller set. The
    interval covers the choice of prompts and seeds, not that of the reference, which is the same for all models. It is
    (-inf, inf) for fewer than `LEAST_PROMPTS` groups, and where too few pictures are left without one of them.
    """
    member, count = _members(groups)
    blocks = min(count, JACKKNIFE_BLOCKS)
    value = measure(each_once(len(groups)))
    unknown = Estimate(value, -np.inf, np.inf)
    if count < LEAST_PROMPTS:
        return unknown
    try:
        left_out = np.array([measure((member % blocks != block).astype(np.float64)) for block in range(blocks)])
    except NarutoError:  # too few pictures for this metric
        return unknown
    if not np.isfinite(left_out).all():
        return unknown
    error = np.sqrt((blocks - 1) / blocks * ((left_out - left_out.mean()) ** 2).sum())
    reach = float(scipy.stats.t.ppf(0.975, blocks - 1)) * float(error)
    return Estimate(value, value - reach, value + reach)


def difference(measure: Measure, groups: Sequence[str], resamples: int, seed: int) -> Difference:
    """`measure` of the second half of its rows minus that of the first; `groups` (n,) are the prompts of either half.

    The halves are paired: row i of both has the same prompt and seed. Interval: basic bootstrap over prompts, with the
    same prompts for both halves, so that the bias of doubled pictures cancels. Test: permutation, where the halves are
    exchanged prompt by prompt (Good 2005); p is at least 1 / (resamples + 1). Raises what `measure` raises for a
    resample with too few pictures.
    """
    n = len(groups)
    member, count = _members(groups)
    value = _second_minus_first(measure, np.zeros(n), each_once(n))
    if count < LEAST_PROMPTS:
        return Difference(value, None, None, None, count)
    resampled_values = [
        _second_minus_first(measure, np.zeros(n), counts) for counts in resampled(groups, resamples, seed)
    ]
    low, high = np.quantile(resampled_values, _levels(count))
    swaps = np.random.default_rng((seed, 1)).integers(2, size=(resamples, count))[:, member].astype(np.float64)
    exchanged = np.array([_second_minus_first(measure, swap, each_once(n)) for swap in swaps])
    as_large = int((np.abs(exchanged) >= abs(value) * (1 - 1e-12)).sum())
    return Difference(value, float(2 * value - high), float(2 * value - low), (as_large + 1) / (resamples + 1), count)


def _second_minus_first(measure: Measure, exchanged: Vector, counts: Counts) -> float:
    """`exchanged` (n,) is 1 where the pictures of a pair are exchanged."""
    stay, go = counts * (1 - exchanged), counts * exchanged
    return measure(np.concatenate([go, stay])) - measure(np.concatenate([stay, go]))


def resampled(groups: Sequence[str], resamples: int, seed: int) -> Iterator[Counts]:
    """`resamples` times the counts (n,) of pictures when whole groups are drawn with replacement."""
    member, count = _members(groups)
    picks = np.random.default_rng(seed).integers(count, size=(resamples, count))
    for row in picks:
        yield np.bincount(row, minlength=count).astype(np.float64)[member]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment: the chance of any false alarm in the family stays below the level."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _levels(groups: int) -> tuple[float, float]:
    """Quantiles of a 95 % percentile interval, widened for few groups (Hesterberg 2015, "expanded percentile")."""
    reach = np.sqrt(groups / (groups - 1)) * float(scipy.stats.t.ppf(0.975, groups - 1))
    tail = NormalDist().cdf(-float(reach))
    return tail, 1 - tail


def _members(groups: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    """The index (n,) of each picture's group, and the number of groups."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    return member, len(names)
