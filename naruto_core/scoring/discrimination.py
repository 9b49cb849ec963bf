"""Whether a metric can tell the base model's pictures from real ones of this very style.

One that cannot has nothing to say about what lies between them. (The idea of a discrimination gap is
arXiv 2605.09030's: cosine scores of style are often blind within one style.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from naruto_core.scoring.set_metric import Measure

Vector = NDArray[np.float64]
ENOUGH = 0.8  # area under the curve from which a metric is believed to discriminate
BLOCKS = 8
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Discrimination:
    """`auc`: the chance, 0.5 to 1, that the metric puts base and real in the order it usually does; 95 % interval."""

    auc: float
    low: float
    high: float

    @property
    def enough(self) -> bool:
        """Whether the metric may be believed on this set."""
        return self.auc >= ENOUGH


def discriminate(base: Sequence[float] | Vector, real: Sequence[float] | Vector, seed: int) -> Discrimination:
    """How well one value a thing tells the base's things from real ones (area under the ROC curve, percentile
    bootstrap of both sides)."""
    first, second = np.asarray(base, dtype=np.float64), np.asarray(real, dtype=np.float64)
    value = _auc(first, second)
    random = np.random.default_rng(seed)
    found = [_auc(random.choice(first, len(first)), random.choice(second, len(second))) for _ in range(RESAMPLES)]
    low, high = np.quantile(found, (0.025, 0.975))
    if value < 0.5:
        value, low, high = 1 - value, 1 - high, 1 - low
    return Discrimination(value, float(low), float(high))


def block_values(measure: Measure, groups: Sequence[str]) -> Vector:
    """A set metric of each of eight blocks of whole groups: one value a thing, so that it can be discriminated by."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    return np.array([measure((member % BLOCKS == block).astype(np.float64)) for block in range(BLOCKS)])


def _auc(first: Vector, second: Vector) -> float:
    """The chance that one of `second` exceeds one of `first`, ties half: Mann & Whitney's U over n m."""
    ranked = stats.rankdata(np.concatenate([first, second]))
    n, m = len(first), len(second)
    return float((ranked[n:].sum() - m * (m + 1) / 2) / (n * m))
