"""Uncertainty: intervals, differences and tests over whole prompts.

Pictures of one prompt succeed or fail together; treating single pictures as independent would make every interval far
too narrow (Cameron, Gelbach & Miller 2008). A `Measure` is called again with other counts, so that a mean of sample
scores and a distance between sets are treated alike. An interval needs `LEAST_GROUPS` prompts, a test `LEAST_PROMPTS`.
The measured coverage of every interval here is in `tests/benchmarks/rates_intervals.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy  # scipy.special is imported at its first use; scipy.stats would take a second
from numpy.typing import NDArray

from naruto_core.errors import NarutoError
from naruto_core.intervals import LEAST_GROUPS, Estimate, exact_share, student
from naruto_core.scoring.feature_set import Counts, Measure, Vector, each_once

# Under exchange of both models, prompt by prompt, n prompts have 2^n outcomes, of which at least 2 are as large as the
# observed one: 2 / 2^5 is above 5 %, so that fewer prompts decide nothing without assumptions on their distribution.
LEAST_PROMPTS = 6
JACKKNIFE_BLOCKS = 50  # the most blocks of groups that are left out in turn


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first, its 95 % interval, the p-value of "both are alike", and the number of prompts.

    Interval and p-value are of the same t statistic: with `LEAST_PROMPTS` prompts or more, p < 0.05 only where the
    interval does not contain 0. With fewer there is no p; with fewer than `LEAST_GROUPS` there is no interval either.
    `allowance` is what of the value may not be the models', see `allowing_for`.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    prompts: int
    allowance: tuple[float, float] = (0.0, 0.0)

    def between_equals(self) -> "Difference":
        """The same when both sides are known to be equal, picture by picture: exactly 0, and p is 1.

        Rounding alone can make FID of the same features, computed twice, differ in its last digits.
        """
        bound = None if self.low is None else 0.0
        return replace(self, value=0.0, low=bound, high=bound, p=1.0)

    def allowing_for(self, low: float, high: float) -> "Difference":
        """The same where a part of the value, somewhere between `low` (at most 0) and `high` (at least 0), is not the
        models' but the metric's own. The interval is wide enough for every such part, and p is the largest one.
        """
        if self.low is None or self.high is None:
            return replace(self, allowance=(low, high))
        beyond = max(0.0, self.value - high) + min(0.0, self.value - low)
        blocks = min(self.prompts, JACKKNIFE_BLOCKS)
        p = None if self.p is None else _p_value(beyond, self.error, self.prompts, blocks)
        return replace(self, low=self.low - high, high=self.high - low, p=p, allowance=(low, high))

    @property
    def error(self) -> float:
        """The standard error; infinite where there is no interval."""
        if self.low is None or self.high is None:
            return math.inf
        width = self.high - self.low - (self.allowance[1] - self.allowance[0])
        return width / (2 * student(min(self.prompts, JACKKNIFE_BLOCKS)))


def mean_measure(values: Sequence[float] | Vector) -> Measure:
    """The mean of `values` (n,), as a Measure."""
    array = np.asarray(values, dtype=np.float64)
    return lambda counts: float(counts @ array / counts.sum())


def jackknife(measure: Measure, groups: Sequence[str]) -> Estimate:
    """The value for all, and an interval from leaving out one group at a time (Efron & Tibshirani 1993, chapter 11).

    For set scores: their bootstrap is biased, because a resample with doubled pictures looks like a smaller set. The
    interval covers the choice of prompts and seeds, not that of the reference, which is the same for all models. It is
    (-inf, inf) for fewer than `LEAST_GROUPS` groups, and where too few pictures are left without one of them.
    """
    value = measure(each_once(len(groups)))
    try:
        error, blocks = _jackknife_error(measure, groups)
    except NarutoError:  # too few pictures for this metric
        return Estimate(value, -math.inf, math.inf)
    reach = student(blocks) * error
    known = blocks >= LEAST_GROUPS and math.isfinite(reach)
    return Estimate(value, value - reach, value + reach) if known else Estimate(value, -math.inf, math.inf)


def difference(measure: Measure, groups: Sequence[str]) -> Difference:
    """`measure` of the second half of its rows minus that of the first; `groups` (n,) are the prompts of either half.

    The halves are paired: row i of both has the same prompt and seed. Interval and test: Student's t with the standard
    error of the paired jackknife, which leaves out the same prompt in both halves, so that what both have in common
    cancels. p is at least 2^(1 - prompts), the smallest p of a test by exchange. Raises what `measure` raises when too
    few pictures are left without one prompt.
    """
    n = len(groups)
    nothing = np.zeros(n)

    def change(counts: Counts) -> float:
        return measure(np.concatenate([nothing, counts])) - measure(np.concatenate([counts, nothing]))

    value, count = change(each_once(n)), len(set(groups))
    if count < LEAST_GROUPS:
        return Difference(value, None, None, None, count)
    error, blocks = _jackknife_error(change, groups)
    if not math.isfinite(error):
        return Difference(value, None, None, None, count)
    reach = student(blocks) * error
    p = None if count < LEAST_PROMPTS else _p_value(value, error, count, blocks)
    return Difference(value, value - reach, value + reach, p, count)


def paired_difference(first: Vector, second: Vector, groups: Sequence[str], *, share: bool) -> Difference:
    """`difference` of the means of `first` and `second` (n,); with `share` they are 0 to 1, and its interval -1 to 1.

    Where the difference of two shares is the same in all prompts the interval would have no width: then as many prompts
    as Clopper & Pearson's upper bound of 0 of them may differ by -1 or by 1. p is the smallest level at which this
    interval does not contain 0.
    """
    change = difference(mean_measure(np.concatenate([first, second])), groups)
    if not share or change.low is None or change.high is None:
        return change
    if change.high - change.low > 1e-9:
        return replace(change, low=max(change.low, -1.0), high=min(change.high, 1.0))
    unseen = exact_share(0.0, change.prompts).high
    low, high = change.value * (1 - unseen) - unseen, change.value * (1 - unseen) + unseen
    p = None if change.p is None else min(1.0, 2 * (1 + abs(change.value)) ** -change.prompts)
    return replace(change, low=low, high=high, p=p)


def _p_value(value: float, error: float, groups: int, blocks: int) -> float:
    if value == 0:
        return 1.0
    exact = 2 * float(scipy.special.stdtr(blocks - 1, -abs(value) / error)) if error > 0 else 0.0
    return max(exact, 2.0 ** (1 - groups))


def _jackknife_error(measure: Measure, groups: Sequence[str]) -> tuple[float, int]:
    """The standard error of `measure` from leaving out one block of groups at a time, and the number of blocks."""
    left_out = _left_out(measure, groups)
    blocks = len(left_out)
    if blocks < 2:
        return math.inf, blocks
    return math.sqrt((blocks - 1) / blocks * ((left_out - left_out.mean()) ** 2).sum()), blocks


def _left_out(measure: Measure, groups: Sequence[str]) -> Vector:
    """`measure` without each block of groups (b,); b is at most `JACKKNIFE_BLOCKS`, and 1 block gives NaN."""
    member, count = _members(groups)
    blocks = min(count, JACKKNIFE_BLOCKS)
    if blocks < 2:
        return np.full(blocks, np.nan)
    return np.array([measure((member % blocks != block).astype(np.float64)) for block in range(blocks)])


def pseudo_values(measure: Measure, groups: Sequence[str]) -> Vector:
    """Tukey's (1958) pseudo-values (b,): `measure` behaves like their mean, as if each block of groups had a value.

    Of a mean over groups of equal size these are the means of the groups. Models that drew the same prompts have the
    same blocks. Raises what `measure` raises when too few pictures are left without one block.
    """
    left_out = _left_out(measure, groups)
    blocks = len(left_out)
    return blocks * measure(each_once(len(groups))) - (blocks - 1) * left_out


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment: the chance of any false alarm in the family stays below the level."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _members(groups: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    """The index (n,) of each picture's group, and the number of groups."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    return member, len(names)
