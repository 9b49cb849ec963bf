"""Whether a metric can tell the base model's pictures from real ones of this very style.

A metric that cannot tell them apart says nothing of models that lie between them. (The idea of a discrimination gap is
that of arXiv 2605.09030: cosine scores of style are often blind within one style.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported at their first use

from naruto_core.scoring.feature_set import Measure, Vector

ENOUGH = 0.8  # area under the curve from which on a metric counts as discriminating
BLOCKS = 8


@dataclass(frozen=True, slots=True)
class Discrimination:
    """`auc`: the area under the ROC curve, 0.5 to 1, of telling base from real; with its 95 % interval."""

    auc: float
    low: float
    high: float

    @property
    def enough(self) -> bool:
        """Whether the metric discriminates on this set."""
        return self.auc >= ENOUGH


def discriminate(
    base: Sequence[float] | Vector, real: Sequence[float] | Vector, resamples: int, seed: int
) -> Discrimination:
    """How well the values of `base` (n,) and `real` (m,) are told apart.

    The interval is a percentile bootstrap of both sides. Where base has the larger values, 1 - auc is taken.
    """
    first, second = np.asarray(base, dtype=np.float64), np.asarray(real, dtype=np.float64)
    auc = _auc(first, second)
    random = np.random.default_rng(seed)
    resampled = [_auc(random.choice(first, len(first)), random.choice(second, len(second))) for _ in range(resamples)]
    low, high = np.quantile(resampled, (0.025, 0.975))
    if auc < 0.5:
        auc, low, high = 1 - auc, 1 - high, 1 - low
    return Discrimination(auc, float(low), float(high))


def block_values(measure: Measure, groups: Sequence[str]) -> Vector:
    """A set metric (8,) of each of eight blocks of whole groups, so that `discriminate` has several values."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    return np.array([measure((member % BLOCKS == block).astype(np.float64)) for block in range(BLOCKS)])


def _auc(first: Vector, second: Vector) -> float:
    """The chance that a value of `second` exceeds one of `first`, ties half: Mann & Whitney's U over n m."""
    ranked = scipy.stats.rankdata(np.concatenate([first, second]))
    n, m = len(first), len(second)
    return float((ranked[n:].sum() - m * (m + 1) / 2) / (n * m))
