"""What a network itself prefers a style by is in the interval of a difference of content."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from naruto_core.domain import Variant
from naruto_core.report.score_table import headline_table, with_changes
from naruto_core.scoring.comparison import Side, compare
from naruto_core.scoring.evaluation import evaluate
from naruto_core.scoring.feature_set import StylePreference
from naruto_core.scoring.features import load_extractor
from naruto_core.scoring.resampling import Difference
from naruto_core.scoring.style_preference import known_preference, limits
from naruto_core.scoring.verdict import verdict
from tests.benchmarks.rates_intervals import content_coverage
from tests.naruto_core.scoring.test_evaluation import SECTION, SUITE, TEMPLATE, features


def test_the_interval_of_a_change_of_content_covers_it_and_subtracting_the_mean_preference_would_not():
    allowed, subtracted = content_coverage(300)
    assert allowed >= 0.95
    assert subtracted < 0.85


def test_a_difference_within_the_preference_is_undecided_and_one_beyond_it_is_not():
    change = Difference(-0.017, -0.031, -0.003, 0.02, 44)
    within, beyond = change.allowing_for(-0.02, 0.01), change.allowing_for(-0.002, 0.0)
    assert (within.low, within.high, within.p) == (pytest.approx(-0.041), pytest.approx(0.017), 1.0)
    assert str(verdict(within, 1, within.p)).startswith("undecided; -0.020 to +0.010 may be the network's own")
    assert (beyond.value, beyond.error) == (change.value, pytest.approx(change.error))
    assert (beyond.p < 0.05) == (not beyond.low <= 0 <= beyond.high)
    assert str(verdict(beyond, 1, beyond.p)) == "worse"


def test_the_limits_hold_the_interval_of_every_mean_and_zero():
    above = limits([np.array([0.01, 0.03]), np.array([0.05, 0.05])])
    assert (above.low, above.high, above.n) == (0.0, 0.05, 2)


def test_only_the_difference_of_base_and_adapted_model_allows_for_it_and_the_table_says_so():
    run = replace(features(), preference=StylePreference(-0.02, 0.01, 200))
    base, adapted = (Side(str(v), run, v) for v in (Variant.BASE, Variant.ADAPTED))
    other = replace(adapted, features=replace(run, contents=run.contents[::-1]))
    there, back, same = (
        next(comparison for comparison in compare(*sides, SECTION) if comparison.metric == "clip-content")
        for sides in ((base, adapted), (adapted, base), (adapted, other))
    )
    assert there.difference.allowance == (-0.02, 0.01)
    assert back.difference.allowance == (-0.01, 0.02)
    assert same.difference.allowance == (0.0, 0.0)
    scores = with_changes(evaluate(run, SUITE, SECTION, TEMPLATE).scores, compare(base, adapted, SECTION))
    assert "prefers a style by,\n-0.020 to +0.010." in headline_table(scores, [])


def test_the_preference_of_the_shipped_judge_is_known():
    judge = load_extractor("package:naruto_core.mini/weights/judge", torch.device("cpu"))
    known = known_preference(judge.id)
    assert known, "measure it: python -m naruto_core.scoring.style_preference"
    assert -0.05 < known.low < 0 < known.high < 0.05
    assert known_preference("open_clip:other") is None
