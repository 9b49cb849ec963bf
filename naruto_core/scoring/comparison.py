"""Two models side by side: every metric's difference over the same prompts and seeds, tested, with a verdict."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from naruto_core.domain import Variant
from naruto_core.errors import NarutoError
from naruto_core.scoring.blas_threads import single_threaded
from naruto_core.scoring.evaluation import set_difference, set_metrics_of
from naruto_core.scoring.feature_set import FeatureSet, RunFeatures, each_once
from naruto_core.scoring.metrics import SAMPLE_METRICS
from naruto_core.scoring.registry import Metric
from naruto_core.scoring.resampling import Difference, holm, paired_difference
from naruto_core.scoring.sample_metrics import counted, sample_values
from naruto_core.scoring.verdict import Verdict, not_measured, verdict

if TYPE_CHECKING:
    from naruto_core.recipe_sections import ScoringSection


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models: a variant of a run. `name` is for messages."""

    name: str
    features: RunFeatures
    variant: Variant


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of both models on `n` pictures each, of the same prompts and seeds.

    `difference` is second minus first. `p` is Holm's over the metric's family: the primary metrics, or the other ones.
    A metric that was not measured has no values; with too few prompts there is no `p`.
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


Rows = tuple[list[int], list[int]]  # of the first and of the second model: the same prompts and seeds in the same order


@single_threaded
def compare(first: Side, second: Side, section: "ScoringSection") -> list[Comparison]:
    """Every metric that both were measured with, primary metrics first.

    Raises NarutoError when the two have no prompt and seed in common, and when their scores cannot be compared, because
    extractors or reference pictures differ.
    """
    _check_comparable(first, second)
    rows = _common_rows(first, second)
    comparisons = [
        *_compare_sets(first, second, _own_style(first, rows), section),
        *_compare_samples(first, second, rows, section),
    ]
    families = ([pair for pair in comparisons if pair[0].primary is primary] for primary in (True, False))
    return [comparison for family in families for comparison in _with_verdicts(family)]


def _with_verdicts(family: Sequence[tuple[Comparison, int]]) -> Iterator[Comparison]:
    """The family with its verdicts; p is adjusted over those that have one. Each comes with its metric's `better`."""
    adjusted = iter(holm([comparison.p for comparison, _ in family if comparison.p is not None]))
    for comparison, better in family:
        if comparison.difference is None or comparison.first is None:
            yield comparison
        else:
            p = None if comparison.p is None else next(adjusted)
            size = max(1.0, abs(comparison.first))
            yield replace(comparison, p=p, verdict=verdict(comparison.difference, better, p, size))


def _check_comparable(first: Side, second: Side) -> None:
    pairs = (
        (first.features.sets, second.features.sets),
        (first.features.pairs, second.features.pairs),
    )
    for of_first, of_second in pairs:
        if of_first.extractor != of_second.extractor:
            raise NarutoError(
                f"{first.name} and {second.name} cannot be compared: they were measured by different extractors "
                f"({of_first.extractor} and {of_second.extractor}); score both with the same one."
            )
        if not np.array_equal(of_first.reference, of_second.reference):
            raise NarutoError(
                f"{first.name} and {second.name} cannot be compared: their reference pictures differ; "
                "train and score both on the same dataset version."
            )


def _common_rows(first: Side, second: Side) -> Rows:
    """The rows of either model that have the same prompt and seed."""
    first_rows, second_rows = (
        {(sample.prompt, sample.seed): row for row, sample in enumerate(side.features.samples.get(side.variant, ()))}
        for side in (first, second)
    )
    common = [key for key in first_rows if key in second_rows]
    if not common:
        raise NarutoError(
            f"{first.name} and {second.name} have no pictures of the same prompt and seed: use the same suite."
        )
    return [first_rows[key] for key in common], [second_rows[key] for key in common]


def _own_style(side: Side, rows: Rows) -> Rows:
    """The rows of prompts for the run's own style: all of them where no prompt is."""
    prompts = side.features.prompts()
    own = [i for i, row in enumerate(rows[0]) if prompts[row] not in side.features.other_styles]
    return ([rows[0][i] for i in own], [rows[1][i] for i in own]) if own else rows


def _compare_sets(first: Side, second: Side, rows: Rows, section: "ScoringSection") -> Iterator[tuple[Comparison, int]]:
    second_sets = {(metric.name, features.extractor): features for metric, features in set_metrics_of(second.features)}
    for metric, features in set_metrics_of(first.features):
        second_features = second_sets.get((metric.name, features.extractor))
        if second_features is None:
            continue
        pair = features.drawn[first.variant][rows[0]], second_features.drawn[second.variant][rows[1]]
        prompts = [features.prompts[row] for row in rows[0]]
        common = FeatureSet(features.extractor, prompts, {}, features.reference, features.real, features.label)
        comparison = _not_measured(metric, features.extractor, common.n, section)
        try:
            change = set_difference(common, metric, *pair)
            reference, counts = metric.reference_of(common), each_once(common.n)
            first_value, second_value = (metric.measure(side[: common.n], reference)(counts) for side in pair)
        except NarutoError as error:
            yield replace(comparison, verdict=not_measured(str(error))), metric.better
        else:
            equal = np.array_equal(pair[0][: common.n], pair[1][: common.n])
            change = change.between_equals() if equal else change
            yield _measured(comparison, (first_value, second_value), change), metric.better


def _compare_samples(
    first: Side, second: Side, rows: Rows, section: "ScoringSection"
) -> Iterator[tuple[Comparison, int]]:
    first_values, second_values = (sample_values(side.features)[side.variant] for side in (first, second))
    prompts = [first.features.prompts()[row] for row in rows[0]]
    for metric in SAMPLE_METRICS:
        extractor = metric.extractor_id(first.features)
        if metric.name not in first_values or metric.name not in second_values:
            continue
        if metric.extractor_id(second.features) != extractor:
            continue
        pair = first_values[metric.name][rows[0]], second_values[metric.name][rows[1]]
        both = counted(pair[0]) & counted(pair[1])
        if metric.sparse and not both.any():
            continue
        pair = (pair[0][both], pair[1][both]) if metric.sparse else pair
        groups = [p for p, is_counted in zip(prompts, both, strict=True) if is_counted or not metric.sparse]
        change = paired_difference(*pair, groups, share=metric.share)
        allowed = _allowed(first, second) if metric.by_content else change.allowance
        change = change.between_equals() if np.array_equal(*pair) else change.allowing_for(*allowed)
        means = float(pair[0].mean()), float(pair[1].mean())
        yield _measured(_not_measured(metric, extractor, len(groups), section), means, change), metric.better


def _allowed(first: Side, second: Side) -> tuple[float, float]:
    """What the pair extractor may prefer the second model's style by, of a base model and one that was adapted."""
    preference = first.features.preference
    adapted = [side.variant is not Variant.BASE for side in (first, second)]
    if preference is None or adapted[0] == adapted[1]:
        return 0.0, 0.0
    return (preference.low, preference.high) if adapted[1] else (-preference.high, -preference.low)


def _not_measured(metric: Metric, extractor: str, n: int, section: "ScoringSection") -> Comparison:
    """A comparison without values. Its verdict follows when the whole family is known."""
    return Comparison(
        metric=metric.name,
        version=metric.version,
        extractor=extractor,
        primary=metric.is_named_by(section.primary),
        first=None,
        second=None,
        difference=None,
        p=None,
        verdict=Verdict("undecided"),
        n=n,
    )


def _measured(comparison: Comparison, values: tuple[float, float], change: Difference) -> Comparison:
    if not np.isfinite([*values, change.value]).all():
        return replace(comparison, verdict=not_measured("its value is not a number"))
    return replace(comparison, first=values[0], second=values[1], difference=change, p=change.p)
