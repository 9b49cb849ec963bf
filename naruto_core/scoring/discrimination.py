"""Whether a metric can tell the base model's pictures from real ones of this very style, and in the right direction.

A metric that cannot tell them apart says nothing of models that lie between them; one that prefers the base's pictures
says the opposite of what it claims. (The idea of a discrimination gap is that of arXiv 2605.09030: cosine scores of
style are often blind within one style.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported at their first use
from numpy.typing import NDArray

from naruto_core.scoring.feature_set import Measure, Vector

ENOUGH = 0.8  # area under the curve from which on a metric counts as discriminating
BLOCKS = 8
_TOGETHER = 100  # resamples at a time: memory stays small


@dataclass(frozen=True, slots=True)
class Discrimination:
    """`auc`: the chance, 0 to 1, that the metric prefers a real picture to one of the base's; with its 95 % interval.

    Below 0.5 the metric is inverted: it prefers the base's pictures. It is not to be trusted then, however clear.
    """

    auc: float
    low: float
    high: float

    @property
    def enough(self) -> bool:
        """Whether the metric discriminates on this set, in the right direction."""
        return self.auc >= ENOUGH


def discriminate(
    base: Sequence[float] | Vector, real: Sequence[float] | Vector, better: int, resamples: int, seed: int
) -> Discrimination:
    """How well the values of `base` (n,) and `real` (m,) are told apart: the area under the ROC curve.

    `better` is 1 where more is better, -1 where less is. Where it is 0 there is no wrong direction: the area is then
    that of telling them apart either way, at least 0.5. The interval is a percentile bootstrap of both sides.
    """
    first, second = np.asarray(base, dtype=np.float64), np.asarray(real, dtype=np.float64)
    first, second = (-first, -second) if better < 0 else (first, second)
    auc = float(_auc(first[None], second[None])[0])
    random, parts = np.random.default_rng(seed), list[Vector]()
    for start in range(0, resamples, _TOGETHER):
        rows = min(_TOGETHER, resamples - start)
        parts.append(_auc(*(side[random.integers(len(side), size=(rows, len(side)))] for side in (first, second))))
    low, high = np.quantile(np.concatenate(parts), (0.025, 0.975)).tolist()
    if better == 0 and auc < 0.5:
        auc, low, high = 1 - auc, 1 - high, 1 - low
    return Discrimination(auc, low, high)


def block_values(measure: Measure, groups: Sequence[str]) -> Vector:
    """A set metric (8,) of each of eight blocks of whole groups, so that `discriminate` has several values."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    return np.array([measure((member % BLOCKS == block).astype(np.float64)) for block in range(BLOCKS)])


def _auc(first: Vector, second: Vector) -> NDArray[np.float64]:
    """The chance (r,) that a value of `second` (r, m) exceeds one of `first` (r, n), ties half: Mann & Whitney's U over
    n m, row by row."""
    ranked = scipy.stats.rankdata(np.concatenate([first, second], axis=1), axis=1)
    n, m = first.shape[1], second.shape[1]
    return (ranked[:, n:].sum(axis=1) - m * (m + 1) / 2) / (n * m)
