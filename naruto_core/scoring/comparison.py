"""Two models side by side: every metric's difference over the same prompts and seeds, tested, and put in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from naruto_core.domain import Variant
from naruto_core.errors import NarutoError
from naruto_core.recipe import ScoringSection
from naruto_core.scoring.evaluation import wanted
from naruto_core.scoring.feature_set import FeatureSet, RunFeatures, compared
from naruto_core.scoring.metrics import SAMPLE_METRICS, SampleMetric
from naruto_core.scoring.resampling import Difference, difference, holm, mean_measure
from naruto_core.scoring.set_metric import SetMetric, everything
from naruto_core.scoring.verdict import Verdict, not_measured, verdict


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: a variant of a run."""

    name: str
    features: RunFeatures
    variant: Variant


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of both sides on `n` common pictures each. `p` is Holm's over its family (primary, or the rest).

    What was not measured has no figures at all; of too few prompts there is no `p`.
    """

    metric: str
    version: str
    extractor: str
    primary: bool
    first: float | None
    second: float | None
    difference: Difference | None
    p: float | None
    verdict: Verdict
    n: int


def compare(first: Side, second: Side, section: ScoringSection) -> list[Comparison]:
    """All metrics that both can be measured by, primary ones first.

    Raises NarutoError when there is nothing in common, or something that makes figures incomparable: other
    extractors, another reference.
    """
    _check_rulers(first, second)
    rows = _common_rows(first, second)
    found = [
        *_of_sets(first, second, rows, section),
        *_of_samples(first, second, rows, section),
    ]
    return [one for primary in (True, False) for one in _judged([x for x in found if x[0].primary is primary])]


def _judged(family: Sequence[tuple[Comparison, int]]) -> Iterator[Comparison]:
    """The family with its verdicts; p is adjusted over those that have one."""
    adjusted = iter(holm([one.p for one, _ in family if one.p is not None]))
    for one, better in family:
        if one.difference is None or one.first is None:
            yield one
        else:
            p = None if one.p is None else next(adjusted)
            yield replace(one, p=p, verdict=verdict(one.difference, better, p, max(1.0, abs(one.first))))


def _check_rulers(first: Side, second: Side) -> None:
    for kind in ("sets", "pairs"):
        one, other = (getattr(side.features, kind) for side in (first, second))
        if one.extractor != other.extractor:
            raise NarutoError(
                f"{first.name} and {second.name} cannot be compared: they were measured by different extractors "
                f"({one.extractor} and {other.extractor}); score both with the same one."
            )
        if not np.array_equal(one.reference, other.reference):
            raise NarutoError(
                f"{first.name} and {second.name} cannot be compared: their reference pictures differ; "
                "train and score both on the same dataset version."
            )


def _common_rows(first: Side, second: Side) -> tuple[list[int], list[int]]:
    """Which rows of either are of the same prompt and seed."""
    places = [
        {(sample.prompt, sample.seed): row for row, sample in enumerate(side.features.samples.get(side.variant, ()))}
        for side in (first, second)
    ]
    common = [key for key in places[0] if key in places[1]]
    if not common:
        raise NarutoError(
            f"{first.name} and {second.name} have no pictures of the same prompt and seed: use the same suite."
        )
    return [places[0][key] for key in common], [places[1][key] for key in common]


Rows = tuple[list[int], list[int]]


def _of_sets(first: Side, second: Side, rows: Rows, section: ScoringSection) -> Iterator[tuple[Comparison, int]]:
    others = {(metric.name, evidence.extractor): evidence for metric, evidence in wanted(second.features)}
    for metric, evidence in wanted(first.features):
        other = others.get((metric.name, evidence.extractor))
        if other is None:
            continue
        pair = evidence.drawn[first.variant][rows[0]], other.drawn[second.variant][rows[1]]
        common = FeatureSet(
            evidence.extractor, [evidence.prompts[row] for row in rows[0]], {}, evidence.reference, evidence.real
        )
        one = _not_measured(metric, evidence.extractor, common.n, section)
        try:
            found = compared(common, metric, *pair, section.resamples, section.seed)
            opposite, all_of_them = common.opposite(metric), everything(common.n)
            first_value, second_value = (metric.measure(side[: common.n], opposite)(all_of_them) for side in pair)
        except NarutoError as error:
            yield replace(one, verdict=not_measured(str(error))), metric.better
        else:
            equal = np.array_equal(pair[0][: common.n], pair[1][: common.n])
            found = found.of_equals() if equal else found
            yield _measured(one, (first_value, second_value), found), metric.better


def _of_samples(first: Side, second: Side, rows: Rows, section: ScoringSection) -> Iterator[tuple[Comparison, int]]:
    values = [side.features.values()[side.variant] for side in (first, second)]
    prompts = [first.features.prompts()[row] for row in rows[0]]
    for metric in SAMPLE_METRICS:
        extractor = first.features.measured_by(metric.name)
        if any(metric.name not in of for of in values) or second.features.measured_by(metric.name) != extractor:
            continue
        pair = [of[metric.name][part] for of, part in zip(values, rows, strict=True)]
        found = difference(mean_measure(np.concatenate(pair)), prompts, section.resamples, section.seed)
        found = found.of_equals() if np.array_equal(pair[0], pair[1]) else found
        means = float(pair[0].mean()), float(pair[1].mean())
        yield _measured(_not_measured(metric, extractor, len(prompts), section), means, found), metric.better


def _not_measured(metric: SetMetric | SampleMetric, extractor: str, n: int, section: ScoringSection) -> Comparison:
    """Without figures, and not judged yet: that needs the other ones of its family."""
    return Comparison(
        metric=metric.name,
        version=metric.version,
        extractor=extractor,
        primary=metric.name in section.primary,
        first=None,
        second=None,
        difference=None,
        p=None,
        verdict=Verdict("undecided"),
        n=n,
    )


def _measured(one: Comparison, values: tuple[float, float], found: Difference) -> Comparison:
    if not np.isfinite([*values, found.value]).all():
        return replace(one, verdict=not_measured("its value is not a number"))
    return replace(one, first=values[0], second=values[1], difference=found, p=found.p)
