"""Sample scores: a number for each picture."""

import numpy as np
from numpy.typing import NDArray

from naruto_core.scoring.copying import nearest
from naruto_core.scoring.measure import MOST, Features, portions, unit_length

Vector = NDArray[np.float64]


def style_closeness(pictures: Features, reference: Features) -> Vector:
    """Cosine (n,), -1 to 1, of each picture to the middle of the reference (mean of features of length one)."""
    centre = np.sum([unit_length(part).sum(axis=0) for part in portions(reference)], axis=0)
    direction = centre / np.maximum(np.linalg.norm(centre), 1e-12)
    return np.concatenate([unit_length(part) @ direction for part in portions(pictures)])


def nearness(pictures: Features, training: Features) -> Vector:
    """Cosine (n,) to the nearest training picture."""
    return nearest(pictures, training)[0]


def nearness_of_new(new: Features | None, training: Features) -> Vector:
    """Cosine (n,) of pictures that were not trained on to the nearest training picture; of the first `MOST`.

    Where nothing was held out (None), of training pictures to the nearest other one.
    """
    if new is None:
        return nearest(training[:MOST], training, same=True)[0]
    return nearness(new[:MOST], training)
