"""Intervals of shares and forecasts of further observations, for pictures and votes alike."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # scipy.special is imported at its first use; scipy.stats would take a second
from numpy.typing import NDArray

Vector = NDArray[np.float64]
LEVEL = 0.05  # of tests; 1 - LEVEL is the confidence of intervals
LEAST_GROUPS = 3  # of an interval of a mean: with two, Student's t reaches 12.7 standard errors
# A t interval misses the mean of skewed values, by an amount that falls as 1 / prompts (Hall 1992, section 3.3). With
# this allowance it holds the mean of exponential values (skewness 2) in 93 of 100 worlds from 3 prompts on.
SKEW_ALLOWANCE = 2.5
POWER = 0.8  # the chance of a decision that forecasts are for
FORECAST_DEVIATIONS = 1.645  # standard errors around an effect in which a forecast takes the true one to lie: 90 %
MOST = 10_000  # a larger number of further prompts or votes is not shown


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval; (-inf, inf) where nothing can be said about it."""

    value: float
    low: float
    high: float


def student(groups: int, tail: float = LEVEL / 2) -> float:
    """The upper quantile of Student's t with `groups` - 1 degrees of freedom; infinite for one group."""
    return -float(scipy.special.stdtrit(groups - 1, tail)) if groups > 1 else math.inf


def group_sums(
    values: Sequence[float] | Vector, groups: Sequence[str], counts: Sequence[int] | None = None
) -> tuple[Vector, Vector]:
    """The sum (g,) of the `values` (n,) of each group, and their number (g,); a value occurs `counts` (n,) times."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    times = np.ones(len(member)) if counts is None else np.asarray(counts, dtype=np.float64)
    sums = np.bincount(member, weights=np.asarray(values, dtype=np.float64) * times)
    return sums.astype(np.float64), np.bincount(member, weights=times).astype(np.float64)


def mean_error(sums: Vector, sizes: Vector) -> float:
    """The standard error of sum(sums) / sum(sizes), both (g,), by the jackknife over groups; infinite for one group."""
    count = len(sums)
    if count < 2:
        return math.inf
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes)
    return math.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum())


def mean_estimate(
    values: Sequence[float] | Vector, groups: Sequence[str], allowance: float = SKEW_ALLOWANCE
) -> Estimate:
    """The mean of `values` (n,) with an interval over `groups` (n,); (-inf, inf) below `LEAST_GROUPS`.

    Student's t, 1 + allowance / groups times as wide: `SKEW_ALLOWANCE`, or 0 for Student's own interval.
    """
    sums, sizes = group_sums(values, groups)
    value = float(sums.sum() / sizes.sum())
    if len(sums) < LEAST_GROUPS:
        return Estimate(value, -math.inf, math.inf)
    margin = (1 + allowance / len(sums)) * student(len(sums)) * mean_error(sums, sizes)
    return Estimate(value, value - margin, value + margin)


def share_estimate(
    values: Sequence[float] | Vector, groups: Sequence[str], counts: Sequence[int] | None = None
) -> Estimate:
    """The mean of `values` (n,), each 0 to 1, with an interval over `groups` (n,), within 0 to 1: `exact_share` of its
    `effective_trials`. It exists from one group on. A value occurs `counts` (n,) times, once by default."""
    sums, sizes = group_sums(values, groups, counts)
    value = float(sums.sum() / sizes.sum())
    return exact_share(value, effective_trials(value, mean_error(sums, sizes), len(sums), float(sizes.sum())))


def effective_trials(share: float, error: float, groups: int, n: float) -> float:
    """As many independent trials as have the standard error of a share over groups of n values in all, at most n.

    Korn & Graubard's (1998), with their correction for few groups. Where all groups are equal their number is taken, so
    that an interval from it always has a width.
    """
    if groups < 2 or error < 1e-9:
        return float(groups)
    ratio = -float(scipy.special.ndtri(LEVEL / 2)) / student(groups)
    return min(n, share * (1 - share) / error**2 * ratio**2)


def exact_share(value: float, trials: float, tail: float = LEVEL / 2) -> Estimate:
    """The share `value`, 0 to 1, of `trials` (a real number above 0) with Clopper & Pearson's (1934) interval."""
    hits = value * trials
    low = float(scipy.special.betaincinv(hits, trials - hits + 1, tail)) if value > 0 else 0.0
    high = float(scipy.special.betainccinv(hits + 1, trials - hits, tail)) if value < 1 else 1.0
    return Estimate(value, low, high)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The range of the further prompts or votes with which a difference is decided with 80 % power.

    high: None where the true difference may be so small that more than `MOST` are needed.
    """

    low: int
    high: int | None

    def text(self, noun: str) -> str:
        """The range in words; `noun` is what is counted, in the plural."""
        if (self.low if self.high is None else self.high) == 1:
            noun = noun.removesuffix("s")
        if self.high is None:
            return f"at least {self.low:,} more {noun}" if self.low else f"an unknown number of further {noun}"
        return f"{self.low:,} to {self.high:,} more {noun}" if self.low else f"up to {self.high:,} more {noun}"


def forecast(value: float, error: float, n: int, needed: Callable[[float], float]) -> Forecast:
    """How many more than n observations decide a difference of `value`, known with the standard error `error`.

    `needed` says how many there must be in all when the true difference is its argument (above 0). The true one is
    taken to lie within `FORECAST_DEVIATIONS` errors: an undecided difference is too uncertain for one number. The ends
    are rounded outwards to one digit.
    """
    most, least = abs(value) + FORECAST_DEVIATIONS * error, abs(value) - FORECAST_DEVIATIONS * error
    low = needed(most) - n
    high = needed(least) - n if least > 0 else math.inf
    return Forecast(_rounded(min(low, MOST), math.floor), _rounded(high, math.ceil) if high <= MOST else None)


def _rounded(number: float, direction: Callable[[float], int]) -> int:
    """`number` with one digit; 0 below 1."""
    if number < 1:
        return 0 if direction is math.floor else 1
    digit = 10 ** int(math.log10(number))
    return direction(number / digit) * digit


def p_text(p: float | None) -> str:
    """A p value; "" where there is none. No p is 0, so a small one is "<0.001"."""
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
