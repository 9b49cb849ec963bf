"""The Fréchet distance between two sets of features (FID, Heusel et al. 2017), in numpy, quick enough to resample."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from naruto_core.scoring.set_metric import Counts, Features, Measure, portions

Matrix = NDArray[np.float64]


def frechet_measure(drawn: Features, reference: Features) -> Measure:
    """FID of `drawn` (n, d), counted as it is told, against the whole `reference` (m, d); n, m >= 2.

    A picture counted twice is two equal pictures, as in a bootstrap: covariances divide by (total - 1).
    """
    centre = np.sum([part.sum(axis=0) for part in portions(reference)], axis=0) / len(reference)
    x = np.asarray(drawn, dtype=np.float64) - centre
    z, trace = _against(x, reference, centre)
    squares = (x * x).sum(axis=1)
    root = _root_trace(z)

    def measure(counts: Counts) -> float:
        total = counts.sum()
        mean = counts @ x / total
        spread = (counts @ squares - total * mean @ mean) / (total - 1)
        return float(mean @ mean + spread + trace - 2 * root(counts))

    return measure


def _against(x: Matrix, reference: Features, centre: Matrix) -> tuple[Matrix, float]:
    """Z with Z Z^T = x S2 x^T, and the trace of S2, the covariance of the reference.

    By the rows themselves where they are few; otherwise S2 is summed block by block.
    """
    m, d = reference.shape
    if m <= d:
        b = (np.asarray(reference, dtype=np.float64) - centre) / np.sqrt(m - 1)
        return x @ b.T, float((b * b).sum())
    covariance = np.zeros((d, d))
    for part in portions(reference):
        covariance += (part - centre).T @ (part - centre) / (m - 1)
    return x @ _root(covariance), float(np.trace(covariance))


def _root_trace(z: Matrix) -> Callable[[Counts], float]:
    """tr((S1 S2)^(1/2)) for counts of the rows of `z`."""
    if len(z) > z.shape[1]:
        return lambda counts: _of_columns(z, counts)
    gram = z @ z.T
    return lambda counts: _of_rows(gram, counts)


def _root(symmetric: Matrix) -> Matrix:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _of_columns(z: Matrix, counts: Counts) -> float:
    """By the (k, k) covariance of the counted rows of `z` (n, k): for more pictures than columns."""
    kept = counts > 0
    rows, weights = z[kept], counts[kept]
    total = weights.sum()
    rows = (rows - weights @ rows / total) * np.sqrt(weights / (total - 1))[:, None]
    return _sum_of_roots(rows.T @ rows)


def _of_rows(gram: Matrix, counts: Counts) -> float:
    """By the counted rows' products with each other, centred: for few pictures."""
    kept = np.flatnonzero(counts)
    weights, inner = counts[kept], gram[np.ix_(kept, kept)]
    total = weights.sum()
    to_mean = inner @ weights / total
    inner = inner - to_mean[:, None] - to_mean[None, :] + weights @ to_mean / total
    scale = np.sqrt(weights / (total - 1))
    return _sum_of_roots(inner * scale[:, None] * scale[None, :])


def _sum_of_roots(symmetric: Matrix) -> float:
    return float(np.sqrt(np.clip(np.linalg.eigvalsh(symmetric), 0, None)).sum())
