"""The evaluation of a run: every metric of every variant from its features, with intervals; and the risks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from naruto_core.domain import Finding, PromptSuite, Score, Variant
from naruto_core.errors import NarutoError
from naruto_core.recipe import ScoringSection
from naruto_core.scoring import findings, torchmetrics_fid
from naruto_core.scoring.discrimination import BLOCKS, ENOUGH, Discrimination, discriminate
from naruto_core.scoring.feature_set import FeatureSet, RunFeatures, Values, Vector, compared, discrimination, estimate
from naruto_core.scoring.findings import find_unusable
from naruto_core.scoring.memorization import nearest
from naruto_core.scoring.metrics import SAMPLE_METRICS, SET_METRICS, SampleMetric
from naruto_core.scoring.resampling import bootstrap_mean, bootstrap_share
from naruto_core.scoring.set_metric import NOT_NUMBERS, SetMetric


def find_risks(
    run_id: str, features: RunFeatures, values: Values, suite: PromptSuite, section: ScoringSection
) -> Iterator[Finding]:
    """Blank pictures, overfitting, memorization, and against the base generalisation and collapse."""
    yield findings.find_blanks(run_id, {str(v): of["blank"] for v, of in values.items() if "blank" in of})
    if Variant.ADAPTED not in values:
        return
    adapted, prompts, seed = values[Variant.ADAPTED], features.prompts(), section.seed
    who = "held-out pictures" if features.new is not None else "training pictures (to the other ones)"
    if "copying" in adapted and "copying" in values[Variant.REAL]:
        new = values[Variant.REAL]["copying"]
        yield findings.find_overfitting(run_id, adapted["copying"], new, prompts, seed, who)
        yield _memorization(run_id, features, new, who)
    if Variant.BASE not in values:
        return
    base, tags = values[Variant.BASE], {prompt.slug: prompt.tags for prompt in suite.prompts}
    if "clip-content" in base and "clip-content" in adapted:
        pair = base["clip-content"], adapted["clip-content"]
        yield findings.find_generalisation(run_id, *pair, prompts, tags, seed)
    yield _collapse(run_id, features, section)


def _memorization(run_id: str, features: RunFeatures, new: Vector, who: str) -> Finding:
    cosines, which = nearest(features.sets.drawn[Variant.ADAPTED], features.training)
    samples = [f"{s.id} ({s.prompt}, seed {s.seed})" for s in features.samples[Variant.ADAPTED]]
    names = features.training_names or [f"training picture {i}" for i in range(len(features.training))]
    return findings.find_memorization(run_id, cosines, new, samples, [names[i] for i in which.tolist()], who)


def _collapse(run_id: str, features: RunFeatures, section: ScoringSection) -> Finding:
    evidence, by_name = features.sets, {metric.name: metric for metric in SET_METRICS}
    pair = evidence.drawn[Variant.BASE], evidence.drawn[Variant.ADAPTED]
    try:
        shift, spread = (
            compared(evidence, by_name[name], *pair, section.resamples, section.seed) for name in ("mmd", "vendi")
        )
        kinds = (estimate(evidence, by_name["vendi"], variant) for variant in (Variant.ADAPTED, Variant.REAL))
        return findings.find_collapse(run_id, shift, spread, *kinds)
    except NarutoError as error:
        return Finding(run_id, "collapse", True, f"collapse cannot be judged: {error}")


CLIP_STYLE_METRIC, STYLE_TAG = "clip on base styles", "style"  # of prompts that belong to the base model


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All scores of a run and what was found; a metric that could not be had is a finding with the reason."""

    scores: list[Score]
    findings: list[Finding]


def evaluate(features: RunFeatures, suite: PromptSuite, section: ScoringSection, ruler: Score) -> Evaluation:
    """Everything that can be said of a run.

    `ruler` carries what all its scores have in common: run, reference, details.
    """
    scores: list[Score] = []
    unmeasured: list[str] = []
    for metric, evidence in wanted(features):
        try:
            scores += _set_scores(ruler, metric, evidence, section.seed)
        except NarutoError as error:
            unmeasured.append(f"{metric.name}: {error}")
    values = _numbers_only(features.values(), unmeasured)
    alone = replace(ruler, reference="")
    against = {"style": len(features.sets.reference), "copying": len(features.training)}
    for metric in SAMPLE_METRICS:  # most judge a picture by itself
        size = against.get(metric.name)
        known = replace(ruler, reference=f"{ruler.reference}:{size}") if size else alone
        scores += _sample_scores(known, metric, features, values, section)
    scores += _own_styles(alone, suite, features, values, section)
    blind = [s.metric for s in scores if s.variant is Variant.REAL and float(s.details.get("auc", 1)) < ENOUGH]
    found = [
        *find_risks(ruler.run_id, features, values, suite, section),
        *find_unusable(ruler.run_id, blind, unmeasured),
    ]
    return Evaluation(scores, found)


def _numbers_only(values: Values, unmeasured: list[str]) -> Values:
    """`values` without the metrics of a variant that are not numbers, which are named in `unmeasured`."""
    for variant, of_variant in values.items():
        for name in [name for name, found in of_variant.items() if not np.isfinite(found).all()]:
            del of_variant[name]
            unmeasured.append(f"{name} of {variant} is not a number: {NOT_NUMBERS}")
    return values


def wanted(features: RunFeatures) -> Iterator[tuple[SetMetric, FeatureSet]]:
    """Each set metric with the features it is meant for: CMMD is of CLIP's, fd is FID of another network's."""
    for metric in SET_METRICS:
        yield metric, features.pairs if metric.name == "cmmd" else features.sets
        if metric.name == "fid":
            yield from ((replace(metric, name="fd"), evidence) for evidence in features.more)


def _set_scores(ruler: Score, metric: SetMetric, evidence: FeatureSet, seed: int) -> Iterator[Score]:
    told = discrimination(evidence, metric, seed) if Variant.BASE in evidence.drawn else None
    known = replace(ruler, metric=metric.name, n=evidence.n, extractor=evidence.extractor, version=metric.version)
    known = replace(known, reference=f"{ruler.reference}:{len(evidence.opposite(metric))}")
    for variant in [*evidence.drawn, Variant.REAL]:
        real = variant is Variant.REAL
        found = estimate(evidence, metric, variant)
        this = replace(
            known,
            variant=variant,
            value=found.value,
            low=found.low,
            high=found.high,
            method="jackknife over prompts, 95 %",
            details=ruler.details | (_told(told) if real else {}),
        )
        if metric.name == "fid":  # the figure as everybody knows it; the interval is of the same closed form
            value = torchmetrics_fid.fid(evidence.rows(variant), evidence.reference)
            this = replace(this, value=value, version=torchmetrics_fid.fid_version())
        yield this


def _told(found: Discrimination | None) -> dict[str, str | float]:
    return {"auc": found.auc, "auc_low": found.low, "auc_high": found.high} if found else {}


def _sample_scores(
    ruler: Score, metric: SampleMetric, features: RunFeatures, values: Values, section: ScoringSection
) -> Iterator[Score]:
    """The mean of a metric for every variant, and one score a picture."""
    told = _of_sample_metric(metric, values, section.seed)
    known = replace(ruler, metric=metric.name, version=metric.version, extractor=features.measured_by(metric.name))
    for variant, of_variant in values.items():
        if (found := of_variant.get(metric.name)) is None:
            continue
        rows = features.samples.get(variant, ())
        groups = [row.prompt for row in rows] or [str(index) for index in range(len(found))]
        details = ruler.details | (_told(told) if variant is Variant.REAL else {})
        yield _mean(replace(known, variant=variant, details=details), found, groups, section)
        for value, row in zip(found.tolist(), rows, strict=False):
            alone = replace(known, variant=variant, value=value, low=value, high=value, n=1)
            yield replace(alone, sample_id=row.id, details={})


def _of_sample_metric(metric: SampleMetric, values: Values, seed: int) -> Discrimination | None:
    base, real = (values.get(variant, {}).get(metric.name) for variant in (Variant.BASE, Variant.REAL))
    if base is None or real is None or min(len(base), len(real)) < BLOCKS:
        return None
    return discriminate(base, real, seed)


def _own_styles(
    ruler: Score, suite: PromptSuite, features: RunFeatures, values: Values, section: ScoringSection
) -> Iterator[Score]:
    """The CLIP score of prompts that ask for a style of the base: what the adapter cost."""
    own = {prompt.slug for prompt in suite.prompts if STYLE_TAG in prompt.tags}
    part = np.array([prompt in own for prompt in features.prompts()])
    if not part.any():
        return
    groups = [prompt for prompt in features.prompts() if prompt in own]
    known = replace(ruler, metric=CLIP_STYLE_METRIC, extractor=features.pairs.extractor, version="cosine 1")
    for variant in features.samples:
        if (found := values[variant].get("clip")) is not None:
            yield _mean(replace(known, variant=variant), found[part], groups, section)


def _mean(known: Score, values: Vector, groups: Sequence[str], section: ScoringSection) -> Score:
    shares = known.metric == "blank"
    found = (bootstrap_share if shares else bootstrap_mean)(values, groups, section.resamples, section.seed)
    method = f"bootstrap over prompts, {section.resamples} resamples, 95 %"
    method += " (Clopper-Pearson where all are alike)" if shares else ""
    return replace(known, value=found.value, low=found.low, high=found.high, n=len(groups), method=method)
