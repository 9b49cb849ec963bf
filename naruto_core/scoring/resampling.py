"""How far to trust a number: intervals, differences and tests by resampling whole prompts.

Below `LEAST_PROMPTS` there is a value and nothing else: no interval, no test.

Pictures of one prompt succeed or fail together; resampling single pictures would make every interval far too
narrow (Cameron, Gelbach & Miller 2008). Everything here asks a `Measure` again with other counts, so a mean of sample
scores and a distance between sets are treated alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from naruto_core.errors import NarutoError
from naruto_core.scoring.set_metric import Counts, Measure, everything

Vector = NDArray[np.float64]
# With n prompts the exchange test has 2^n outcomes, of which at least 2 are as large as the observed one: 2 / 2^5 is
# above 5 %, so that fewer prompts can never decide anything. They have at most 126 different resamples, too.
LEAST_PROMPTS = 6
MOST_LEFT_OUT = 50  # at most so many groups are left out in turn


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval; (-inf, inf) where nothing can be said about it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first, its 95 % interval, the chance `p` of one as large were both alike; how many prompts.

    Of fewer than `LEAST_PROMPTS` prompts the value alone is known; see `of_equals`.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    prompts: int

    def of_equals(self) -> "Difference":
        """The same, knowing that both sides are equal picture by picture: 0, and p is 1, however few there are.

        FID of the same features, computed twice, may differ in its last digits.
        """
        return replace(self, value=0.0, p=1.0)


def mean_measure(values: Sequence[float] | Vector) -> Measure:
    """The mean of one value a picture, as a Measure."""
    array = np.asarray(values, dtype=np.float64)
    return lambda counts: float(counts @ array / counts.sum())


def bootstrap_mean(values: Sequence[float] | Vector, groups: Sequence[str], resamples: int, seed: int) -> Estimate:
    """The mean of `values` and its percentile-bootstrap interval over `groups`, widened for few of them."""
    measure = mean_measure(values)
    if len(set(groups)) < LEAST_PROMPTS:
        return Estimate(measure(everything(len(groups))), -np.inf, np.inf)
    found = [measure(counts) for counts in resampled(groups, resamples, seed)]
    low, high = np.quantile(found, _levels(len(set(groups))))
    return Estimate(measure(everything(len(groups))), float(low), float(high))


def bootstrap_share(values: Sequence[float] | Vector, groups: Sequence[str], resamples: int, seed: int) -> Estimate:
    """The share of ones among `values` (0 or 1), as `bootstrap_mean`.

    Where all are alike every resample is too, and an interval of no width would be wrong: then Clopper & Pearson's
    (1934), each group one trial, which holds for any number of groups.
    """
    value = float(np.mean(values))
    if value not in (0.0, 1.0):
        return bootstrap_mean(values, groups, resamples, seed)
    reach = float(stats.beta.ppf(0.975, 1, len(set(groups))))
    return Estimate(0.0, 0.0, reach) if value == 0 else Estimate(1.0, 1 - reach, 1.0)


def jackknife(measure: Measure, groups: Sequence[str]) -> Estimate:
    """The value for all, and an interval from leaving out one group at a time (Efron & Tibshirani 1993, chapter 11).

    For set scores, whose bootstrap is biased because doubled pictures look like a smaller set. It covers the choice of
    prompts and seeds, not the finite reference, which is the same for every model it is compared with. Where
    there are fewer than `LEAST_PROMPTS` groups, or too few pictures without one, nothing can be learnt: (-inf, inf).
    """
    member, count = _members(groups)
    blocks = min(count, MOST_LEFT_OUT)
    value = measure(everything(len(groups)))
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
    reach = float(stats.t.ppf(0.975, blocks - 1)) * float(error)
    return Estimate(value, value - reach, value + reach)


def difference(measure: Measure, groups: Sequence[str], resamples: int, seed: int) -> Difference:
    """How the second half of what `measure` counts differs from the first; `groups` (n,) are those of either half.

    The halves are paired: row i of one and row i of the other are the same prompt and seed. Interval: basic
    bootstrap over prompts, the same prompts for both, so that what makes a resampled set look smaller cancels. Test:
    permutation, the halves exchanged in whole prompts (Good 2005); p is at least 1 / (resamples + 1). Raises what
    `measure` raises where a resample has too few pictures.
    """
    n = len(groups)
    member, count = _members(groups)
    value = _second_minus_first(measure, np.zeros(n), everything(n))
    if count < LEAST_PROMPTS:
        return Difference(value, None, None, None, count)
    drawn = [_second_minus_first(measure, np.zeros(n), counts) for counts in resampled(groups, resamples, seed)]
    low, high = np.quantile(drawn, _levels(count))
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
    reach = np.sqrt(groups / (groups - 1)) * float(stats.t.ppf(0.975, groups - 1))
    tail = NormalDist().cdf(-float(reach))
    return tail, 1 - tail


def _members(groups: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    """The number of the group (n,) each belongs to, and how many groups there are."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    return member, len(names)
