"""Intervals cover the truth as often as they claim, and tests raise no more false alarms than they claim.

The long forms, for every metric and number of prompts, are in tests/benchmarks/rates_intervals.py.
"""

import math

import numpy as np
import pytest
from scipy import stats

from naruto_core.intervals import SKEW_ALLOWANCE, Forecast, exact_share, forecast, mean_estimate, share_estimate
from naruto_core.scoring.discrimination import discriminate
from naruto_core.scoring.feature_set import each_once
from naruto_core.scoring.metrics import SET_METRICS
from naruto_core.scoring.resampling import Difference, difference, holm, jackknife, mean_measure, paired_difference
from naruto_core.scoring.set_metrics import frechet_measure
from naruto_core.scoring.verdict import verdict
from tests.benchmarks.rates_intervals import difference_world, mean_coverage, ranges_that_hold

PROMPTS, SEEDS = 40, 4
GROUPS = [str(i // SEEDS) for i in range(PROMPTS * SEEDS)]


def scores_of(rng: np.random.Generator, shift: float = 0.0) -> np.ndarray:
    """One number a picture; pictures of a prompt move together."""
    return np.repeat(rng.normal(shift, 1.0, PROMPTS), SEEDS) + rng.normal(0, 0.5, PROMPTS * SEEDS)


def covered(hits: int, worlds: int, claim: float = 0.95) -> bool:
    """Whether so many hits can be those of an interval that covers `claim` or more."""
    return hits >= stats.binom.ppf(0.001, worlds, claim - 0.02)


@pytest.mark.parametrize("prompts", [3, 9, 44])
@pytest.mark.parametrize("skew", [0.0, 2.0])
def test_the_interval_of_a_mean_covers_the_truth_from_three_prompts_on_also_of_skewed_values(prompts, skew):
    assert covered(round(300 * mean_coverage(prompts, 300, skew)), 300)


def test_an_interval_over_single_pictures_would_cover_it_in_less_than_80_of_100_worlds():
    rng = np.random.default_rng(0)
    alone = [str(i) for i in range(PROMPTS * SEEDS)]
    estimates = [mean_estimate(scores_of(rng), alone) for _ in range(200)]
    assert np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates]) < 0.8


def test_a_mean_is_students_t_of_scipy_and_needs_three_prompts():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    student, widened = mean_estimate(values, list("abcd"), allowance=0), mean_estimate(values, list("abcd"))
    assert (student.low, student.high) == pytest.approx((expected.low, expected.high))
    assert widened.high - 3.75 == pytest.approx((expected.high - 3.75) * (1 + SKEW_ALLOWANCE / 4))
    assert mean_estimate(values[:2], ["a", "b"]).high == math.inf


def test_the_difference_of_means_is_the_paired_t_test_of_scipy():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 12))
    change = difference(mean_measure(np.concatenate([first, second])), [str(i) for i in range(12)])
    expected = stats.ttest_rel(second, first)
    interval = expected.confidence_interval()
    assert (change.p, change.low, change.high) == pytest.approx((expected.pvalue, interval.low, interval.high))
    assert (change.p < 0.05) == (not change.low <= 0 <= change.high)


@pytest.mark.parametrize("metric", SET_METRICS, ids=lambda metric: metric.name)
def test_the_difference_of_equal_models_holds_0_by_every_set_metric(metric):
    rng, hits, worlds = np.random.default_rng(5), 0, 40
    for _ in range(worlds):
        change = difference_world(metric, rng, prompts=8, seeds=2)
        hits += change.low <= 0 <= change.high
        assert (change.p < 0.05) <= (not change.low <= 0 <= change.high)
    assert covered(hits, worlds)


def test_p_is_never_below_that_of_a_test_by_exchange_and_needs_six_prompts():
    same = np.concatenate([np.zeros(6), np.ones(6)])
    assert difference(mean_measure(same), list("abcdef")).p == 2 / 2**6
    few = difference(mean_measure(np.concatenate([np.zeros(5), np.ones(5)])), list("abcde"))
    assert (few.p, few.low) == (None, 1.0)
    assert str(verdict(few, 1, None)) == "cannot be judged with n = 5 prompts: at least 6 are needed"


def test_the_difference_of_two_shares_never_has_an_interval_without_width():
    change = paired_difference(np.zeros(12), np.ones(12), [str(i) for i in range(12)], share=True)
    unseen = stats.binomtest(0, 12).proportion_ci().high
    assert (change.value, change.low, change.high) == pytest.approx((1, 1 - 2 * unseen, 1))


def test_the_interval_of_a_difference_of_shares_lies_within_minus_1_and_1():
    first, second = np.array([1.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0, 0.0])
    assert difference(mean_measure(np.concatenate([first, second])), list("abcd")).low < -1
    assert paired_difference(first, second, list("abcd"), share=True).low == -1
    assert paired_difference(second, first, list("abcd"), share=True).high == 1


@pytest.mark.parametrize("lost", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("prompts", [6, 12, 44])
def test_a_difference_that_all_prompts_have_is_significant_only_where_its_interval_excludes_0(lost, prompts):
    first, groups = np.array([1 / 3, 2 / 3, 1.0, 1.0] * prompts), np.arange(prompts).repeat(4).astype(str).tolist()
    second = np.array([2 / 3, 1.0, 1.0, 1 / 3] * prompts) * (1 - lost)
    change = paired_difference(first, second, groups, share=True)
    assert (change.p < 0.05) == (not change.low <= 0 <= change.high)
    assert change.p >= 2.0 ** (1 - prompts) * (1 - 1e-9)


def _drawn(rng: np.random.Generator, shift: float) -> np.ndarray:
    centres = rng.normal(shift, 0.5, (PROMPTS, 6))
    return np.repeat(centres, SEEDS, axis=0) + rng.normal(0, 0.8, (PROMPTS * SEEDS, 6))


def test_the_interval_of_fid_covers_what_a_fresh_set_of_prompts_gives():
    rng = np.random.default_rng(4)
    reference = rng.normal(size=(400, 6))
    expected = np.mean([frechet_measure(_drawn(rng, 0.4), reference)(each_once(PROMPTS * SEEDS)) for _ in range(200)])
    estimates = [jackknife(frechet_measure(_drawn(rng, 0.4), reference), GROUPS) for _ in range(60)]
    assert covered(sum(estimate.low <= expected <= estimate.high for estimate in estimates), 60)


def test_a_share_has_clopper_and_pearsons_interval_with_its_effective_trials():
    groups = [f"p{i % 44}" for i in range(176)]
    bound = stats.binomtest(0, 44).proportion_ci().high
    for value, interval in ((0.0, (0, bound)), (1.0, (1 - bound, 1))):
        estimate = share_estimate(np.full(176, value), groups)
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value, *interval))
    exact = stats.binomtest(7, 20).proportion_ci()
    assert exact_share(7 / 20, 20).low == pytest.approx(exact.low)
    clustered = share_estimate(np.repeat([1.0, 0.0] * 10, 5), [str(i // 5) for i in range(100)])
    assert clustered.low == pytest.approx(stats.binomtest(10, 20).proportion_ci().low, abs=0.03)
    assert share_estimate([1.0] * 5, list("abcde")).low == pytest.approx(0.478, abs=0.001)


def test_a_jackknife_of_one_group_has_no_interval():
    estimate = jackknife(mean_measure([1.0, 2.0]), ["a", "a"])
    assert (estimate.value, estimate.low, estimate.high) == (1.5, -np.inf, np.inf)


def test_holms_adjustment_is_the_textbooks():
    # Holm 1979: 4 x 0.01, 3 x 0.013, 2 x 0.04 and 1 x 0.2, never falling
    assert holm([0.04, 0.01, 0.2, 0.013]) == pytest.approx([0.08, 0.04, 0.2, 0.04])
    assert holm([]) == []


def test_the_area_under_the_curve_is_mann_and_whitneys_and_below_one_half_where_a_metric_is_inverted():
    rng = np.random.default_rng(6)
    base, real = rng.normal(0, 1, 80), rng.normal(2, 1, 60)
    expected = stats.mannwhitneyu(real, base).statistic / (80 * 60)
    right, inverted, either = (discriminate(base, real, better, 250, 0) for better in (1, -1, 0))
    assert right.auc == pytest.approx(expected)
    assert right.low < right.auc < right.high
    assert inverted.auc == pytest.approx(1 - expected)
    assert (right.enough, inverted.enough) == (True, False)
    assert either.auc == discriminate(real, base, 0, 250, 0).auc == pytest.approx(expected)


def test_the_interval_of_the_area_under_the_curve_covers_the_truth_and_has_a_width_where_all_pairs_are_told_apart():
    rng, truth = np.random.default_rng(8), stats.norm.cdf(2.5 / math.sqrt(2))
    results = [discriminate(rng.normal(0, 1, 8), rng.normal(2.5, 1, 8), 1, 200, 0) for _ in range(100)]
    assert covered(sum(result.low <= truth <= result.high for result in results), 100)
    apart = discriminate(np.zeros(8), np.ones(8), 1, 200, 0)
    assert (apart.auc, apart.low, apart.high) == (1, pytest.approx(stats.binomtest(8, 8).proportion_ci().low), 1)
    base, real = scores_of(rng), rng.normal(1, 1.1, 60)
    whole, single = discriminate(base, real, 1, 200, 0, GROUPS), discriminate(base, real, 1, 200, 0)
    assert whole.high - whole.low > 1.2 * (single.high - single.low)


def test_a_clear_difference_is_better_or_worse_and_a_small_one_names_the_prompts_that_would_decide_it():
    rng = np.random.default_rng(7)
    first = scores_of(rng)
    clear = difference(mean_measure(np.concatenate([first, first + 1])), GROUPS)
    assert str(verdict(clear, 1, clear.p)) == "better"
    assert str(verdict(clear, -1, clear.p)) == "worse"
    small = Difference(0.1, -0.1, 0.3, 0.32, 40)
    assert str(verdict(small, 1, 0.32)) == "undecided, at least 4 more prompts would decide it"
    assert str(verdict(Difference(0.19, -0.01, 0.39, 0.06, 40), 1, 0.06)).startswith("undecided, up to ")
    corrected, alone = (verdict(small, 1, p).more for p in (0.96, 0.32))
    assert corrected
    assert alone
    assert corrected.low > alone.low


def test_a_forecast_is_rounded_outwards_and_open_where_the_difference_may_be_zero():
    effects = forecast(3.0, 1.0, 50, lambda effect: 100 * (3 / effect) ** 2)
    assert effects == Forecast(0, 500)
    assert forecast(1.0, 1.0, 50, lambda effect: 1000 / effect).high is None
    assert Forecast(20, 400).text("votes") == "20 to 400 more votes"
    assert (Forecast(0, 1).text("votes"), Forecast(1, None).text("prompts")) == (
        "up to 1 more vote",
        "at least 1 more prompt",
    )
    assert Forecast(0, None).text("votes") == "an unknown number of further votes"


def test_the_range_of_further_prompts_holds_in_80_of_100_worlds():
    assert ranges_that_hold(400, prompts=20) >= 0.8
