"""What a set metric is: a number for a set of drawn pictures, given how often each of them is counted.

Written so, an interval, a difference of two models and a permutation test all ask the same function again with
other counts; what is expensive is prepared once. Counts are (n,), at least 0; ones everywhere are the set itself.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from naruto_core.errors import NarutoError

Features = NDArray[np.floating]
Counts = NDArray[np.floating]
Measure = Callable[[Counts], float]
MOST = 3000  # pictures of a kind that are looked at pair by pair; the work grows with their square
_PORTION = 1024
NOT_NUMBERS = "check the extractor's weights, then delete cache/embeddings.db in the data root and score again."


@dataclass(frozen=True, slots=True)
class SetMetric:
    """A distance or a property of a set of features (n, d), n >= `least`, held against a reference (m, d).

    `least_counted` are the different pictures below which its formula has no value: whatever is resampled or left out,
    so many must still be counted.
    `axis` is what it looks at: how far the set lies from the reference ("shift"), how varied it is ("spread"), or how
    the two lie in each other ("overlap"). `better` is -1 where less is better, 0 where neither is. `unit` says whether
    features are brought to length one first (as CLIP's are meant to be compared). `sees` and `blind` are one sentence
    each. `range` is what values can be. `moments` says that only mean and covariance of the reference count, so that it
    may be of any size; the others look at pairs of pictures.
    """

    name: str
    version: str
    axis: Literal["shift", "spread", "overlap"]
    better: Literal[-1, 0, 1]
    least: int
    prepare: Callable[[Features, Features], Measure]
    sees: str
    blind: str
    unit: bool = False
    range: tuple[float, float] = (-math.inf, math.inf)
    moments: bool = False
    least_counted: int = 2

    def measure(self, drawn: Features, reference: Features) -> Measure:
        """The metric of `drawn` against `reference`, still to be given counts; NarutoError for unusable features, and
        from the measure itself for counts with fewer than `least_counted` different pictures.

        Several sets laid one after the other are one `drawn`: counts then say which of them is meant.
        """
        for rows, what in ((drawn, "the set of drawn pictures"), (reference, "the reference set")):
            check_features(rows, self.least, what)
        if drawn.shape[1] != reference.shape[1]:
            raise NarutoError(
                f"drawn pictures have {drawn.shape[1]} features and the reference {reference.shape[1]}: "
                "they are not of one extractor."
            )
        if self.moments:
            return self._counted(self.prepare(drawn, reference))
        a, b = (np.asarray(rows, dtype=np.float64) for rows in (drawn, reference))
        return self._counted(self.prepare(*(unit_length(x) if self.unit else x for x in (a, b))))

    def _counted(self, measure: Measure) -> Measure:
        def of_enough(counts: Counts) -> float:
            different = int(np.count_nonzero(counts))
            if different < self.least_counted:
                raise NarutoError(
                    f"some resamples of the prompts count {different} different pictures; this score needs at least "
                    f"{self.least_counted} in each."
                )
            return measure(counts)

        return of_enough


def check_features(features: Features, least: int, what: str) -> None:
    """Raise NarutoError unless `features` (n, d) are finite and n >= `least`."""
    if len(features) < least:
        raise NarutoError(f"{what} holds {len(features)} pictures; this score needs at least {least}.")
    if not all(np.isfinite(part).all() for part in portions(features)):
        raise NarutoError(f"{what} has features that are not numbers: {NOT_NUMBERS}")


def unit_length(features: Features) -> NDArray[np.float64]:
    """Rows (n, d) divided by their length; a row of zeros stays one."""
    rows = np.asarray(features, dtype=np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def squared_distances(a: Features, b: Features) -> NDArray[np.float64]:
    """Squared Euclidean distances (n, m) between the rows of `a` (n, d) and `b` (m, d), at least 0."""
    found = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2 * a @ b.T
    return np.maximum(found, 0)


def portions(features: Features) -> Iterator[NDArray[np.float64]]:
    """The rows (b, d), as many at a time as memory does not mind, however many there are."""
    for start in range(0, len(features), _PORTION):
        yield np.asarray(features[start : start + _PORTION], dtype=np.float64)


def everything(n: int) -> Counts:
    """Every picture once."""
    return np.ones(n)
