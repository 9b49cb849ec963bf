"""What a run is judged by: features of all its samples and of real pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from naruto_core.domain import Sample, Variant
from naruto_core.scoring import samples as of_samples
from naruto_core.scoring.alignment import cosines
from naruto_core.scoring.evidence import Evidence
from naruto_core.scoring.extras import Extra
from naruto_core.scoring.measure import Features

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
    sets: Evidence
    pairs: Evidence
    more: tuple[Evidence, ...]
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
