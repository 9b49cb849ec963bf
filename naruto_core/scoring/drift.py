"""Drift: do pictures that are served still score as the samples did by which the run was promoted?

The two sets are of different prompts, so this is a difference of two independent means, not a paired one: it moves when
the model does, and also when people ask for other things. A mean of few hundred pictures always differs a little, so a
difference counts only beyond a margin.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naruto_core.scoring.resampling import Estimate, Vector, bootstrap_mean, bootstrap_share
from naruto_core.serving import Steadiness

MARGIN = 0.25  # standard deviations of the run's own pictures: a small effect (Cohen 1988 calls 0.2 small, 0.5 medium)
SHARE_MARGIN = 0.02  # of a share, e.g. of blank pictures
LEAST_PROMPTS = 10  # of either side; a bootstrap over fewer is too narrow
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Values:
    """One number a picture, and for each the prompt it was drawn for."""

    values: Vector
    prompts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Shift:
    """Served minus own with its 95 % interval, the margin, and what follows."""

    served: float
    own: float
    difference: float
    low: float
    high: float
    margin: float
    verdict: Steadiness


def shift(served: Values, own: Values, *, share: bool, seed: int) -> Shift:
    """How the mean of `served` differs from that of `own`; with `share`, values are 0 or 1.

    Each mean has an interval over whole prompts; that of the difference follows from the two by MOVER (Zou & Donner
    2008, eq. 6), which needs no symmetry. Drifted: all of it lies beyond the margin; steady: all within. Where either
    side has fewer than `LEAST_PROMPTS` prompts it is (-inf, inf).
    """
    a, b = (_estimate(one, share=share, seed=seed) for one in (served, own))
    margin = SHARE_MARGIN if share else MARGIN * float(np.std(own.values))
    low, high = _mover(a, b)
    return Shift(a.value, b.value, a.value - b.value, low, high, margin, _verdict(low, high, margin))


def _estimate(one: Values, *, share: bool, seed: int) -> Estimate:
    found = (bootstrap_share if share else bootstrap_mean)(one.values, one.prompts, RESAMPLES, seed)
    enough = len(set(one.prompts)) >= LEAST_PROMPTS
    return found if enough else Estimate(found.value, -math.inf, math.inf)


def _mover(a: Estimate, b: Estimate) -> tuple[float, float]:
    """The interval of a - b from those of a and b, which are independent."""
    between = a.value - b.value
    low = between - math.hypot(a.value - a.low, b.high - b.value)
    return low, between + math.hypot(a.high - a.value, b.value - b.low)


def _verdict(low: float, high: float, margin: float) -> Steadiness:
    if low > margin or high < -margin:
        return Steadiness.DRIFTED
    return Steadiness.STEADY if -margin < low and high < margin else Steadiness.UNDECIDED
