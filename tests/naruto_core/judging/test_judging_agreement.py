"""Agreement against the krippendorff package and values computed by hand."""

import krippendorff
import numpy as np
import pytest
from scipy.stats import binomtest

from naruto_core.errors import NarutoError
from naruto_core.judging.agreement import Level, krippendorff_alpha, left_bias


def ratings(seed: int, noise: float) -> np.ndarray:
    """Four raters, sixty units, a third of the ratings missing."""
    random = np.random.default_rng(seed)
    truth = random.integers(1, 6, 60)
    grades = np.clip(np.round(truth + random.normal(0, noise, (4, 60))), 1, 5)
    grades[random.random((4, 60)) < 0.33] = np.nan
    return grades


def counts(ratings: np.ndarray) -> np.ndarray:
    """How often each unit was given each value (units, values)."""
    values = np.unique(ratings[~np.isnan(ratings)])
    return (ratings.T[:, :, None] == values).sum(axis=1).astype(np.float64)


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
@pytest.mark.parametrize("noise", [0.2, 1.0, 3.0])
def test_alpha_is_the_packages(level: Level, noise: float):
    data = ratings(1, noise)
    expected = krippendorff.alpha(reliability_data=data, level_of_measurement=level)
    assert krippendorff_alpha(counts(data), level, 50, 0).alpha == pytest.approx(expected, abs=1e-9)


def test_the_interval_covers_the_alpha_of_many_units():
    truth = np.mean([krippendorff_alpha(counts(ratings(seed, 1.0)), "ordinal", 2, 0).alpha for seed in range(100, 160)])
    results = [krippendorff_alpha(counts(ratings(seed, 1.0)), "ordinal", 100, seed) for seed in range(60)]
    assert sum(result.low <= truth <= result.high for result in results) >= 52
    assert all(result.low < result.alpha < result.high for result in results)


def test_full_agreement_is_1_and_chance_agreement_about_0():
    same = np.tile([1.0, 2.0, 3.0, 1.0], (3, 1))
    assert krippendorff_alpha(counts(same), "nominal", 50, 0).alpha == 1
    chance = np.random.default_rng(0).integers(0, 2, (3, 400)).astype(np.float64)
    assert krippendorff_alpha(counts(chance), "nominal", 50, 0).alpha == pytest.approx(0, abs=0.08)


def test_full_agreement_on_few_units_has_a_wide_interval():
    few, many = (krippendorff_alpha(np.tile([[2.0, 0.0], [0.0, 2.0]], (n, 1)), "nominal", 100, 0) for n in (1, 100))
    assert (few.alpha, few.high, many.alpha) == (1, 1, 1)
    assert few.low == pytest.approx(1 - binomtest(0, 2).proportion_ci().high)
    assert many.low > 0.98


def test_too_few_ratings_to_tell_agreement_from_chance_are_an_error():
    one_rater = np.array([[1.0, 2.0, 3.0], [np.nan] * 3])
    for data in (one_rater, np.ones((3, 10))):
        with pytest.raises(NarutoError, match="too few to tell agreement from chance"):
            krippendorff_alpha(counts(data), "nominal", 10, 0)


def test_the_left_bias_has_wilsons_interval():
    assert left_bias(60, 40) == pytest.approx((0.6, 0.502003, 0.690599), abs=1e-6)
    assert left_bias(0, 0) == (0.5, 0.0, 1.0)
