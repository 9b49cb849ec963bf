"""Drift: whether served pictures still score as the samples did with which the run was promoted.

Served pictures and samples have different prompts, so this is a difference of two independent means, not a paired
difference: it moves when the model changes, and also when people ask for other things. Two means of a few hundred
pictures always differ a little, so that a difference counts only beyond a margin.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naruto_core.intervals import (
    Estimate,
    effective_trials,
    exact_share,
    group_sums,
    mean_error,
    mean_estimate,
    share_estimate,
)
from naruto_core.scoring.feature_set import Vector
from naruto_core.serving import DriftVerdict

MARGIN = 0.25  # standard deviations of the run's own pictures: a small effect (Cohen 1988 calls 0.2 small, 0.5 medium)
SHARE_MARGIN = 0.02  # of a share, e.g. of blank pictures
ROUNDING = 1e-9  # of means of equal values; a smaller difference is none
LEAST_PROMPTS = 10  # of either side; an interval over fewer is too wide to say anything


@dataclass(frozen=True, slots=True)
class Values:
    """Values (n,) of one metric, and the prompt (n,) of each picture."""

    values: Vector
    prompts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Shift:
    """The means of both sides, served minus own with its 95 % interval, the margin, and the verdict.

    `own_error` is the half width of the interval of the own mean alone: no number of served pictures makes the interval
    of the difference narrower than that. `own_trials` are the independent trials behind an own share; 0 for a mean.
    """

    served: float
    own: float
    difference: float
    low: float
    high: float
    margin: float
    verdict: DriftVerdict
    own_error: float
    own_trials: float


def shift(served: Values, own: Values, *, share: bool) -> Shift:
    """The mean of `served` minus that of `own`; with `share`, values are 0 or 1.

    Each mean has an interval over whole prompts; that of the difference follows from the two by MOVER (Zou & Donner
    2008, eq. 6), which needs no symmetry. Drifted: all of it lies beyond the margin; steady: all within. Where either
    side has fewer than `LEAST_PROMPTS` prompts it is (-inf, inf).
    """
    a, b = (_estimate(side, share=share) for side in (served, own))
    spread = float(np.std(own.values)) if np.ptp(own.values) > 0 else 0.0  # of equal values numpy's is not exactly 0
    margin = SHARE_MARGIN if share else MARGIN * spread
    low, high = _mover(a, b)
    own_error = max(b.high - b.value, b.value - b.low)
    trials = _trials(own) if share else 0.0
    return Shift(a.value, b.value, a.value - b.value, low, high, margin, _verdict(low, high, margin), own_error, trials)


def why_never_steady(change: Shift, own_prompts: int) -> str:
    """Why `steady` cannot be reached however many pictures are served, and with how many own prompts; "" if it can.

    The interval must lie within the margin. Where the two means are equal and both have n prompts, its half width is
    sqrt(2) times the own error, which falls with the square root of n. Near 0 that of a share falls with n itself, so
    that its interval is computed again for more trials.
    """
    if change.margin == 0:
        return "all of its own samples have one value, so that there is no margin"
    if change.own_error < change.margin:
        return ""
    if not math.isfinite(change.own_error):
        return f"its own samples have {own_prompts} prompts, at least {LEAST_PROMPTS} are needed"
    times = _times_for_share(change) if change.own_trials else 2 * (change.own_error / change.margin) ** 2
    needed = math.ceil(own_prompts * times)
    digits = 10 ** max(0, len(str(needed)) - 2)
    return (
        f"the mean of its own {own_prompts} prompts is known to {change.own_error:.3f}, the margin is "
        f"{change.margin:.3f}; about {math.ceil(needed / digits) * digits:,} prompts would do, of either side"
    )


def _times_for_share(change: Shift) -> float:
    """How many times as many prompts, of either side, bring the interval of two shares like the own one within the
    margin; to 2 %."""
    times = 1.0
    while True:
        share = exact_share(change.own, change.own_trials * times)
        low, high = _mover(share, share)
        if -change.margin < low and high < change.margin:
            return times
        times *= 1.02


def _trials(side: Values) -> float:
    sums, sizes = group_sums(side.values, side.prompts)
    share = float(sums.sum() / sizes.sum())
    return effective_trials(share, mean_error(sums, sizes), len(sums), float(sizes.sum()))


def _estimate(side: Values, *, share: bool) -> Estimate:
    mean = (share_estimate if share else mean_estimate)(side.values, side.prompts)
    enough = len(set(side.prompts)) >= LEAST_PROMPTS
    return mean if enough else Estimate(mean.value, -math.inf, math.inf)


def _mover(a: Estimate, b: Estimate) -> tuple[float, float]:
    """The interval of a - b from those of a and b, which are independent."""
    difference = a.value - b.value
    low = difference - math.hypot(a.value - a.low, b.high - b.value)
    return low, difference + math.hypot(a.high - a.value, b.value - b.low)


def _verdict(low: float, high: float, margin: float) -> DriftVerdict:
    if low > max(margin, ROUNDING) or high < -max(margin, ROUNDING):
        return DriftVerdict.DRIFTED
    return DriftVerdict.STEADY if -margin < low and high < margin else DriftVerdict.UNDECIDED
