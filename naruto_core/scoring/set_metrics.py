"""Set metrics: one number for a set of pictures, most of them compared with a reference set.

Each metric is a function of two feature arrays, drawn (n, d) and reference (m, d). It prepares what is expensive once
and returns a `Measure`: a function of counts (n,), how often each drawn picture is counted. An interval, a difference
of two models and a permutation test call the same measure again with other counts.

To add a metric: write its function here and register it below the function. Nothing else needs a change.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from naruto_core.errors import NarutoError, amount
from naruto_core.scoring.feature_set import (
    MOST,
    Counts,
    Features,
    FeatureSet,
    Measure,
    Vector,
    check_features,
    chunks,
    squared_distances,
    unit_length,
)
from naruto_core.scoring.registry import INCEPTION, Metric, register

ON_BASE_STYLES = " on base styles"  # what the names of scores over prompts for other styles end with


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMetric(Metric):
    """A metric of a set of pictures.

    prepare: the function of drawn (n, d) and reference (m, d) features.
    axis: what it measures: how far the set lies from the reference ("shift"), how varied the set is ("spread"), or how
        the two overlap ("overlap"). For an overlap both sets have the same size.
    least: the smallest n and m: with fewer the value says nothing, so that it is not measured.
    least_counted: the smallest number of different pictures with a count above 0.
    range: the smallest and the largest possible value.
    unit: features are scaled to length one first, as CLIP's are meant to be compared.
    moments: only mean and covariance of the reference matter, so that it may be of any size. The other metrics compare
        pictures pair by pair.
    family: the metric is called `name` on Inception's features only; on those of another extractor it is called
        `<family>-<label of the extractor>`, e.g. `fd-dinov2`. It is measured with `scoring.set_extractor` and with
        each of `scoring.more_set_extractors`. Empty: it has one name, and is measured with one extractor.
    base_styles: it is also measured over the prompts for other styles than the run's, as `<name> on base styles`.
    """

    prepare: Callable[[Features, Features], Measure]
    axis: Literal["shift", "spread", "overlap"]
    least: int
    least_counted: int = 2
    range: tuple[float, float] = (-math.inf, math.inf)
    unit: bool = False
    moments: bool = False
    family: str = ""
    base_styles: bool = False

    def named_for(self, features: FeatureSet) -> "SetMetric":
        """This metric under the name that it has on `features`."""
        if not self.family or features.extractor.partition(":")[0] == INCEPTION:
            return self
        return replace(self, name=f"{self.family}-{features.short_name}")

    def on_base_styles(self) -> "SetMetric":
        """This metric over the prompts for other styles, under the name that it has there.

        Neither direction is better: a model that comes nearer to the run's style there has forgotten the other ones.
        """
        return replace(self, name=f"{self.name}{ON_BASE_STYLES}", better=0, headline=0, title="", in_lists=False)

    def is_named_by(self, names: Sequence[str]) -> bool:
        """Whether `names` of a recipe contain this metric.

        Recipes recorded before the names of extractors were part of a name have `fid`, `kid` or `fd`.
        """
        former = {"fd": ("fid", "fd"), "kd": ("kid",)}.get(self.family, ())
        return self.name in names or any(name in names for name in former)

    def measure(self, drawn: Features, reference: Features) -> Measure:
        """The metric of `drawn` (n, d) against `reference` (m, d), as a function of counts (n,).

        To compare two models, lay their features one below the other as one `drawn`; counts choose between them.
        Raises NarutoError for features that cannot be used. The measure raises NarutoError for counts with fewer than
        `least_counted` different pictures.
        """
        for features, name in ((drawn, "the set of drawn pictures"), (reference, "the reference set")):
            check_features(features, self.least, name)
        if drawn.shape[1] != reference.shape[1]:
            raise NarutoError(
                f"drawn pictures have {drawn.shape[1]} features and the reference {reference.shape[1]}: "
                "they are not of one extractor."
            )
        if self.moments:
            return self._checked(self.prepare(drawn, reference))
        a, b = (np.asarray(features, dtype=np.float64) for features in (drawn, reference))
        return self._checked(self.prepare(*(unit_length(x) if self.unit else x for x in (a, b))))

    def _checked(self, measure: Measure) -> Measure:
        def checked(counts: Counts) -> float:
            different = int(np.count_nonzero(counts))
            if different < self.least_counted:
                raise NarutoError(
                    f"some resamples of the prompts count {amount(different, 'different picture')}; this score "
                    f"needs at least {self.least_counted} in each."
                )
            return measure(counts)

        return checked

    def reference_of(self, features: FeatureSet) -> Features:
        """The reference pictures that are compared with: all, the first `MOST`, or n for an overlap."""
        if self.moments:
            return features.reference
        return features.reference[: features.n if self.axis == "overlap" else MOST]


# The Fréchet distance (FID on Inception's features) between two normal distributions, fast enough to be resampled.


def frechet_measure(drawn: Features, reference: Features) -> Measure:
    """FID: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), of the means and covariances of both sets; n, m >= 2.

    A picture counted twice is two equal pictures, as in a bootstrap: covariances divide by (total - 1).
    """
    centre = np.sum([chunk.sum(axis=0) for chunk in chunks(reference)], axis=0) / len(reference)
    x = np.asarray(drawn, dtype=np.float64) - centre
    z, trace = _against_covariance(x, reference, centre)
    squares = (x * x).sum(axis=1)
    root_trace = _root_trace(z)

    def measure(counts: Counts) -> float:
        total = counts.sum()
        mean = counts @ x / total
        spread = (counts @ squares - total * mean @ mean) / (total - 1)
        return float(mean @ mean + spread + trace - 2 * root_trace(counts))

    return measure


def _against_covariance(x: Vector, reference: Features, centre: Vector) -> tuple[Vector, float]:
    """Z with Z Z^T = x S2 x^T, and the trace of S2, the covariance of the reference.

    With few rows Z comes from the rows themselves; with many, S2 is summed chunk by chunk.
    """
    m, d = reference.shape
    if m <= d:
        b = (np.asarray(reference, dtype=np.float64) - centre) / np.sqrt(m - 1)
        return x @ b.T, float((b * b).sum())
    covariance = np.zeros((d, d))
    for chunk in chunks(reference):
        covariance += (chunk - centre).T @ (chunk - centre) / (m - 1)
    return x @ _matrix_root(covariance), float(np.trace(covariance))


def _root_trace(z: Vector) -> Measure:
    """tr((S1 S2)^(1/2)) for counts of the rows of `z`."""
    if len(z) > z.shape[1]:
        return lambda counts: _root_trace_by_columns(z, counts)
    gram = z @ z.T
    return lambda counts: _root_trace_by_rows(gram, counts)


def _matrix_root(symmetric: Vector) -> Vector:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _root_trace_by_columns(z: Vector, counts: Counts) -> float:
    """From the (k, k) covariance of the counted rows of `z` (n, k): for more pictures than columns."""
    counted = counts > 0
    rows, weights = z[counted], counts[counted]
    total = weights.sum()
    rows = (rows - weights @ rows / total) * np.sqrt(weights / (total - 1))[:, None]
    return _sum_of_roots(rows.T @ rows)


def _root_trace_by_rows(gram: Vector, counts: Counts) -> float:
    """From the centred products of the counted rows with each other: for few pictures."""
    counted = np.flatnonzero(counts)
    weights, inner = counts[counted], gram[np.ix_(counted, counted)]
    total = weights.sum()
    to_mean = inner @ weights / total
    inner = inner - to_mean[:, None] - to_mean[None, :] + weights @ to_mean / total
    scale = np.sqrt(weights / (total - 1))
    return _sum_of_roots(inner * scale[:, None] * scale[None, :])


def _sum_of_roots(symmetric: Vector) -> float:
    return float(np.sqrt(np.clip(np.linalg.eigvalsh(symmetric), 0, None)).sum())


register(SetMetric(
    name="fid", version="Frechet 1", prepare=frechet_measure, axis="shift", better=-1, least=16, range=(0, math.inf),
    moments=True, family="fd", base_styles=True, headline=2, title="Fréchet distance", in_lists=True, decimals=1,
    paper="Heusel et al. 2017, arXiv 1706.08500",
    sees="How far the mean and the spread of the features lie from the reference's.",
    blind="It falls with the number of pictures, and below about 500 it prefers a collapsed model.",
))  # fmt: skip


# Kernel distances: unbiased squared maximum mean discrepancies (Gretton et al. 2012, eq. 3). Their mean does not
# depend on the number of pictures, and a value can be negative.

Kernel = Callable[[Features, Features], Vector]
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0  # as published, so that values can be compared with published ones


def mmd_measure(drawn: Features, reference: Features, kernel: Kernel, scale: float = 1.0) -> Measure:
    """The unbiased squared MMD times `scale`.

    A picture counted twice makes no pair with itself: a bootstrap of it has the right centre.
    """
    within = kernel(drawn, drawn)
    np.fill_diagonal(within, 0)
    across = kernel(drawn, reference).mean(axis=1)
    m = len(reference)
    reference_kernel = kernel(reference, reference)
    np.fill_diagonal(reference_kernel, 0)
    reference_mean = reference_kernel.sum() / (m * (m - 1))

    def measure(counts: Counts) -> float:
        total = counts.sum()
        pairs = total * total - counts @ counts
        return float(scale * (counts @ within @ counts / pairs + reference_mean - 2 * counts @ across / total))

    return measure


def gaussian(squared_width: float) -> Kernel:
    """exp(-|x - y|^2 / (2 width^2))."""
    return lambda a, b: np.exp(squared_distances(a, b) / (-2 * squared_width))


def kid_measure(drawn: Features, reference: Features) -> Measure:
    """KID: MMD with kernel (x.y / d + 1)^3, over all pairs at once instead of over random subsets; n, m >= 2."""
    return mmd_measure(drawn, reference, lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3)


def cmmd_measure(drawn: Features, reference: Features) -> Measure:
    """CMMD times 1000: MMD with a Gaussian kernel of width 10 on features of length one.

    The published code computes the biased form; this is the unbiased one.
    """
    return mmd_measure(drawn, reference, gaussian(CMMD_SIGMA**2), CMMD_SCALE)


def median_mmd_measure(drawn: Features, reference: Features) -> Measure:
    """MMD times 1000 with a Gaussian kernel as wide as the reference is spread, so that it sees spread too."""
    return mmd_measure(drawn, reference, gaussian(median_squared_width(reference)), CMMD_SCALE)


def median_squared_width(features: Features) -> float:
    """The median heuristic: half the median squared distance between different rows (Gretton et al. 2012, sec. 8)."""
    distances = squared_distances(features, features)[np.triu_indices(len(features), 1)]
    return max(float(np.median(distances)) / 2, 1e-12)


register(SetMetric(
    name="kid", version="U-statistic, cubic kernel 1", prepare=kid_measure, axis="shift", better=-1, least=2,
    decimals=1, family="kd",
    paper="Binkowski et al. 2018, arXiv 1801.01401",
    sees="A shift of the features, with the same mean at any number of pictures.",
    blind="Lost variety: it is nearly the distance of the means.",
))  # fmt: skip
register(SetMetric(
    name="cmmd", version="U-statistic, sigma 10, x1000, 1", prepare=cmmd_measure, axis="shift", better=-1, least=2,
    unit=True, extractor="cmmd",
    paper="Jayasumana et al. 2024, arXiv 2401.09603",
    sees="A shift of features of length one, as CLIP's are compared.",
    blind="Lost variety: with so wide a kernel it is the distance of the means.",
))  # fmt: skip
register(SetMetric(
    name="mmd", version="U-statistic, median width, x1000, 1", prepare=median_mmd_measure, axis="shift", better=-1,
    least=2, unit=True, base_styles=True, headline=1, title="style distance",
    paper="Gretton et al. 2012, JMLR 13",
    sees="A shift or a change of spread, at the distances that the reference itself has.",
    blind="Differences much finer or much coarser than those distances.",
))  # fmt: skip


# Overlap of two sets by nearest neighbours; both sets have the same size.

NEIGHBOURS = 5  # k of Naeem et al. 2020, here of all four


def precision_measure(drawn: Features, reference: Features) -> Measure:
    """The share, 0 to 1, of drawn pictures inside the reference's neighbourhoods."""
    inside = (squared_distances(drawn, reference) <= _radii(reference)).any(axis=1)
    return lambda counts: float(counts @ inside / counts.sum())


def density_measure(drawn: Features, reference: Features) -> Measure:
    """The mean number of the reference's neighbourhoods that a drawn picture lies in, over k: 1 for equal sets."""
    inside = (squared_distances(drawn, reference) <= _radii(reference)).sum(axis=1) / NEIGHBOURS
    return lambda counts: float(counts @ inside / counts.sum())


def recall_measure(drawn: Features, reference: Features) -> Measure:
    """The share, 0 to 1, of reference pictures inside the neighbourhoods of the counted drawn pictures."""
    within, across = _distances_within(drawn), squared_distances(drawn, reference)

    def measure(counts: Counts) -> float:
        counted = np.flatnonzero(counts)
        radii = _kth_distance(within[np.ix_(counted, counted)])
        return float((across[counted] <= radii[:, None]).any(axis=0).mean())

    return measure


def coverage_measure(drawn: Features, reference: Features) -> Measure:
    """The share, 0 to 1, of the reference's neighbourhoods with a drawn picture in them."""
    inside = squared_distances(drawn, reference) <= _radii(reference)
    return lambda counts: float(inside[counts > 0].any(axis=0).mean())


def _radii(features: Features) -> Vector:
    """The squared distance (n,) of every row to its k-th nearest other row."""
    return _kth_distance(_distances_within(features))


def _distances_within(features: Features) -> Vector:
    distances = squared_distances(features, features)
    np.fill_diagonal(distances, 0)
    return distances


def _kth_distance(distances: Vector) -> Vector:
    return np.partition(distances, NEIGHBOURS, axis=1)[:, NEIGHBOURS]  # the 0-th is the row itself


register(SetMetric(
    name="precision", version="5 neighbours 1", prepare=precision_measure, axis="overlap", better=1, least=8,
    range=(0, 1),
    paper="Kynkäänniemi et al. 2019, arXiv 1904.06991",
    sees="How many drawn pictures could be reference pictures.",
    blind="Variety: one good picture, drawn a hundred times, has precision 1.",
))  # fmt: skip
register(SetMetric(
    name="density", version="5 neighbours 1", prepare=density_measure, axis="overlap", better=1, least=8,
    range=(0, math.inf),
    paper="Naeem et al. 2020, arXiv 2002.09797",
    sees="The same as precision, with less influence of outliers in the reference.",
    blind="Variety: it even rises when a model collapses to the middle.",
))  # fmt: skip
register(SetMetric(
    name="recall", version="5 neighbours 1", prepare=recall_measure, axis="overlap", better=1, least=8,
    least_counted=NEIGHBOURS + 1, range=(0, 1),
    paper="Kynkäänniemi et al. 2019, arXiv 1904.06991",
    sees="How much of the reference could have been drawn.",
    blind="Quality: a model with widely scattered pictures has a high recall too.",
))  # fmt: skip
register(SetMetric(
    name="coverage", version="5 neighbours 1", prepare=coverage_measure, axis="overlap", better=1, least=8,
    range=(0, 1),
    paper="Naeem et al. 2020, arXiv 2002.09797",
    sees="How much of the reference has a drawn picture near it.",
    blind="Drawn pictures that are near no reference picture.",
))  # fmt: skip


def vendi_measure(drawn: Features, reference: Features) -> Measure:
    """The Vendi score: the effective number of different pictures, 1 (all alike) to n (all orthogonal).

    exp of the entropy of the eigenvalues of K / n, where K are the cosine similarities. Features must be of length one;
    the reference is not used. It grows with n: compare at equal n only.
    """
    del reference
    similarities = drawn @ drawn.T

    def measure(counts: Counts) -> float:
        counted = np.flatnonzero(counts)
        weights = np.sqrt(counts[counted] / counts.sum())
        kernel = similarities[np.ix_(counted, counted)] * weights[:, None] * weights[None, :]
        values = np.linalg.eigvalsh(kernel)
        values = values[values > 1e-12]
        return float(np.exp(-(values * np.log(values)).sum()))

    return measure


register(SetMetric(
    name="vendi", version="cosine 1", prepare=vendi_measure, axis="spread", better=0, least=2, range=(1, math.inf),
    unit=True, base_styles=True, headline=6, title="variety",
    paper="Friedman & Dieng 2023, arXiv 2210.02410",
    sees="How many really different pictures were drawn.",
    blind="Whether they are good, or in the style: noise has the highest.",
))  # fmt: skip
