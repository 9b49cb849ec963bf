"""However few prompts and seeds: figures, or a reason. Never a traceback, never a figure that is no number."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from flows.cli import _jsonable
from naruto_core.domain import Prompt, PromptSuite, Sample, Score, Variant
from naruto_core.report.tables import Compared, comparison_markdown, headline
from naruto_core.scoring.comparison import Comparison, Side, compare
from naruto_core.scoring.evaluation import evaluate
from naruto_core.scoring.feature_set import FeatureSet, RunFeatures
from naruto_core.scoring.metrics import SET_METRICS
from naruto_core.scoring.resampling import LEAST_PROMPTS
from naruto_core.scoring.set_metric import everything
from tests.naruto_core.scoring.test_assessment import RULER, SECTION

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
    sets = FeatureSet("sets", names, rows, *real)
    blank = {variant: np.zeros(n, dtype=np.bool_) for variant in KINDS}
    captions = random.normal(0, 1, (28, 16))
    return RunFeatures(samples, sets, sets, (), texts, texts, captions, real[1], real[0], blank, {})


def compared(prompts: int, seeds: int) -> list[Comparison]:
    features = drawn(prompts, seeds)
    return compare(Side("base", features, Variant.BASE), Side("adapted", features, Variant.ADAPTED), SECTION)


@pytest.mark.parametrize(("prompts", "seeds"), GRIDS)
def test_every_metric_of_a_small_grid_has_figures_or_a_reason(prompts: int, seeds: int) -> None:
    found = compared(prompts, seeds)
    assert {metric.name for metric in SET_METRICS} <= {one.metric for one in found}
    for one in found:
        if one.difference is None:
            assert one.verdict.word == "not measured"
            assert "needs at least" in str(one.verdict)
            assert (one.first, one.second, one.p) == (None, None, None)
        elif prompts < LEAST_PROMPTS:
            words = f"cannot be judged with n = {prompts} prompts: at least 6 are needed"
            alike = one.metric == "blank"  # nothing differs at all: no picture is blank
            assert str(one.verdict) == ("alike" if alike else words)
            assert (one.difference.low, one.difference.high, one.p) == (None, None, 1 if alike else None)
        else:
            assert one.verdict.word in ("better", "worse", "undecided", "more", "less", "alike")
            assert one.difference.low is not None
            assert one.difference.low <= one.difference.value <= one.difference.high or one.verdict.word == "undecided"
    json.dumps([asdict(one) for one in found], allow_nan=False)
    page = Compared("first", "second", found, prompts * seeds, 0)
    shown = comparison_markdown(page) + " ".join(headline(page))
    assert "nan" not in shown.lower().replace("cannot", "")
    assert "inf" not in shown


@pytest.mark.parametrize(("prompts", "seeds"), GRIDS)
def test_every_score_of_a_small_grid_is_a_number_with_an_interval_or_none(prompts: int, seeds: int) -> None:
    slugs = tuple(Prompt(f"p{i}", f"text {i}", f"{i}", ("people",)) for i in range(prompts))
    found = evaluate(drawn(prompts, seeds), PromptSuite("s", "f", slugs, tuple(range(seeds))), SECTION, RULER)
    sets = [score for score in found.scores if score.sample_id is None]
    assert {"clip", "style", "blank"} <= {score.metric for score in sets}
    assert all(np.isfinite(score.value) for score in found.scores)
    assert not any(np.isnan([score.low, score.high]).any() for score in found.scores)
    for score in sets:
        few = prompts < LEAST_PROMPTS and score.variant is not Variant.REAL and score.metric != "blank"
        assert score.interval is None or not few
    for finding in found.findings:
        assert not {"nan", "inf", "-inf"} & set(finding.sentence.replace("[", " ").replace("%", " ").split())
        json.dumps(finding.figures, allow_nan=False)
    told = {finding.name: finding.sentence for finding in found.findings}
    if 1 < prompts < LEAST_PROMPTS and prompts * seeds > 1:
        assert "cannot be judged" in told["collapse"]
        assert "cannot be judged" in told["generalisation"]


def test_twelve_prompts_of_one_seed_leave_out_only_what_needs_more_pictures_in_every_resample() -> None:
    found = {one.metric: one for one in compared(12, 1)}
    assert [name for name, one in found.items() if one.difference is None] == ["recall"]
    assert "resamples of the prompts count 5 different pictures; this score needs at least 6 in each" in str(
        found["recall"].verdict
    )


@pytest.mark.parametrize("metric", SET_METRICS, ids=lambda metric: metric.name)
def test_each_metric_has_a_value_from_the_fewest_pictures_that_it_says_it_needs(metric) -> None:
    random = np.random.default_rng(0)
    measure = metric.measure(random.normal(0, 1, (12, 8)), random.normal(0, 1, (12, 8)))
    counts = np.zeros(12)
    counts[: metric.least_counted] = 1
    counts[0] = 12 - metric.least_counted + 1
    assert np.isfinite(measure(counts))
    assert np.isfinite(measure(everything(12)))


def test_what_has_no_number_is_null_in_json() -> None:
    score = Score("r", "fid", Variant.BASE, 1.0, -np.inf, np.inf, 2, "", "")
    assert _jsonable([score, float("nan"), {"a": (np.float64(2.5), True, None)}]) == [
        asdict(score) | {"low": None, "high": None}, None, {"a": [2.5, True, None]}
    ]  # fmt: skip
