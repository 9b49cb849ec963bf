"""Intervals cover the truth as often as they claim, and tests raise no more false alarms than they claim."""

from functools import cache

import numpy as np
import pytest
from scipy import stats

from naruto_core.scoring.discrimination import discriminate
from naruto_core.scoring.feature_set import each_once
from naruto_core.scoring.resampling import bootstrap_mean, bootstrap_share, difference, holm, jackknife, mean_measure
from naruto_core.scoring.set_metrics import frechet_measure, median_mmd_measure
from naruto_core.scoring.verdict import verdict

PROMPTS, SEEDS = 40, 4
GROUPS = [str(i // SEEDS) for i in range(PROMPTS * SEEDS)]


def scores_of(rng: np.random.Generator, shift: float = 0.0) -> np.ndarray:
    """One number a picture; pictures of a prompt move together."""
    return np.repeat(rng.normal(shift, 1.0, PROMPTS), SEEDS) + rng.normal(0, 0.5, PROMPTS * SEEDS)


def covered(hits: int, worlds: int) -> bool:
    """Whether so many hits can be those of an interval that covers 92 to 98 %."""
    return stats.binom.ppf(0.001, worlds, 0.92) <= hits <= stats.binom.ppf(0.999, worlds, 0.98)


def test_the_interval_of_a_mean_covers_the_truth_in_95_of_100_worlds():
    rng = np.random.default_rng(0)
    estimates = [bootstrap_mean(scores_of(rng), GROUPS, 400, world) for world in range(500)]
    assert 0.92 <= np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates]) <= 0.98


def test_an_interval_over_single_pictures_would_cover_it_in_less_than_80_of_100_worlds():
    rng = np.random.default_rng(0)
    alone = [str(i) for i in range(PROMPTS * SEEDS)]
    estimates = [bootstrap_mean(scores_of(rng), alone, 400, world) for world in range(200)]
    assert np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates]) < 0.8


@cache
def null_worlds() -> tuple[tuple[float, bool], ...]:
    """p and whether the interval holds 0, in 500 worlds where both models are alike."""
    rng = np.random.default_rng(1)
    rows: list[tuple[float, bool]] = []
    for world in range(500):
        common = np.repeat(rng.normal(0, 1, PROMPTS), SEEDS)
        first, second = (common + 0.5 * scores_of(rng) for _ in range(2))
        change = difference(mean_measure(np.concatenate([first, second])), GROUPS, 200, world)
        rows.append((change.p, change.low <= 0 <= change.high))
    return tuple(rows)


def test_the_paired_test_raises_a_false_alarm_in_at_most_7_of_100_worlds():
    assert np.mean([p <= 0.05 for p, _ in null_worlds()]) <= 0.07


def test_the_interval_of_a_difference_covers_the_truth_in_95_of_100_worlds():
    assert 0.92 <= np.mean([inside for _, inside in null_worlds()]) <= 0.98


def _drawn(rng: np.random.Generator, shift: float) -> np.ndarray:
    centres = rng.normal(shift, 0.5, (PROMPTS, 6))
    return np.repeat(centres, SEEDS, axis=0) + rng.normal(0, 0.8, (PROMPTS * SEEDS, 6))


def test_the_interval_of_fid_covers_what_a_fresh_set_of_prompts_gives():
    rng = np.random.default_rng(4)
    reference = rng.normal(size=(400, 6))
    expected = np.mean([frechet_measure(_drawn(rng, 0.4), reference)(each_once(PROMPTS * SEEDS)) for _ in range(400)])
    estimates = [jackknife(frechet_measure(_drawn(rng, 0.4), reference), GROUPS) for _ in range(120)]
    assert covered(sum(estimate.low <= expected <= estimate.high for estimate in estimates), 120)


@pytest.mark.parametrize("metric", [frechet_measure, median_mmd_measure])
def test_the_difference_of_two_sets_covers_the_truth_and_is_0_for_equal_models(metric):
    rng = np.random.default_rng(5)
    reference = rng.normal(size=(200, 6))
    hits, alarms, worlds = 0, 0, 100
    for world in range(worlds):
        both = np.concatenate([_drawn(rng, 0.3), _drawn(rng, 0.3)])
        change = difference(metric(both, reference), GROUPS, 100, world)
        hits += change.low <= 0 <= change.high
        alarms += change.p <= 0.05
    assert covered(hits, worlds)
    assert alarms <= stats.binom.ppf(0.999, worlds, 0.05)


def test_a_share_of_0_or_1_has_clopper_and_pearsons_interval_over_prompts():
    groups = [f"p{i % 44}" for i in range(176)]
    bound = stats.binomtest(0, 44).proportion_ci().high
    for value, interval in ((0.0, (0, bound)), (1.0, (1 - bound, 1))):
        estimate = bootstrap_share(np.full(176, value), groups, 200, 0)
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value, *interval))
    mixed = np.arange(176) < 60
    assert bootstrap_share(mixed, groups, 200, 0) == bootstrap_mean(mixed, groups, 200, 0)


def test_a_jackknife_of_one_group_has_no_interval():
    estimate = jackknife(mean_measure([1.0, 2.0]), ["a", "a"])
    assert (estimate.value, estimate.low, estimate.high) == (1.5, -np.inf, np.inf)


def test_holms_adjustment_is_the_textbooks():
    # Holm 1979: 4 x 0.01, 3 x 0.013, 2 x 0.04 and 1 x 0.2, never falling
    assert holm([0.04, 0.01, 0.2, 0.013]) == pytest.approx([0.08, 0.04, 0.2, 0.04])
    assert holm([]) == []


def test_the_area_under_the_curve_is_mann_and_whitneys():
    rng = np.random.default_rng(6)
    base, real = rng.normal(0, 1, 80), rng.normal(1, 1, 60)
    expected = stats.mannwhitneyu(real, base).statistic / (80 * 60)
    discrimination = discriminate(base, real, 200, 0)
    assert discrimination.auc == pytest.approx(expected)
    assert discrimination.low < discrimination.auc < discrimination.high
    assert discrimination.enough == (expected >= 0.8)
    assert discriminate(real, base, 200, 0).auc == pytest.approx(expected)  # in either order


def test_a_clear_difference_is_better_or_worse_and_a_small_one_names_the_prompts_that_would_decide_it():
    rng = np.random.default_rng(7)
    first = scores_of(rng)
    clear = difference(mean_measure(np.concatenate([first, first + 1])), GROUPS, 500, 0)
    assert str(verdict(clear, 1, clear.p)) == "better"
    assert str(verdict(clear, -1, clear.p)) == "worse"
    second = first + 0.1 + np.repeat(rng.normal(0, 1, PROMPTS), SEEDS)
    small = difference(mean_measure(np.concatenate([first, second])), GROUPS, 500, 0)
    undecided = verdict(small, 1, small.p)
    assert undecided.word == "undecided"
    assert undecided.more
    assert f"about {undecided.more:,} more prompts would decide it" in str(undecided)


def test_with_the_prompts_that_a_verdict_asks_for_four_worlds_in_five_are_decided():
    rng = np.random.default_rng(8)

    def paired(prompts: int) -> tuple[np.ndarray, list[str]]:
        gap = 0.3 + rng.normal(0, 1, prompts)
        return np.concatenate([np.zeros(prompts), gap]), [str(i) for i in range(prompts)]

    exact = difference(mean_measure(np.concatenate([np.zeros(4), [1.3, -0.7, 1.3, -0.7]])), list("abcd"), 500, 0)
    error = 1.0  # of one prompt; the normal approximation asks for ((1.96 + 0.84) / 0.3)^2 = 87
    forecast = verdict(type(exact)(0.3, 0.3 - 1.96 * error / 2, 0.3 + 1.96 * error / 2, 0.5, 4), 1, 0.5)
    assert forecast.more == pytest.approx(84, abs=2)
    values = [paired(4 + (forecast.more or 0)) for _ in range(200)]
    decided = [difference(mean_measure(v), groups, 200, 0).p < 0.05 for v, groups in values]
    assert 0.7 < np.mean(decided) < 0.9
