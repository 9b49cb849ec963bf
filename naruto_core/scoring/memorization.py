"""Copying: whether drawn pictures come nearer to training pictures than new pictures of the same kind do.

In a narrow style everything is alike, so no fixed threshold can say what a copy is. What can: how near
held-out real pictures come to the training set (their share above a drawn picture's nearness is its rank).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from naruto_core.scoring.set_metric import Features, portions, unit_length

Vector = NDArray[np.float64]
FALSE_ALARM = 0.02  # of runs without a copy, how many may have one named
ROUNDING = 2e-6  # distance that two features of one picture may have, kept in half precision
DOUBLE = 1e-5  # distance under which two pictures are one
FEWEST_NEW = 10  # held-out pictures that a margin can be calibrated with
FLAGGED = 0.01  # nearer than all but this share of held-out pictures


def nearest(pictures: Features, training: Features, *, same: bool = False) -> tuple[Vector, NDArray[np.intp]]:
    """Cosine (n,), -1 to 1, of each picture to the training picture nearest to it, and which one (n,) that is.

    With `same`, `pictures` are the first rows of `training`, and none is its own neighbour.
    """
    cosine, which = np.full(len(pictures), -np.inf), np.zeros(len(pictures), dtype=np.intp)
    column = 0
    for part in portions(training):
        unit, row = unit_length(part).T, 0
        for some in portions(pictures):
            similar, mine = unit_length(some) @ unit, slice(row, row + len(some))
            if same and row == column:
                np.fill_diagonal(similar, -1.0)
            best = similar.argmax(axis=1)
            value = similar[np.arange(len(some)), best]
            nearer = value > cosine[mine]
            which[mine] = np.where(nearer, column + best, which[mine])
            cosine[mine] = np.where(nearer, value, cosine[mine])
            row += len(some)
        column += len(part)
    return cosine, which


def ranks(nearness: Vector, of_held_out: Sequence[float] | Vector) -> Vector:
    """For each picture (n,) the share, above 0 up to 1, of held-out ones that come at least as near, itself counted.

    Like a p-value (Phipson & Smyth 2010): 0.5 is a picture as any other, 1 / (m + 1) nearer than all m held-out ones.
    """
    known = np.sort(np.asarray(of_held_out, dtype=np.float64))
    at_least = len(known) - np.searchsorted(known, nearness, side="left")
    return (at_least + 1) / (len(known) + 1)


def most_by_chance(held_out: int) -> float:
    """The largest share (97.5 %) of new pictures that may be flagged beside so many held-out ones, by chance alone.

    The mark that pictures are flagged from is the k-th nearest of m held-out ones, itself a draw: new pictures beyond
    it have a Beta(k, m + 1 - k) share.
    """
    k = max(1, int(FLAGGED * (held_out + 1)))
    return float(stats.beta.ppf(0.975, k, held_out + 1 - k))


def copy_margin(of_held_out: Sequence[float] | Vector, drawn: int) -> float:
    """The cosine above which one of so many `drawn` pictures is a copy of its nearest training picture.

    At most a share of `FALSE_ALARM` of the runs without a copy have any picture above it. Near 0 the distances
    d = 1 - cosine of new pictures to their nearest training picture follow a power law whose exponent is the dimension
    in which pictures vary (Hill 1975; Levina and Bickel 2004). So log(d_j / d) of the j nearest of m held-out pictures
    is exponential, and a new one exceeds t times their mean with probability (1 + t / j)^-j, where the mean's own
    uncertainty is counted in. t is such that drawn * j / m times this is `FALSE_ALARM`. Held-out doubles of training
    pictures (nearer than `DOUBLE`) are left out: they are not new. Raises ValueError for fewer than `FEWEST_NEW`.
    """
    distances = np.sort(1 - np.asarray(of_held_out, dtype=np.float64))
    distances = distances[distances > DOUBLE]
    m = len(distances)
    if m < FEWEST_NEW:
        raise ValueError(f"a margin needs {FEWEST_NEW} held-out pictures, not {m}")
    j = max(m // 10, min(10, m // 2))
    edge, tail = distances[j], distances[:j]
    t = j * (max(1.0, drawn * j / (m * FALSE_ALARM)) ** (1 / j) - 1)
    calibrated = edge * np.exp(-t * np.log(edge / tail).mean())
    return 1 - float(max(min(calibrated, distances[0]), ROUNDING))


def share_interval(count: int, n: int) -> tuple[float, float]:
    """95 % interval (Clopper and Pearson 1934) of a share of which `count` of `n` were seen."""
    low = float(stats.beta.ppf(0.025, count, n - count + 1)) if count else 0.0
    return low, float(stats.beta.ppf(0.975, count + 1, n - count)) if count < n else 1.0
