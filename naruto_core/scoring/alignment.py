"""CLIP score: does a picture show what its prompt says? One cosine a picture, numpy only.

Kept as the plain cosine of open_clip's normalised embeddings (Hessel et al. 2021 without the
factor 2.5, the clipping and the "A photo depicts" prefix, which is wrong for drawings).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.floating]

VERSION = "cosine 1"  # raised when the definition changes


def cosines(pictures: Vectors, texts: Vectors) -> NDArray[np.float64]:
    """Row-wise cosine, -1..1, of (n, d) picture and (n, d) text embeddings."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (pictures, texts))
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def cluster_mean_interval(
    values: Sequence[float], groups: Sequence[str], resamples: int, seed: int
) -> tuple[float, float, float]:
    """Mean of `values` and its 95 % percentile-bootstrap interval, drawing whole groups (prompts).

    Pictures of one prompt succeed or fail together; resampling single pictures would make the
    interval far too narrow.
    """
    array, names = np.asarray(values, dtype=np.float64), np.asarray(groups)
    distinct, member = np.unique(names, return_inverse=True)
    sums = np.bincount(member, weights=array)
    counts = np.bincount(member).astype(np.float64)
    picks = np.random.default_rng(seed).integers(len(distinct), size=(resamples, len(distinct)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(array.mean()), float(low), float(high)
