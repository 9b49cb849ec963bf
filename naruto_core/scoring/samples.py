"""Sample scores: a number for each picture."""

import numpy as np
from numpy.typing import NDArray

from naruto_core.scoring.alignment import cosines
from naruto_core.scoring.copying import nearest
from naruto_core.scoring.measure import Features, unit_length

Vector = NDArray[np.float64]


def style_closeness(pictures: Features, reference: Features) -> Vector:
    """Cosine (n,), -1 to 1, of each picture to the middle of the reference (mean of features of length one)."""
    centre = unit_length(reference).mean(axis=0, keepdims=True)
    return cosines(pictures, np.repeat(centre, len(pictures), axis=0))


def nearness(pictures: Features, training: Features) -> Vector:
    """Cosine (n,) to the nearest training picture."""
    return nearest(pictures, training)[0]


def nearness_to_others(training: Features) -> Vector:
    """Cosine (n,) of every training picture to the nearest other one: where nothing was held out to compare with."""
    rows = unit_length(training)
    similar = rows @ rows.T
    np.fill_diagonal(similar, -1.0)
    return similar.max(axis=1)
