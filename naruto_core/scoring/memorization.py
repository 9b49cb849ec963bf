"""Memorization: whether drawn pictures come nearer to training pictures than held-out pictures of the same kind do.

In a narrow style all pictures are alike, so that no fixed threshold tells a copy. The held-out real pictures calibrate
it: the rank of a drawn picture is the share of them that come at least as near to the training set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # scipy.special is imported at its first use; scipy.stats would take a second
from numpy.typing import NDArray

from naruto_core.scoring.feature_set import Features, Vector, chunks, unit_length

NO_SIGN = 0.05  # "no sign" is said only where at most this share (95 %) of the pictures can be copies
FALSE_ALARM = 0.02  # the largest share of runs without a copy in which a picture is named as one
ROUNDING = 2e-6  # distance of the features of one picture to itself, because they are kept in half precision
DOUBLE = 1e-5  # distance below which two pictures count as the same
LEAST_HELD_OUT = 10  # held-out pictures that a margin can be calibrated with
FLAGGED = 0.01  # a picture is flagged when at most this share of held-out pictures comes as near


def nearest(pictures: Features, training: Features, *, same: bool = False) -> tuple[Vector, NDArray[np.intp]]:
    """Cosine (n,), -1 to 1, of each picture to the nearest training picture, and the row (n,) of that picture.

    With `same`, `pictures` are the first rows of `training`, and no picture is its own neighbour.
    """
    cosine, nearest_row = np.full(len(pictures), -np.inf), np.zeros(len(pictures), dtype=np.intp)
    column = 0
    for training_chunk in chunks(training):
        unit, row = unit_length(training_chunk).T, 0
        for chunk in chunks(pictures):
            similar, part = unit_length(chunk) @ unit, slice(row, row + len(chunk))
            if same and row == column:
                np.fill_diagonal(similar, -1.0)
            best = similar.argmax(axis=1)
            value = similar[np.arange(len(chunk)), best]
            nearer = value > cosine[part]
            nearest_row[part] = np.where(nearer, column + best, nearest_row[part])
            cosine[part] = np.where(nearer, value, cosine[part])
            row += len(chunk)
        column += len(training_chunk)
    return cosine, nearest_row


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near n drawn and m calibrating pictures come to their nearest training pictures: cosines or correlations.

    `nearest` has the names (n) of the training pictures that are nearest to the drawn ones.
    """

    drawn: Vector
    calibrating: Vector
    nearest: Sequence[str]

    @property
    def new(self) -> int:
        """Calibrating pictures that are no doubles of training pictures."""
        return int((1 - self.calibrating > DOUBLE).sum())

    def margin(self, false_alarm: float) -> float:
        """See `copy_margin`; infinite where there are too few calibrating pictures."""
        if self.new < LEAST_HELD_OUT:
            return np.inf
        return copy_margin(self.calibrating, len(self.drawn), false_alarm)


def ranks(nearness: Vector, of_held_out: Sequence[float] | Vector) -> Vector:
    """For each picture (n,) the share, above 0 up to 1, of held-out pictures that come at least as near.

    The picture itself is counted, as in a p-value (Phipson & Smyth 2010): 0.5 is a typical picture, 1 / (m + 1) is
    nearer than all m held-out pictures. `nearness` (n,) and `of_held_out` (m,) are cosines, see `nearest`.
    """
    ordered = np.sort(np.asarray(of_held_out, dtype=np.float64))
    at_least = len(ordered) - np.searchsorted(ordered, nearness, side="left")
    return (at_least + 1) / (len(ordered) + 1)


def most_by_chance(held_out: int) -> float:
    """The share of new pictures that chance alone flags, at most (97.5 %), when there are m = `held_out` pictures.

    Pictures are flagged from the k-th nearest of m held-out pictures on, which is random itself: the share of new
    pictures beyond it has a Beta(k, m + 1 - k) distribution.
    """
    k = max(1, int(FLAGGED * (held_out + 1)))
    return float(scipy.special.betaincinv(k, held_out + 1 - k, 0.975))


def copy_margin(of_held_out: Sequence[float] | Vector, drawn: int, false_alarm: float = FALSE_ALARM) -> float:
    """The cosine above which a picture, of `drawn` pictures in all, is a copy of its nearest training picture.

    At most a share of `false_alarm` of the runs without a copy have any picture above it. Near 0 the distances
    d = 1 - cosine of new pictures to their nearest training picture follow a power law whose exponent is the dimension
    in which pictures vary (Hill 1975; Levina and Bickel 2004). So log(d_j / d) of the j nearest of m held-out pictures
    is exponential, and that of a new picture exceeds t times their mean with probability (1 + t / j)^-j, in which the
    mean's own uncertainty is included. t is chosen so that drawn * j / m times this is `false_alarm`. Held-out doubles
    of training pictures (nearer than `DOUBLE`) are left out: they are not new. Raises ValueError when fewer than
    `LEAST_HELD_OUT` are left.
    """
    distances = np.sort(1 - np.asarray(of_held_out, dtype=np.float64))
    distances = distances[distances > DOUBLE]
    m = len(distances)
    if m < LEAST_HELD_OUT:
        raise ValueError(f"a margin needs {LEAST_HELD_OUT} held-out pictures, not {m}")
    j = max(m // 10, min(10, m // 2))
    edge, tail = distances[j], distances[:j]
    t = j * (max(1.0, drawn * j / (m * false_alarm)) ** (1 / j) - 1)
    calibrated = edge * np.exp(-t * np.log(edge / tail).mean())
    return 1 - float(max(min(calibrated, distances[0]), ROUNDING))
