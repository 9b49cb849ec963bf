"""Features that scores are computed from: one set an extractor, of drawn and of real pictures; all sets of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from naruto_core.domain import Sample, Variant
from naruto_core.errors import NarutoError
from naruto_core.scoring import sample_metrics as of_samples
from naruto_core.scoring.discrimination import BLOCKS, Discrimination, block_values, discriminate
from naruto_core.scoring.resampling import Difference, Estimate, difference, jackknife
from naruto_core.scoring.sample_metrics import Extra, cosines
from naruto_core.scoring.set_metric import MOST, Features, SetMetric, check_features


@dataclass(frozen=True, slots=True)
class FeatureSet:
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


def estimate(evidence: FeatureSet, metric: SetMetric, variant: Variant) -> Estimate:
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


def discrimination(evidence: FeatureSet, metric: SetMetric, seed: int) -> Discrimination | None:
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
    evidence: FeatureSet, metric: SetMetric, first: Features, second: Features, resamples: int, seed: int
) -> Difference:
    """How a set score of `second` (n, d) differs from that of `first` (n, d), drawn with the same prompts and seeds.

    NarutoError when `metric` cannot be had of these features.
    """
    for rows in (first, second):
        check_features(rows[: evidence.n], metric.least, "the set of drawn pictures")
    both = np.concatenate([first[: evidence.n], second[: evidence.n]])
    measure = metric.measure(both, evidence.opposite(metric))
    return difference(measure, evidence.groups(), resamples, seed)


Vector = NDArray[np.float64]
Values = dict[Variant, dict[str, Vector]]  # of sample metrics, one number (n,) a picture


@dataclass(frozen=True, slots=True)
class RunFeatures:
    """Samples by variant, row for row of the same prompt and seed, and features of them and of real pictures.

    `sets` are by the set extractor, `pairs` by the one that reads texts too, `more` by further ones. `texts` and
    `contents` (n, d) belong to the samples' rows, `captions` to those of `pairs.real`. `training` are all pictures
    trained on, by name `training_names`; `new` those kept out of it, None when there are none. `extras` are metrics of
    the recipe's own choice.
    """

    samples: Mapping[Variant, tuple[Sample, ...]]
    sets: FeatureSet
    pairs: FeatureSet
    more: tuple[FeatureSet, ...]
    texts: Features
    contents: Features
    captions: Features
    training: Features
    new: Features | None
    blank: Mapping[Variant, NDArray[np.bool_]]
    extras: Mapping[str, Extra]
    training_names: tuple[str, ...] = ()

    def values(self) -> Values:
        """Every sample metric of every variant, and of real pictures what can be said of them."""
        found = {variant: self._of_drawn(variant) for variant in self.samples}
        real = {
            "clip": cosines(self.pairs.real, self.captions),
            "style": of_samples.style_closeness(self.sets.real, self.sets.reference),
            "copying": self.nearness_of_new(),
        }
        found[Variant.REAL] = real
        for name, extra in self.extras.items():
            for variant, values in extra.values.items():
                found[variant][name] = values
        return found

    def _of_drawn(self, variant: Variant) -> dict[str, Vector]:
        sets, pairs = self.sets.drawn[variant], self.pairs.drawn[variant]
        return {
            "clip": cosines(pairs, self.texts),
            "clip-content": cosines(pairs, self.contents),
            "style": of_samples.style_closeness(sets, self.sets.reference),
            "copying": of_samples.nearness(sets, self.training),
            "blank": self.blank[variant].astype(np.float64),
        }

    def nearness_of_new(self) -> Vector:
        """How near real pictures that were not trained on come to the training set."""
        return of_samples.nearness_of_new(self.new, self.training)

    def measured_by(self, metric: str) -> str:
        """The extractor of a sample metric."""
        if metric in self.extras:
            return self.extras[metric].extractor
        return (self.pairs if metric.startswith("clip") else self.sets).extractor

    def prompts(self) -> list[str]:
        """The prompt's slug of every row."""
        return list(self.sets.prompts)
