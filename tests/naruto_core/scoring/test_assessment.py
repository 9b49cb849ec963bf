"""What is said of a run when something is wrong with what it is judged by: the rest is still measured."""

from dataclasses import replace

import numpy as np
import pytest

from flows.profiles import choose_recipe
from naruto_core.domain import Prompt, PromptSuite, Sample, Score, Variant
from naruto_core.errors import NarutoError
from naruto_core.recipe import METRIC_NAMES
from naruto_core.scoring.comparison import Side, compare
from naruto_core.scoring.evaluation import Evaluation, evaluate
from naruto_core.scoring.feature_set import FeatureSet, RunFeatures
from naruto_core.scoring.findings import NOT_MEASURED
from naruto_core.scoring.metrics import BY_NAME

SECTION = choose_recipe("mini").scoring.model_copy(update={"resamples": 100})
SUITE = PromptSuite("s", "f", tuple(Prompt(f"p{i}", f"text {i}", f"{i}", ("people",)) for i in range(12)), (1, 2))
RULER = Score("r", "", Variant.BASE, 0, 0, 0, 0, "", "", "ds-1")


def features(reference: int = 120, seed: int = 0) -> RunFeatures:
    """Of 24 pictures a variant, random, the adapted ones nearer to the real ones."""
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
        sets=FeatureSet("sets", prompts, rows, *real),
        pairs=FeatureSet("pairs", prompts, {v: x.copy() for v, x in rows.items()}, *real),
        more=(),
        texts=texts,
        contents=texts,
        captions=random.normal(0, 1, (40, 16)),
        training=real[1],
        new=real[0],
        blank={variant: np.zeros(24, dtype=np.bool_) for variant in kinds},
        extras={},
    )


def told(found: Evaluation) -> str:
    return next((one.sentence for one in found.findings if one.name == NOT_MEASURED), "")


def measured(found: Evaluation) -> set[str]:
    assert all(np.isfinite([score.value]).all() for score in found.scores)
    return {score.metric for score in found.scores if score.sample_id is None}


def test_with_all_in_order_every_metric_is_measured():
    found = evaluate(features(), SUITE, SECTION, RULER)
    assert told(found) == ""
    assert measured(found) == METRIC_NAMES - {"fd", "preference", "aesthetic"}


def test_a_recipe_may_name_exactly_the_metrics_there_are():
    assert set(BY_NAME) | {"fd"} == METRIC_NAMES


def test_a_reference_of_one_picture_is_said_and_what_needs_none_is_measured():
    found = evaluate(features(reference=1), SUITE, SECTION, RULER)
    assert "fid: the set of drawn pictures holds 1 pictures; this score needs at least 2." in told(found)
    assert {"clip", "clip-content", "blank"} <= measured(found)
    assert "fid" not in measured(found)


def test_too_few_pictures_for_neighbours_leave_the_distances():
    found = evaluate(features(reference=5), SUITE, SECTION, RULER)
    assert "precision: the set of drawn pictures holds 5 pictures; this score needs at least 8." in told(found)
    assert {"fid", "kid", "mmd", "clip"} <= measured(found)
    assert "recall" not in measured(found)


def test_features_that_are_not_numbers_spoil_only_what_is_made_of_them():
    whole = features()
    whole.sets.drawn[Variant.ADAPTED][3, 2] = np.nan
    found = evaluate(whole, SUITE, SECTION, RULER)
    assert "fid: the set of drawn pictures has features that are not numbers: check the extractor's" in told(found)
    assert "style of adapted is not a number" in told(found)
    assert {"clip", "clip-content", "cmmd", "blank"} <= measured(found)
    assert {score.variant for score in found.scores if score.metric == "style"} == {Variant.BASE, Variant.REAL}
    assert "generalisation" in {one.name for one in found.findings}


def test_models_measured_by_different_extractors_or_against_other_pictures_are_not_compared():
    one, other = features(), features()
    sides = [Side("a", one, Variant.ADAPTED), Side("b", other, Variant.ADAPTED)]
    assert {found.verdict.word for found in compare(*sides, SECTION)} == {"alike"}
    foreign = replace(other, sets=replace(other.sets, extractor="another"))
    with pytest.raises(NarutoError, match="measured by different extractors"):
        compare(sides[0], replace(sides[1], features=foreign), SECTION)
    moved = replace(other, sets=replace(other.sets, reference=other.sets.reference + 1))
    with pytest.raises(NarutoError, match="their reference pictures differ"):
        compare(sides[0], replace(sides[1], features=moved), SECTION)


def test_only_as_many_pictures_as_there_are_of_the_rarest_are_compared_and_the_reference_says_how_many():
    found = evaluate(features(reference=20), SUITE, SECTION, RULER)
    sets = {score.metric: score for score in found.scores if score.variant is Variant.ADAPTED}
    assert (sets["fid"].n, sets["fid"].reference) == (20, "ds-1:20")
    wide = evaluate(features(), SUITE, SECTION, RULER)
    sets = {score.metric: score for score in wide.scores if score.variant is Variant.ADAPTED}
    assert (sets["fid"].n, sets["fid"].reference, sets["recall"].reference) == (24, "ds-1:120", "ds-1:24")


def test_a_drawn_picture_that_is_a_training_picture_is_named_with_it():
    known = features()
    known.sets.drawn[Variant.ADAPTED][5] = known.training[9]
    found = evaluate(replace(known, training_names=tuple(f"t{i}" for i in range(40))), SUITE, SECTION, RULER)
    (memorized,) = [one for one in found.findings if one.name == "memorization"]
    assert memorized.warning
    assert memorized.sentence.startswith("1 of 24 drawn pictures")
    assert memorized.sentence.endswith("are copies: adapted5 (p5, seed 1) is t9 (cosine 1.0000).")
