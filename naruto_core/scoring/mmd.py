"""Kernel distances between two sets: unbiased squared maximum mean discrepancies (Gretton et al. 2012, eq. 3).

Their mean does not change with the number of pictures, and they may be negative. KID (Binkowski et al. 2018) is the one
with a cubic kernel, here over all pairs at once instead of over random subsets. CMMD (Jayasumana et al. 2024) has a
Gaussian kernel of width 10 on CLIP features of length one; its published code is the biased form, this is not.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from naruto_core.scoring.set_metric import Counts, Features, Measure, squared_distances

Matrix = NDArray[np.float64]
Kernel = Callable[[Features, Features], Matrix]
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0  # as published, so that figures look as people know them


def kid_measure(drawn: Features, reference: Features) -> Measure:
    """KID: kernel (x.y / d + 1)^3, features as they are; n, m >= 2."""
    return mmd_measure(drawn, reference, lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3)


def cmmd_measure(drawn: Features, reference: Features) -> Measure:
    """CMMD times 1000, of features of length one: so wide a kernel sees little but the distance of the means."""
    return mmd_measure(drawn, reference, gaussian(CMMD_SIGMA**2), CMMD_SCALE)


def median_mmd_measure(drawn: Features, reference: Features) -> Measure:
    """The same with the width of the reference itself, which sees spread too; times 1000."""
    return mmd_measure(drawn, reference, gaussian(median_squared_width(reference)), CMMD_SCALE)


def median_squared_width(features: Features) -> float:
    """The median heuristic: half the median squared distance between different rows (Gretton et al. 2012, sec. 8)."""
    apart = squared_distances(features, features)[np.triu_indices(len(features), 1)]
    return max(float(np.median(apart)) / 2, 1e-12)


def gaussian(squared_width: float) -> Kernel:
    """exp(-|x - y|^2 / (2 width^2))."""
    return lambda a, b: np.exp(squared_distances(a, b) / (-2 * squared_width))


def mmd_measure(drawn: Features, reference: Features, kernel: Kernel, scale: float = 1.0) -> Measure:
    """The unbiased squared MMD times `scale`.

    A picture counted twice makes no pair with itself: a bootstrap of it has the right centre.
    """
    within = kernel(drawn, drawn)
    np.fill_diagonal(within, 0)
    across = kernel(drawn, reference).mean(axis=1)
    m = len(reference)
    own = kernel(reference, reference)
    np.fill_diagonal(own, 0)
    of_reference = own.sum() / (m * (m - 1))

    def measure(counts: Counts) -> float:
        total = counts.sum()
        pairs = total * total - counts @ counts
        return float(scale * (counts @ within @ counts / pairs + of_reference - 2 * counts @ across / total))

    return measure
