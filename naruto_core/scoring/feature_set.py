"""Features of pictures: arrays and their arithmetic, the feature set of one extractor, all features of a run.

A feature array is (n, d): one row a picture, in half precision as it is kept, or in single or double precision.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from naruto_core.domain import Sample, Variant
from naruto_core.errors import NarutoError, amount
from naruto_core.scoring.registry import ExtractorKind

Features = NDArray[np.floating]
Vector = NDArray[np.float64]
Counts = NDArray[np.floating]  # (n,): how often each picture of a set is counted, at least 0
Measure = Callable[[Counts], float]
MOST = 3000  # pictures of a kind that are compared pair by pair; the work grows with their square
_CHUNK = 1024  # rows
NOT_NUMBERS = "check the extractor's weights, then delete cache/embeddings.db in NARUTO_HOME and score again."


def check_features(features: Features, least: int, name: str) -> None:
    """Raise NarutoError unless `features` (n, d) are finite and n >= `least`; `name` is for the message."""
    if len(features) < least:
        raise NarutoError(f"{name} holds {amount(len(features), 'picture')}; this score needs at least {least}.")
    if not all(np.isfinite(chunk).all() for chunk in chunks(features)):
        raise NarutoError(f"{name} has features that are not numbers: {NOT_NUMBERS}")


def unit_length(features: Features) -> Vector:
    """Rows (n, d) divided by their length; a row of zeros stays zeros."""
    rows = np.asarray(features, dtype=np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def squared_distances(a: Features, b: Features) -> Vector:
    """Squared Euclidean distances (n, m) between the rows of `a` (n, d) and `b` (m, d), at least 0."""
    distances = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2 * a @ b.T
    return np.maximum(distances, 0)


def chunks(features: Features) -> Iterator[Vector]:
    """The rows in double precision, 1024 at a time: memory stays small however many there are."""
    for start in range(0, len(features), _CHUNK):
        yield np.asarray(features[start : start + _CHUNK], dtype=np.float64)


def each_once(n: int) -> Counts:
    """Counts (n,) of the set itself: every picture once."""
    return np.ones(n)


OTHER_STYLES = "style"  # the tag of prompts that ask for the base model's own styles


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Features by one extractor: (n, d) of each variant, and of real pictures.

    Row i of every variant has the same prompt (`prompts[i]`) and the same seed. `reference` (m, d) is what set metrics
    compare with. `real` (k, d) are real pictures that are not in it: their scores are what a perfect model would get.
    Set metrics use the first rows only where there are more of one kind than of another: order the rows accordingly.
    `label` is the extractor's short name (`registry.extractor_label`).
    """

    extractor: str
    prompts: Sequence[str]
    drawn: Mapping[Variant, Features]
    reference: Features
    real: Features
    label: str = ""

    @property
    def short_name(self) -> str:
        """What the names of metrics on these features end with, e.g. `judge` in `fd-judge`."""
        return self.label or self.extractor.partition(":")[0]

    @property
    def n(self) -> int:
        """Pictures of each kind that set metrics use: as many as there are of the rarest, at most `MOST`."""
        return min(len(self.prompts), len(self.reference), len(self.real), MOST)

    def groups(self) -> list[str]:
        """The prompt of each of the n pictures."""
        return list(self.prompts[: self.n])

    def without(self, prompts: frozenset[str]) -> "FeatureSet":
        """The set without the rows of `prompts`; the same where nothing would be left or left out."""
        rows = [row for row, prompt in enumerate(self.prompts) if prompt not in prompts]
        return self if len(rows) in (0, len(self.prompts)) else self._of_rows(rows)

    def only(self, prompts: frozenset[str]) -> "FeatureSet":
        """The rows of `prompts` of the set, maybe none."""
        return self._of_rows([row for row, prompt in enumerate(self.prompts) if prompt in prompts])

    def _of_rows(self, rows: Sequence[int]) -> "FeatureSet":
        drawn = {variant: features[rows] for variant, features in self.drawn.items()}
        return replace(self, prompts=[self.prompts[row] for row in rows], drawn=drawn)

    def pictures(self, variant: Variant) -> Features:
        """All pictures of a variant; of REAL, real ones."""
        return self.real if variant is Variant.REAL else self.drawn[variant]

    def rows(self, variant: Variant) -> Features:
        """The n pictures of a variant that set metrics use."""
        return self.pictures(variant)[: self.n]


@dataclass(frozen=True, slots=True)
class Extra:
    """Values (n,) of an optional metric by variant, row for row of its pictures, and the id of its network."""

    extractor: str
    values: Mapping[Variant, Vector]


@dataclass(frozen=True, slots=True)
class PixelSet:
    """Small pictures (n, 3072): drawn by the adapted model, all trained on, and kept out of training (maybe none).

    `base` (n, 3072) are the base model's, row by row of the same prompt and seed; None where it drew nothing.
    """

    drawn: Features
    training: Features
    held_out: Features
    base: Features | None = None


@dataclass(frozen=True, slots=True)
class StylePreference:
    """Limits of the mean cosine in the run's style minus that in a base style, for the same `n` scenes; they hold 0."""

    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class RunFeatures:
    """Everything that the scores of a run are computed from.

    samples: by variant; row i of every variant has the same prompt and seed.
    sets, pairs: by `scoring.set_extractor` and by `scoring.pair_extractor`, which reads texts too.
    further_sets: one for each of `scoring.more_set_extractors`.
    cmmd: by `scoring.cmmd_extractor`; None: `pairs`.
    texts, contents: (n, d) of each sample's prompt, and of its content part.
    captions: (k, d) of the captions of `pairs.real`.
    training: (t, d) of all pictures that were trained on, called `training_names`.
    held_out: (h, d) of the pictures that were kept out of training; None where there are none.
    blank: (n,) by variant.
    extras: values of the optional metrics that the recipe asks for, by metric.
    gauges: numbers of the training, see `findings.find_hardly_moved`.
    other_styles: prompts that ask for other styles than the run's. Set metrics compare with the run's own style, so
        they leave these prompts out.
    preference: limits of what the pair extractor itself prefers the run's style by; None where that is not known.
    pixels: for copies of crops; None where a picture is gone that was scored before they were compared.
    """

    samples: Mapping[Variant, tuple[Sample, ...]]
    sets: FeatureSet
    pairs: FeatureSet
    further_sets: tuple[FeatureSet, ...]
    texts: Features
    contents: Features
    captions: Features
    training: Features
    held_out: Features | None
    blank: Mapping[Variant, NDArray[np.bool_]]
    extras: Mapping[str, Extra]
    pixels: PixelSet | None = None
    training_names: tuple[str, ...] = ()
    gauges: Mapping[str, float] = field(default_factory=dict[str, float])
    other_styles: frozenset[str] = frozenset()
    cmmd: FeatureSet | None = None
    preference: StylePreference | None = None

    def feature_set(self, extractor: ExtractorKind) -> FeatureSet:
        """The features that a metric with this kind of extractor needs."""
        if extractor == "cmmd":
            return self.cmmd or self.pairs
        if extractor == "similarity" and self.further_sets:
            return self.further_sets[0]
        return self.pairs if extractor == "pair" else self.sets

    def prompts(self) -> list[str]:
        """The prompt's slug of every row."""
        return list(self.sets.prompts)
