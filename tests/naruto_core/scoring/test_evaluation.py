"""The evaluation of a run: a metric that cannot be measured is reported, and the other ones are measured."""

from dataclasses import replace

import numpy as np
import pytest

from flows.profiles import choose_recipe
from naruto_core.domain import NOT_MEASURED, Prompt, PromptSuite, Sample, Score, Variant
from naruto_core.errors import NarutoError
from naruto_core.report.tables import anchored
from naruto_core.scoring.comparison import Side, compare
from naruto_core.scoring.evaluation import Evaluation, evaluate
from naruto_core.scoring.feature_set import Extra, FeatureSet, RunFeatures, each_once
from naruto_core.scoring.metrics import BY_NAME, SET_METRICS
from naruto_core.scoring.set_metrics import ON_BASE_STYLES

SECTION = choose_recipe("mini").scoring.model_copy(update={"resamples": 100})
SUITE = PromptSuite("s", "f", tuple(Prompt(f"p{i}", f"text {i}", f"{i}", ("people",)) for i in range(12)), (1, 2))
TEMPLATE = Score("r", "", Variant.BASE, 0, 0, 0, 0, "", "", "ds-1")


def features(reference: int = 120, seed: int = 0) -> RunFeatures:
    """Random features of 24 pictures a variant; the adapted ones are nearer to the real ones."""
    random = np.random.default_rng(seed)
    prompts = [f"p{i % 12}" for i in range(24)]
    kinds = {Variant.BASE: 0.8, Variant.ADAPTED: 0.3}
    rows = {variant: random.normal(shift, 1, (24, 16)) for variant, shift in kinds.items()}
    samples = {
        variant: tuple(Sample(f"{variant}{i}", "r", variant, p, 1 + i // 12, "", "") for i, p in enumerate(prompts))
        for variant in kinds
    }
    real = random.normal(0, 1, (reference, 16)), random.normal(0, 1, (40, 16))
    texts = random.normal(0, 1, (24, 16))
    return RunFeatures(
        samples=samples,
        sets=FeatureSet("inception", prompts, rows, *real),
        pairs=FeatureSet("pairs", prompts, {v: x.copy() for v, x in rows.items()}, *real),
        further_sets=(),
        texts=texts,
        contents=texts,
        captions=random.normal(0, 1, (40, 16)),
        training=real[1],
        held_out=real[0],
        blank={variant: np.zeros(24, dtype=np.bool_) for variant in kinds},
        extras={},
    )


def not_measured(evaluation: Evaluation) -> str:
    return next((finding.sentence for finding in evaluation.findings if finding.name == NOT_MEASURED), "")


def measured(evaluation: Evaluation) -> set[str]:
    assert all(np.isfinite([score.value]).all() for score in evaluation.scores)
    return {score.metric for score in evaluation.scores if score.sample_id is None}


def test_every_metric_is_measured_where_nothing_is_missing():
    evaluation = evaluate(features(), SUITE, SECTION, TEMPLATE)
    assert not_measured(evaluation) == ""
    with_the_main_networks = {name for name, metric in BY_NAME.items() if metric.extractor != "own"}
    assert measured(evaluation) == with_the_main_networks - {"prior-drift"}


def test_a_reference_of_one_picture_is_reported_and_metrics_without_a_reference_are_measured():
    evaluation = evaluate(features(reference=1), SUITE, SECTION, TEMPLATE)
    assert "fid: the set of drawn pictures holds 1 picture; this score needs at least 16." in not_measured(evaluation)
    assert {"clip", "clip-content", "blank"} <= measured(evaluation)
    assert "fid" not in measured(evaluation)


def test_too_few_pictures_for_neighbours_leave_the_distances():
    evaluation = evaluate(features(reference=5), SUITE, SECTION, TEMPLATE)
    assert "precision: the set of drawn pictures holds 5 pictures; this score needs at least 8." in not_measured(
        evaluation
    )
    assert {"kid", "mmd", "clip"} <= measured(evaluation)
    assert "recall" not in measured(evaluation)


def test_features_that_are_not_numbers_affect_only_the_metrics_that_use_them():
    broken = features()
    broken.sets.drawn[Variant.ADAPTED][3, 2] = np.nan
    evaluation = evaluate(broken, SUITE, SECTION, TEMPLATE)
    assert "fid: the set of drawn pictures has features that are not numbers: check the extractor's" in not_measured(
        evaluation
    )
    assert "style of adapted is not a number" in not_measured(evaluation)
    assert {"clip", "clip-content", "cmmd", "blank"} <= measured(evaluation)
    assert {score.variant for score in evaluation.scores if score.metric == "style"} == {Variant.BASE, Variant.REAL}
    assert "generalisation" in {finding.name for finding in evaluation.findings}


def test_pictures_that_a_metric_says_nothing_of_are_not_counted():
    asked = np.array([1.0, np.nan] * 12)  # every second prompt asks for a hair colour
    values = {Variant.BASE: asked, Variant.ADAPTED: asked * (np.arange(24) >= 6)}
    run = replace(features(), extras={name: Extra("reader", values) for name in ("attributes", "attributes-hair")})
    scores = [s for s in evaluate(run, SUITE, SECTION, TEMPLATE).scores if s.metric == "attributes-hair"]
    means = {s.variant: s for s in scores if s.sample_id is None}
    assert (means[Variant.BASE].value, means[Variant.BASE].n) == (1.0, 12)
    assert (means[Variant.ADAPTED].value, means[Variant.ADAPTED].n) == (0.75, 12)
    assert len([s for s in scores if s.sample_id]) == 2 * 12
    sides = Side("base", run, Variant.BASE), Side("adapted", run, Variant.ADAPTED)
    (change,) = (c for c in compare(*sides, SECTION) if c.metric == "attributes")
    assert change.difference is not None
    assert (change.first, change.second, change.n, change.difference.value) == (1.0, 0.75, 12, -0.25)
    assert "attributes" not in {c.metric for c in compare(*(replace(s, features=features()) for s in sides), SECTION)}


def test_prior_drift_is_the_distance_from_the_bases_pictures_of_other_styles_only():
    tags = {f"p{i}": ("style",) if i < 3 else ("portrait",) for i in range(12)}
    run = replace(features(), other_styles=frozenset(prompt for prompt, of in tags.items() if of == ("style",)))
    base, adapted = (run.sets.drawn[variant] for variant in (Variant.BASE, Variant.ADAPTED))
    rows = [row for row, prompt in enumerate(run.prompts()) if tags[prompt] == ("style",)]
    expected = np.mean([1 - b @ a / np.sqrt(b @ b * (a @ a)) for b, a in zip(base[rows], adapted[rows], strict=True)])
    (drift,) = (s for s in evaluate(run, SUITE, SECTION, TEMPLATE).scores if s.metric == "prior-drift" and s.n > 1)
    assert (drift.variant, drift.n, drift.value) == (Variant.ADAPTED, 6, pytest.approx(expected))
    assert drift.extractor == "inception"
    further = replace(run, further_sets=(replace(run.pairs, extractor="dino"),))
    (drift,) = (s for s in evaluate(further, SUITE, SECTION, TEMPLATE).scores if s.metric == "prior-drift" and s.n > 1)
    assert drift.extractor == "dino"


def test_models_with_different_extractors_or_reference_pictures_are_not_compared():
    first, second = features(), features()
    sides = [Side("a", first, Variant.ADAPTED), Side("b", second, Variant.ADAPTED)]
    assert {comparison.verdict.word for comparison in compare(*sides, SECTION)} == {"alike"}
    foreign = replace(second, sets=replace(second.sets, extractor="another"))
    with pytest.raises(NarutoError, match="measured by different extractors"):
        compare(sides[0], replace(sides[1], features=foreign), SECTION)
    moved = replace(second, sets=replace(second.sets, reference=second.sets.reference + 1))
    with pytest.raises(NarutoError, match="their reference pictures differ"):
        compare(sides[0], replace(sides[1], features=moved), SECTION)


def test_set_metrics_use_as_many_pictures_as_there_are_of_the_rarest_kind_and_the_reference_gives_their_number():
    evaluation = evaluate(features(reference=20), SUITE, SECTION, TEMPLATE)
    sets = {score.metric: score for score in evaluation.scores if score.variant is Variant.ADAPTED}
    assert (sets["fid"].n, sets["fid"].reference) == (20, "ds-1:20")
    wide = evaluate(features(), SUITE, SECTION, TEMPLATE)
    sets = {score.metric: score for score in wide.scores if score.variant is Variant.ADAPTED}
    assert (sets["fid"].n, sets["fid"].reference, sets["recall"].reference) == (24, "ds-1:120", "ds-1:24")


def test_a_drawn_picture_that_is_a_copy_is_named_with_its_training_picture():
    copied = features()
    copied.sets.drawn[Variant.ADAPTED][5] = copied.training[9]
    evaluation = evaluate(replace(copied, training_names=tuple(f"t{i}" for i in range(40))), SUITE, SECTION, TEMPLATE)
    (memorized,) = [finding for finding in evaluation.findings if finding.name == "memorization"]
    assert memorized.warning
    assert memorized.sentence.startswith("1 of 24 drawn pictures")
    assert memorized.sentence.endswith("are copies: adapted5 (p5, seed 1) is t9 (cosine 1.0000).")


def test_set_scores_leave_out_prompts_for_other_styles_and_sample_scores_do_not():
    own, mixed = features(), replace(features(), other_styles=frozenset({"p1", "p7"}))
    mixed.sets.drawn[Variant.ADAPTED][[1, 7, 13, 19]] += 50  # pictures of another style
    scores = evaluate(mixed, SUITE, SECTION, TEMPLATE).scores
    fid = next(s for s in scores if (s.metric, s.variant) == ("fid", Variant.ADAPTED))
    assert (fid.n, fid.value < 30) == (20, True)
    clip = next(s for s in scores if (s.metric, s.variant, s.sample_id) == ("clip", Variant.ADAPTED, None))
    assert clip.n == 24
    pairs = compare(*(Side(str(v), mixed, v) for v in (Variant.BASE, Variant.ADAPTED)), SECTION)
    assert {pair.metric: pair.n for pair in pairs} | {"fid": 20, "clip": 24} == {p.metric: p.n for p in pairs}
    assert own.sets.without(frozenset()) is own.sets


def test_prompts_for_other_styles_have_set_scores_of_their_own_without_an_anchor():
    others = frozenset(f"p{i}" for i in range(8))
    run = replace(features(), other_styles=others)
    rows = [row for row, prompt in enumerate(run.prompts()) if prompt in others]
    scores = [s for s in evaluate(run, SUITE, SECTION, TEMPLATE).scores if s.metric.endswith(ON_BASE_STYLES)]
    assert {s.metric for s in scores} >= {"fid on base styles", "mmd on base styles", "vendi on base styles"}
    drawn = {s.variant: s for s in scores if s.metric == "mmd on base styles"}
    assert set(drawn) == {Variant.BASE, Variant.ADAPTED}
    mmd = next(metric for metric in SET_METRICS if metric.name == "mmd")
    expected = mmd.measure(run.sets.drawn[Variant.ADAPTED][rows], run.sets.reference)(each_once(16))
    assert (drawn[Variant.ADAPTED].value, drawn[Variant.ADAPTED].n) == (pytest.approx(expected), 16)
    assert anchored(drawn[Variant.ADAPTED], scores) is None
    few = replace(features(), other_styles=frozenset({"p1"}))
    names = {score.metric for score in evaluate(few, SUITE, SECTION, TEMPLATE).scores}
    assert "fid on base styles" not in names


def test_captions_of_real_pictures_are_no_anchor_for_the_prompts_of_the_suite():
    scores = evaluate(features(), SUITE, SECTION, TEMPLATE).scores
    means = [score for score in scores if score.sample_id is None]
    for metric in ("clip", "style"):
        adapted = next(s for s in means if (s.metric, s.variant) == (metric, Variant.ADAPTED))
        real = next(s for s in means if (s.metric, s.variant) == (metric, Variant.REAL))
        assert (anchored(adapted, scores) is None) == (metric == "clip")
        assert ("auc" in real.details) == (metric != "clip")
