"""The evaluation of a run: every metric of every variant from its features, with intervals; and the risks."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from naruto_core.domain import Finding, PromptSuite, Score, Variant
from naruto_core.errors import NarutoError
from naruto_core.intervals import Estimate, mean_estimate, share_estimate
from naruto_core.scoring import findings, torchmetrics_fid
from naruto_core.scoring.blas_threads import single_threaded
from naruto_core.scoring.copied_pixels import pixel_nearness
from naruto_core.scoring.discrimination import BLOCKS, ENOUGH, Discrimination, block_values, discriminate
from naruto_core.scoring.feature_set import NOT_NUMBERS, Features, FeatureSet, RunFeatures, Vector, check_features
from naruto_core.scoring.memorization import Nearness, nearest
from naruto_core.scoring.metrics import SAMPLE_METRICS, SET_METRICS
from naruto_core.scoring.resampling import Difference, difference, jackknife
from naruto_core.scoring.sample_metrics import SampleMetric, Values, counted, sample_values
from naruto_core.scoring.set_metrics import SetMetric

if TYPE_CHECKING:
    from naruto_core.recipe_sections import ScoringSection

JACKKNIFE = "jackknife over prompts, 95 %"
NO_ANCHOR = "none: real pictures were measured with other texts than the suite's"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All scores of a run and its findings. A metric that cannot be measured is a finding, with the reason."""

    scores: list[Score]
    findings: list[Finding]


@single_threaded
def evaluate(features: RunFeatures, suite: PromptSuite, section: "ScoringSection", template: Score) -> Evaluation:
    """Every score and every finding of a run.

    `template` holds what all scores of the run have in common: run, id of the reference, details.
    """
    scores: list[Score] = []
    unmeasured: list[str] = []
    for metric, feature_set in set_metrics_of(features):
        try:
            scores += _set_scores(template, metric, feature_set.without(features.other_styles), section)
        except NarutoError as error:
            unmeasured.append(f"{metric.name}: {error}")
        scores += _scores_on_base_styles(template, metric, feature_set.only(features.other_styles))
    values = _without_nan(sample_values(features), unmeasured)
    for metric in SAMPLE_METRICS:
        scores += _sample_scores(template, metric, features, values, section)
    for metric in SAMPLE_METRICS:
        scores += _scores_by_tag(template, metric, suite, features, values)
    blind = [s.metric for s in scores if s.variant is Variant.REAL and float(s.details.get("auc", 1)) < ENOUGH]
    return Evaluation(
        scores,
        [
            *find_risks(template.run_id, features, values, suite),
            *findings.find_unusable(template.run_id, blind, unmeasured),
        ],
    )


def set_metrics_of(features: RunFeatures) -> Iterator[tuple[SetMetric, FeatureSet]]:
    """Each set metric with the features that it needs, under the name that it has there."""
    for metric in SET_METRICS:
        first = features.feature_set(metric.extractor)
        further = [other for other in features.further_sets if other.extractor != first.extractor]
        for feature_set in (first, *(further if metric.family else ())):
            yield metric.named_for(feature_set), feature_set


# Set scores


def estimate(features: FeatureSet, metric: SetMetric, variant: Variant) -> Estimate:
    """A set score with its 95 % interval; NarutoError when `metric` cannot be measured with these features."""
    measure = metric.measure(features.rows(variant), metric.reference_of(features))
    # real pictures have no prompts in common: each is a group of its own
    groups = [str(i) for i in range(features.n)] if variant is Variant.REAL else features.groups()
    score, (least, most) = jackknife(measure, groups), metric.range
    if not np.isfinite(score.value):
        raise NarutoError(f"its value for {variant} is not a number.")
    if not np.isfinite([score.low, score.high]).all():
        return score
    return replace(score, low=max(score.low, least), high=min(score.high, most))


def set_difference(features: FeatureSet, metric: SetMetric, first: Features, second: Features) -> Difference:
    """The set score of `second` (n, d) minus that of `first` (n, d), which have the same prompts and seeds row by row.

    NarutoError when `metric` cannot be measured with these features.
    """
    for rows in (first, second):
        check_features(rows[: features.n], metric.least, "the set of drawn pictures")
    both = np.concatenate([first[: features.n], second[: features.n]])
    measure = metric.measure(both, metric.reference_of(features))
    return difference(measure, features.groups())


def set_discrimination(features: FeatureSet, metric: SetMetric, section: "ScoringSection") -> Discrimination | None:
    """Whether `metric` tells blocks of the base's pictures from blocks of real ones.

    None where the base drew nothing, or where the blocks are too small for the metric.
    """
    if Variant.BASE not in features.drawn:
        return None
    if features.n < BLOCKS * min(metric.least, BLOCKS) or len(set(features.groups())) < BLOCKS:
        return None
    single_pictures = [str(i) for i in range(features.n)]
    try:
        base, real = (
            block_values(metric.measure(features.rows(variant), metric.reference_of(features)), groups)
            for variant, groups in ((Variant.BASE, features.groups()), (Variant.REAL, single_pictures))
        )
    except NarutoError:  # prompts with very different numbers of pictures
        return None
    return discriminate(base, real, metric.better, section.resamples, section.seed)


def _set_scores(template: Score, metric: SetMetric, features: FeatureSet, section: "ScoringSection") -> Iterator[Score]:
    discrimination = set_discrimination(features, metric, section)
    common = replace(
        template,
        metric=metric.name,
        n=features.n,
        extractor=features.extractor,
        version=metric.version,
        reference=f"{template.reference}:{len(metric.reference_of(features))}",
    )
    for variant in [*features.drawn, Variant.REAL]:
        value = estimate(features, metric, variant)
        score = replace(
            common,
            variant=variant,
            value=value.value,
            low=value.low,
            high=value.high,
            method=JACKKNIFE,
            details=template.details | (_auc_details(discrimination) if variant is Variant.REAL else {}),
        )
        if metric.name == "fid":  # the published figure is torchmetrics'; the interval has the same closed form
            published = torchmetrics_fid.fid(features.rows(variant), features.reference)
            score = replace(score, value=published, version=torchmetrics_fid.fid_version())
        yield score


def _scores_on_base_styles(template: Score, metric: SetMetric, features: FeatureSet) -> Iterator[Score]:
    """A set metric of each model over the prompts for other styles, where there are enough pictures for it.

    Real pictures of the run's style answer none of these prompts, so that they are no anchor.
    """
    if not metric.base_styles or features.n < metric.least:
        return
    for variant in features.drawn:
        with suppress(NarutoError):  # features that are not numbers: the metric is reported over the other prompts
            value = estimate(features, metric, variant)
            yield replace(
                template,
                metric=metric.on_base_styles().name,
                variant=variant,
                value=value.value,
                low=value.low,
                high=value.high,
                n=features.n,
                extractor=features.extractor,
                version=metric.version,
                reference=f"{template.reference}:{len(metric.reference_of(features))}",
                method=JACKKNIFE,
            )


def _auc_details(discrimination: Discrimination | None) -> dict[str, str | float]:
    if discrimination is None:
        return {}
    return {"auc": discrimination.auc, "auc_low": discrimination.low, "auc_high": discrimination.high}


# Sample scores


def _without_nan(values: Values, unmeasured: list[str]) -> Values:
    """`values` without those that are not numbers; their metrics are added to `unmeasured`."""
    sparse = {metric.name for metric in SAMPLE_METRICS if metric.sparse}
    for variant, by_metric in values.items():
        for name, rows in list(by_metric.items()):
            if np.isfinite(rows[counted(rows)] if name in sparse else rows).all():
                continue
            del by_metric[name]
            unmeasured.append(f"{name} of {variant} is not a number: {NOT_NUMBERS}")
    return values


def _sample_scores(
    template: Score, metric: SampleMetric, features: RunFeatures, values: Values, section: "ScoringSection"
) -> Iterator[Score]:
    """For every variant the mean of a metric, and a score for each picture."""
    discrimination = _sample_discrimination(metric, values, features.prompts(), section)
    size = metric.reference_size(features)
    common = replace(
        template,
        metric=metric.name,
        version=metric.version,
        extractor=metric.extractor_id(features),
        reference=f"{template.reference}:{size}" if size else "",
    )
    for variant, by_metric in values.items():
        if (rows := by_metric.get(metric.name)) is None or not counted(rows).any():
            continue
        samples = features.samples.get(variant, ())
        groups = [sample.prompt for sample in samples] or [str(index) for index in range(len(rows))]
        details = template.details | (_auc_details(discrimination) if variant is Variant.REAL else {})
        if variant is Variant.REAL and metric.real_texts:
            details |= {"anchor": NO_ANCHOR}
        yield _mean_score(replace(common, variant=variant, details=details), metric, rows, groups)
        for value, sample in zip(rows.tolist(), samples, strict=False):
            if np.isnan(value):
                continue
            score = replace(common, variant=variant, value=value, low=value, high=value, n=1)
            yield replace(score, sample_id=sample.id, details={})


def _sample_discrimination(
    metric: SampleMetric, values: Values, prompts: Sequence[str], section: "ScoringSection"
) -> Discrimination | None:
    if metric.real_texts:
        return None
    base, real = (values.get(variant, {}).get(metric.name) for variant in (Variant.BASE, Variant.REAL))
    if base is None or real is None:
        return None
    groups = [prompt for prompt, is_counted in zip(prompts, counted(base), strict=True) if is_counted]
    base, real = base[counted(base)], real[counted(real)]
    if min(len(base), len(real)) < BLOCKS:
        return None
    return discriminate(base, real, metric.better, section.resamples, section.seed, groups)


def _scores_by_tag(
    template: Score,
    metric: SampleMetric,
    suite: PromptSuite,
    features: RunFeatures,
    values: Values,
) -> Iterator[Score]:
    """The means of a metric over the prompts with one tag, for each tag that it names."""
    for tag, name in metric.by_tag.items():
        slugs = {prompt.slug for prompt in suite.prompts if tag in prompt.tags}
        selected = np.array([prompt in slugs for prompt in features.prompts()])
        if not selected.any():
            continue
        groups = [prompt for prompt in features.prompts() if prompt in slugs]
        extractor = metric.extractor_id(features)
        common = replace(template, metric=name, extractor=extractor, version=metric.version, reference="")
        for variant in features.samples:
            if (rows := values[variant].get(metric.name)) is not None:
                yield _mean_score(replace(common, variant=variant), metric, rows[selected], groups)


def _mean_score(template: Score, metric: SampleMetric, values: Vector, groups: Sequence[str]) -> Score:
    """The mean of `values` (n,) with an interval over `groups` (n,); values that are NaN are not counted."""
    groups = [group for group, is_counted in zip(groups, counted(values), strict=True) if is_counted]
    mean = (share_estimate if metric.share else mean_estimate)(values[counted(values)], groups)
    method = f"{'Clopper-Pearson' if metric.share else 'Student t, widened for skew,'} over prompts, 95 %"
    return replace(template, value=mean.value, low=mean.low, high=mean.high, n=len(groups), method=method)


# Risks


def find_risks(run_id: str, features: RunFeatures, values: Values, suite: PromptSuite) -> Iterator[Finding]:
    """Blank pictures, overfitting and memorization; and against the base, generalisation and collapse."""
    yield findings.find_blanks(run_id, {str(v): of["blank"] for v, of in values.items() if "blank" in of})
    if Variant.ADAPTED not in values:
        return
    adapted, prompts = values[Variant.ADAPTED], features.prompts()
    calibration = "held-out pictures" if features.held_out is not None else "training pictures (to the other ones)"
    if "copying" in adapted and "copying" in values[Variant.REAL]:
        held_out = values[Variant.REAL]["copying"]
        yield findings.find_overfitting(run_id, adapted["copying"], held_out, prompts, calibration)
        yield _find_memorization(run_id, features, held_out, calibration)
    if Variant.BASE not in values:
        return
    base, tags = values[Variant.BASE], {prompt.slug: prompt.tags for prompt in suite.prompts}
    if "clip-content" in base and "clip-content" in adapted:
        pair = base["clip-content"], adapted["clip-content"]
        yield findings.find_generalisation(run_id, *pair, prompts, tags, features.preference)
    yield _find_collapse(run_id, features.sets.without(features.other_styles))
    if features.pixels is not None and features.pixels.base is not None:
        change = np.abs(np.asarray(features.pixels.drawn, dtype=np.float64) - features.pixels.base)
        yield findings.find_hardly_moved(run_id, change.mean(axis=1), features.gauges)


def _find_memorization(run_id: str, features: RunFeatures, held_out: Vector, calibration: str) -> Finding:
    samples = [f"{s.id} ({s.prompt}, seed {s.seed})" for s in features.samples[Variant.ADAPTED]]
    names: Sequence[str] = features.training_names or [f"training picture {i}" for i in range(len(features.training))]
    cosines, rows = nearest(features.sets.drawn[Variant.ADAPTED], features.training)
    of_features = Nearness(cosines, held_out, [names[row] for row in rows.tolist()])
    of_pixels = features.pixels and pixel_nearness(features.pixels, names)
    return findings.find_memorization(run_id, samples, of_features, of_pixels, calibration)


def _find_collapse(run_id: str, features: FeatureSet) -> Finding:
    mmd, vendi = (next(metric for metric in SET_METRICS if metric.name == name) for name in ("mmd", "vendi"))
    pair = features.drawn[Variant.BASE], features.drawn[Variant.ADAPTED]
    try:
        shift, spread = (set_difference(features, metric, *pair) for metric in (mmd, vendi))
        adapted, real = (estimate(features, vendi, variant) for variant in (Variant.ADAPTED, Variant.REAL))
        return findings.find_collapse(run_id, shift, spread, adapted, real)
    except NarutoError as error:
        return Finding(run_id, "collapse", True, f"collapse cannot be judged: {error}")
