"""Fréchet distance between two sets of features, in numpy, and how far to trust it.

FID (Heusel et al. 2017): |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). The shown figure is
torchmetrics'; this exact form is here because an interval needs it hundreds of times.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from naruto_core.errors import NarutoError

Features = NDArray[np.floating]


def check_features(features: Features, least: int, what: str) -> None:
    """Raise NarutoError unless `features` (n, d) are finite and n >= `least`."""
    if len(features) < least:
        raise NarutoError(f"{what} holds {len(features)} pictures; this score needs at least {least}.")
    if not np.isfinite(features).all():
        raise NarutoError(f"{what} has features that are not numbers; score the run again from its pictures.")


def frechet_distance(first: Features, second: Features) -> float:
    """FID of features (n, d) and (m, d), n, m >= 2, equal to the closed form.

    tr((S1 S2)^(1/2)) is the sum of the singular values of A B^T for A, B centred and divided by
    sqrt(n - 1): exact, and far cheaper than a matrix square root when n is below d.
    """
    a, b = (np.asarray(x, dtype=np.float64) for x in (first, second))
    shift = a.mean(axis=0) - b.mean(axis=0)
    a, b = ((x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (a, b))
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum() if min(len(a), len(b)) < a.shape[1] else _trace_root(a, b)
    return float(shift @ shift + (a * a).sum() + (b * b).sum() - 2 * cross)


def _trace_root(a: Features, b: Features) -> float:
    """The same trace from the d x d covariances, for more samples than dimensions."""
    values = np.linalg.eigvals((a.T @ a) @ (b.T @ b))
    return float(np.sqrt(np.clip(values.real, 0, None)).sum())


def frechet_interval(first: Features, second: Features, groups: Sequence[str]) -> tuple[float, float]:
    """A 95 % interval for FID(first, second) by the delete-one-group jackknife over `first`'s groups.

    Pictures of one prompt move together, so whole prompts are left out (Efron & Tibshirani 1993,
    chapter 11). It covers the choice of prompts and seeds, not the finite reference, which is
    the same for every model it is compared with. Where leaving a group out
    leaves fewer than two pictures there is nothing to learn from: (0, inf).
    """
    names = np.asarray(groups)
    distinct = np.unique(names)
    if any((names != name).sum() < 2 for name in distinct):
        return 0.0, float("inf")
    value = frechet_distance(first, second)
    left_out = np.array([frechet_distance(first[names != name], second) for name in distinct])
    g = len(distinct)
    error = np.sqrt((g - 1) / g * ((left_out - left_out.mean()) ** 2).sum())
    return max(0.0, value - 1.96 * error), value + 1.96 * error
