"""How many really different pictures a set holds: the Vendi score (Friedman & Dieng 2023)."""

import numpy as np

from naruto_core.scoring.measure import Counts, Features, Measure


def vendi_measure(drawn: Features, reference: Features) -> Measure:
    """exp of the entropy of the eigenvalues of the cosine similarities over n: 1 (all alike) to n (all orthogonal).

    Of features of length one; the reference has no say. It grows with n: compare at equal n only.
    """
    del reference
    similar = drawn @ drawn.T

    def measure(counts: Counts) -> float:
        kept = np.flatnonzero(counts)
        weights = np.sqrt(counts[kept] / counts.sum())
        values = np.linalg.eigvalsh(similar[np.ix_(kept, kept)] * weights[:, None] * weights[None, :])
        values = values[values > 1e-12]
        return float(np.exp(-(values * np.log(values)).sum()))

    return measure
