"""With very few prompts and seeds every metric has a value or a reason; never a traceback, never NaN."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from flows.terminal import _jsonable
from naruto_core.domain import Prompt, PromptSuite, Sample, Score, Variant
from naruto_core.intervals import LEAST_GROUPS
from naruto_core.report.tables import Compared, comparison_markdown, headline
from naruto_core.scoring.comparison import Comparison, Side, compare
from naruto_core.scoring.evaluation import evaluate
from naruto_core.scoring.feature_set import FeatureSet, RunFeatures, each_once
from naruto_core.scoring.metrics import SET_METRICS
from naruto_core.scoring.resampling import LEAST_PROMPTS
from tests.naruto_core.scoring.test_evaluation import SECTION, TEMPLATE

GRIDS = [(prompts, seeds) for prompts in range(1, 5) for seeds in range(1, 5)] + [(12, 1), (8, 1), (6, 2), (5, 8)]
KINDS = {Variant.BASE: 0.8, Variant.ADAPTED: 0.3}
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def drawn(prompts: int, seeds: int) -> RunFeatures:
    random, n = np.random.default_rng(prompts * 10 + seeds), prompts * seeds
    names = [f"p{i % prompts}" for i in range(n)]
    rows = {variant: random.normal(shift, 1, (n, 16)) for variant, shift in KINDS.items()}
    samples = {
        variant: tuple(Sample(f"{variant}{i}", "r", variant, p, i // prompts, "", "") for i, p in enumerate(names))
        for variant in KINDS
    }
    real = random.normal(0, 1, (24, 16)), random.normal(0, 1, (28, 16))
    texts = random.normal(0, 1, (n, 16))
    sets = FeatureSet("inception", names, rows, *real)
    blank = {variant: np.zeros(n, dtype=np.bool_) for variant in KINDS}
    captions = random.normal(0, 1, (28, 16))
    return RunFeatures(samples, sets, sets, (), texts, texts, captions, real[1], real[0], blank, {})


def compared(prompts: int, seeds: int) -> list[Comparison]:
    features = drawn(prompts, seeds)
    return compare(Side("base", features, Variant.BASE), Side("adapted", features, Variant.ADAPTED), SECTION)


@pytest.mark.parametrize(("prompts", "seeds"), GRIDS)
def test_every_metric_of_a_small_grid_has_values_or_a_reason(prompts: int, seeds: int) -> None:
    comparisons = compared(prompts, seeds)
    assert {metric.name for metric in SET_METRICS} <= {comparison.metric for comparison in comparisons}
    for comparison in comparisons:
        word, difference, values = comparison.verdict.word, comparison.difference, (comparison.first, comparison.second)
        if difference is None:
            assert word == "not measured"
            assert "needs at least" in str(comparison.verdict)
            assert (*values, comparison.p) == (None, None, None)
        elif prompts < LEAST_PROMPTS:
            counted = "1 prompt" if prompts == 1 else f"{prompts} prompts"
            not_judged = f"cannot be judged with n = {counted}: at least 6 are needed"
            alike = comparison.metric == "blank"  # nothing differs at all: no picture is blank
            assert str(comparison.verdict) == ("alike" if alike else not_judged)
            assert comparison.p == (1 if alike else None)
            assert (difference.low is None, difference.high is None) == (prompts < LEAST_GROUPS,) * 2
        else:
            assert word in ("better", "worse", "undecided", "more", "less", "alike")
            assert difference.low is not None
            assert difference.low <= difference.value <= difference.high or word == "undecided"
    json.dumps([asdict(comparison) for comparison in comparisons], allow_nan=False)
    page = Compared("first", "second", comparisons, prompts * seeds, 0)
    shown = comparison_markdown(page) + " ".join(headline(page))
    assert "nan" not in shown.lower().replace("cannot", "")
    assert "inf" not in shown


@pytest.mark.parametrize(("prompts", "seeds"), GRIDS)
def test_every_score_of_a_small_grid_is_a_number_with_an_interval_or_none(prompts: int, seeds: int) -> None:
    slugs = tuple(Prompt(f"p{i}", f"text {i}", f"{i}", ("people",)) for i in range(prompts))
    evaluation = evaluate(drawn(prompts, seeds), PromptSuite("s", "f", slugs, tuple(range(seeds))), SECTION, TEMPLATE)
    sets = [score for score in evaluation.scores if score.sample_id is None]
    assert {"clip", "style", "blank"} <= {score.metric for score in sets}
    assert all(np.isfinite(score.value) for score in evaluation.scores)
    assert not any(np.isnan([score.low, score.high]).any() for score in evaluation.scores)
    for score in sets:
        few = prompts < LEAST_GROUPS and score.variant is not Variant.REAL and score.metric != "blank"
        assert score.interval is None or not few
        assert score.metric != "fid" or score.n >= 16
    for finding in evaluation.findings:
        assert not {"nan", "inf", "-inf"} & set(finding.sentence.replace("[", " ").replace("%", " ").split())
        json.dumps(finding.figures, allow_nan=False)
    sentences = {finding.name: finding.sentence for finding in evaluation.findings}
    if 1 < prompts < LEAST_PROMPTS and prompts * seeds > 1:
        assert "cannot be judged" in sentences["collapse"]
        assert "cannot be judged" in sentences["generalisation"]


def test_of_twelve_pictures_only_fid_is_not_measured() -> None:
    comparisons = {comparison.metric: comparison for comparison in compared(12, 1)}
    assert [name for name, comparison in comparisons.items() if comparison.difference is None] == ["fid"]
    assert "holds 12 pictures; this score needs at least 16" in str(comparisons["fid"].verdict)


@pytest.mark.parametrize("metric", SET_METRICS, ids=lambda metric: metric.name)
def test_each_metric_has_a_value_from_the_fewest_pictures_that_it_says_it_needs(metric) -> None:
    random = np.random.default_rng(0)
    measure = metric.measure(random.normal(0, 1, (16, 8)), random.normal(0, 1, (16, 8)))
    counts = np.zeros(16)
    counts[: metric.least_counted] = 1
    counts[0] = 16 - metric.least_counted + 1
    assert np.isfinite(measure(counts))
    assert np.isfinite(measure(each_once(16)))


def test_values_that_are_not_finite_are_null_in_json() -> None:
    score = Score("r", "fid", Variant.BASE, 1.0, -np.inf, np.inf, 2, "", "")
    assert _jsonable([score, float("nan"), {"a": (np.float64(2.5), True, None)}]) == [
        asdict(score) | {"low": None, "high": None}, None, {"a": [2.5, True, None]}
    ]  # fmt: skip
