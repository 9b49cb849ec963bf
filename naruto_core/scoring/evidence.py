"""Everything that set scores are computed from: one extractor's features of drawn and real pictures, at equal n."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from naruto_core.domain import Variant
from naruto_core.errors import NarutoError
from naruto_core.scoring.discrimination import BLOCKS, Discrimination, block_values, discriminate
from naruto_core.scoring.measure import MOST, Features, SetMetric, check_features
from naruto_core.scoring.resampling import Difference, Estimate, difference, jackknife


@dataclass(frozen=True, slots=True)
class Evidence:
    """Features (n, d) of each variant, row for row of the same `prompts` and seeds, and of real pictures.

    `reference` (m, d) is what is compared with; `real` (k, d) are real pictures that are not in it, which show
    what a perfect model would get. Rows beyond the equal n are left out; put the rows in an order that can bear it.
    """

    extractor: str
    prompts: Sequence[str]
    drawn: Mapping[Variant, Features]
    reference: Features
    real: Features

    @property
    def n(self) -> int:
        """As many pictures of each kind as there are of the rarest, and no more than `MOST`."""
        return min(len(self.prompts), len(self.reference), len(self.real), MOST)

    def groups(self) -> list[str]:
        return list(self.prompts[: self.n])

    def rows(self, variant: Variant) -> Features:
        """The n pictures of a variant; of REAL, real ones."""
        return (self.real if variant is Variant.REAL else self.drawn[variant])[: self.n]

    def opposite(self, metric: SetMetric) -> Features:
        """The reference as `metric` wants it: all, its first `MOST`, or for an overlap as many as were drawn."""
        if metric.moments:
            return self.reference
        return self.reference[: self.n if metric.axis == "overlap" else MOST]


def estimate(evidence: Evidence, metric: SetMetric, variant: Variant) -> Estimate:
    """A set score with its interval; NarutoError when `metric` cannot be had of these features."""
    measure = metric.measure(evidence.rows(variant), evidence.opposite(metric))
    # real pictures have no prompts in common: each is a group of its own
    groups = [str(i) for i in range(evidence.n)] if variant is Variant.REAL else evidence.groups()
    found, (least, most) = jackknife(measure, groups), metric.range
    if not np.isfinite(found.value):
        raise NarutoError(f"its value for {variant} is not a number.")
    if not np.isfinite([found.low, found.high]).all():
        return found
    return replace(found, low=max(found.low, least), high=min(found.high, most))


def discrimination(evidence: Evidence, metric: SetMetric, seed: int) -> Discrimination | None:
    """Whether `metric` tells blocks of the base's pictures from blocks of real ones; None for blocks too small."""
    if evidence.n < BLOCKS * metric.least or len(set(evidence.groups())) < BLOCKS:
        return None
    alone = [str(i) for i in range(evidence.n)]
    try:
        base, real = (
            block_values(metric.measure(evidence.rows(variant), evidence.opposite(metric)), groups)
            for variant, groups in ((Variant.BASE, evidence.groups()), (Variant.REAL, alone))
        )
    except NarutoError:  # prompts of very different numbers of pictures
        return None
    return discriminate(base, real, seed)


def compared(
    evidence: Evidence, metric: SetMetric, first: Features, second: Features, resamples: int, seed: int
) -> Difference:
    """How a set score of `second` (n, d) differs from that of `first` (n, d), drawn with the same prompts and seeds.

    NarutoError when `metric` cannot be had of these features.
    """
    for rows in (first, second):
        check_features(rows[: evidence.n], metric.least, "the set of drawn pictures")
    both = np.concatenate([first[: evidence.n], second[: evidence.n]])
    measure = metric.measure(both, evidence.opposite(metric))
    return difference(measure, evidence.groups(), resamples, seed)
