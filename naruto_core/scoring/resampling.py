"""How far to trust a number: intervals, differences and tests by resampling whole prompts.

Pictures of one prompt succeed or fail together; resampling single pictures would make every interval far too
narrow (Cameron, Gelbach & Miller 2008). Everything here asks a `Measure` again with other counts, so a mean of sample
scores and a distance between sets are treated alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from naruto_core.scoring.measure import Counts, Measure, everything

Vector = NDArray[np.float64]
MOST_LEFT_OUT = 50  # at most so many groups are left out in turn


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first, its 95 % interval, the chance `p` of one as large were both alike; how many prompts."""

    value: float
    low: float
    high: float
    p: float
    prompts: int


def mean_measure(values: Sequence[float] | Vector) -> Measure:
    """The mean of one value a picture, as a Measure."""
    array = np.asarray(values, dtype=np.float64)
    return lambda counts: float(counts @ array / counts.sum())


def bootstrap_mean(values: Sequence[float] | Vector, groups: Sequence[str], resamples: int, seed: int) -> Estimate:
    """The mean of `values` and its percentile-bootstrap interval over `groups`, widened for few of them."""
    measure = mean_measure(values)
    found = [measure(counts) for counts in resampled(groups, resamples, seed)]
    low, high = np.quantile(found, _levels(len(set(groups))))
    return Estimate(measure(everything(len(groups))), float(low), float(high))


def bootstrap_share(values: Sequence[float] | Vector, groups: Sequence[str], resamples: int, seed: int) -> Estimate:
    """The share of ones among `values` (0 or 1), as `bootstrap_mean`.

    Where all are alike every resample is too, and an interval of no width would be wrong: then Clopper & Pearson's
    (1934), each group one trial.
    """
    found, trials = bootstrap_mean(values, groups, resamples, seed), len(set(groups))
    if found.low < found.high or found.value not in (0.0, 1.0):
        return found
    reach = float(stats.beta.ppf(0.975, 1, trials))
    return Estimate(0.0, 0.0, reach) if found.value == 0 else Estimate(1.0, 1 - reach, 1.0)


def jackknife(measure: Measure, groups: Sequence[str]) -> Estimate:
    """The value for all, and an interval from leaving out one group at a time (Efron & Tibshirani 1993, chapter 11).

    For set scores, whose bootstrap is biased because doubled pictures look like a smaller set. It covers the choice of
    prompts and seeds, not the finite reference, which is the same for every model it is compared with. Where
    there are fewer than two groups, or too few pictures without one, nothing can be learnt: (-inf, inf).
    """
    member, count = _members(groups)
    blocks = min(count, MOST_LEFT_OUT)
    value = measure(everything(len(groups)))
    if blocks < 2:
        return Estimate(value, -np.inf, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        left_out = np.array([measure((member % blocks != block).astype(np.float64)) for block in range(blocks)])
    if not np.isfinite(left_out).all():
        return Estimate(value, -np.inf, np.inf)
    error = np.sqrt((blocks - 1) / blocks * ((left_out - left_out.mean()) ** 2).sum())
    reach = float(stats.t.ppf(0.975, blocks - 1)) * float(error)
    return Estimate(value, value - reach, value + reach)


def difference(measure: Measure, groups: Sequence[str], resamples: int, seed: int) -> Difference:
    """How the second half of what `measure` counts differs from the first; `groups` (n,) are those of either half.

    The halves are paired: row i of one and row i of the other are the same prompt and seed. Interval: basic
    bootstrap over prompts, the same prompts for both, so that what makes a resampled set look smaller cancels. Test:
    permutation, the halves exchanged in whole prompts (Good 2005); p is at least 1 / (resamples + 1).
    """
    n = len(groups)
    value = _second_minus_first(measure, np.zeros(n), everything(n))
    drawn = [_second_minus_first(measure, np.zeros(n), counts) for counts in resampled(groups, resamples, seed)]
    low, high = np.quantile(drawn, _levels(len(set(groups))))
    member, count = _members(groups)
    swaps = np.random.default_rng((seed, 1)).integers(2, size=(resamples, count))[:, member].astype(np.float64)
    exchanged = np.array([_second_minus_first(measure, swap, everything(n)) for swap in swaps])
    as_large = int((np.abs(exchanged) >= abs(value) * (1 - 1e-12)).sum())
    return Difference(value, float(2 * value - high), float(2 * value - low), (as_large + 1) / (resamples + 1), count)


def _second_minus_first(measure: Measure, exchanged: Vector, counts: Counts) -> float:
    """`exchanged` (n,) is 1 where a pair's pictures have changed sides."""
    stay, go = counts * (1 - exchanged), counts * exchanged
    return measure(np.concatenate([go, stay])) - measure(np.concatenate([stay, go]))


def resampled(groups: Sequence[str], resamples: int, seed: int) -> Iterator[Counts]:
    """Counts (n,) of pictures when whole groups are drawn with replacement, `resamples` times."""
    member, count = _members(groups)
    picks = np.random.default_rng(seed).integers(count, size=(resamples, count))
    for row in picks:
        yield np.bincount(row, minlength=count).astype(np.float64)[member]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment: the chance of even one false alarm stays below the level."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _levels(groups: int) -> tuple[float, float]:
    """Quantiles of a 95 % percentile interval, widened for few groups (Hesterberg 2015, "expanded percentile")."""
    if groups < 2:
        return 0.0, 1.0
    reach = np.sqrt(groups / (groups - 1)) * float(stats.t.ppf(0.975, groups - 1))
    tail = NormalDist().cdf(-float(reach))
    return tail, 1 - tail


def _members(groups: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    """The number of the group (n,) each belongs to, and how many groups there are."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    return member, len(names)
