"""How two sets lie in each other, by nearest neighbours.

Precision and recall: Kynkäänniemi et al. 2019; density and coverage: Naeem et al. 2020 (k = 5 there, and here for all).
All four are meant for sets of equal size.
"""

import numpy as np
from numpy.typing import NDArray

from naruto_core.scoring.set_metric import Counts, Features, Measure, squared_distances

NEIGHBOURS = 5
Distances = NDArray[np.float64]


def precision_measure(drawn: Features, reference: Features) -> Measure:
    """The share, 0 to 1, of drawn pictures inside the reference's neighbourhoods."""
    inside = (squared_distances(drawn, reference) <= _radii(reference)).any(axis=1)
    return lambda counts: float(counts @ inside / counts.sum())


def density_measure(drawn: Features, reference: Features) -> Measure:
    """In how many of the reference's neighbourhoods a drawn picture lies, over k: 1 for equal sets, or more."""
    inside = (squared_distances(drawn, reference) <= _radii(reference)).sum(axis=1) / NEIGHBOURS
    return lambda counts: float(counts @ inside / counts.sum())


def recall_measure(drawn: Features, reference: Features) -> Measure:
    """The share, 0 to 1, of reference pictures inside the neighbourhoods of the drawn pictures that are counted."""
    apart, across = _apart(drawn), squared_distances(drawn, reference)

    def measure(counts: Counts) -> float:
        kept = np.flatnonzero(counts)
        radii = _kth(apart[np.ix_(kept, kept)])
        return float((across[kept] <= radii[:, None]).any(axis=0).mean())

    return measure


def coverage_measure(drawn: Features, reference: Features) -> Measure:
    """The share, 0 to 1, of the reference's neighbourhoods with a drawn picture in them."""
    inside = squared_distances(drawn, reference) <= _radii(reference)
    return lambda counts: float(inside[counts > 0].any(axis=0).mean())


def _radii(features: Features) -> Distances:
    """The squared distance (n,) of every row to its k-th neighbour among the others."""
    return _kth(_apart(features))


def _apart(features: Features) -> Distances:
    apart = squared_distances(features, features)
    np.fill_diagonal(apart, 0)
    return apart


def _kth(apart: Distances) -> Distances:
    return np.partition(apart, NEIGHBOURS, axis=1)[:, NEIGHBOURS]  # the 0-th is the row itself
