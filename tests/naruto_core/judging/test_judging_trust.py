"""Validation of metrics against people's votes: known answers."""

import math
import random
from datetime import UTC, datetime

import pytest
from scipy import stats

from naruto_core.judging.metric_validation import (
    human_ceiling,
    ordering_correlation,
    pairwise_agreement,
    pointwise_correlation,
)
from naruto_core.ratings import Outcome, Rating

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def rating(unit: int, outcome: Outcome, who: str = "r", *, sides: tuple[str, str] | None = None) -> Rating:
    samples = sides or (f"a{unit}", f"b{unit}")
    return Rating(unit, who, f"p{unit % 20}", 7, samples, ("A", "B"), outcome, 3.0, NOON)


def campaign(count: int, agree: float, seed: int = 0) -> tuple[list[Rating], dict[str, float]]:
    """Votes, and a metric that prefers the same pictures with probability `agree`."""
    rng, ratings, scores = random.Random(seed), [], {}
    for unit in range(count):
        outcome = rng.choice((Outcome.LEFT, Outcome.RIGHT))
        high = "a" if (outcome is Outcome.LEFT) == (rng.random() < agree) else "b"
        scores |= {f"{name}{unit}": (0.6 if name == high else 0.4) + rng.random() / 10 for name in "ab"}
        ratings.append(rating(unit, outcome))
    return ratings, scores


def test_a_metric_that_always_agrees_with_people_has_1_and_its_opposite_0() -> None:
    ratings, scores = campaign(100, 1.0)
    for better, expected in ((1, 1.0), (-1, 0.0)):
        agreement = pairwise_agreement(ratings, scores, better)
        assert agreement
        assert (agreement.value, agreement.n, agreement.prompts) == (expected, 100, 20)


def test_the_interval_of_a_metric_that_agrees_in_7_of_10_votes_covers_7_tenths() -> None:
    hits = 0
    for seed in range(60):
        agreement = pairwise_agreement(*campaign(120, 0.7, seed), 1)
        assert agreement
        hits += agreement.low <= 0.7 <= agreement.high
    assert 52 <= hits <= 60


def test_ties_are_not_used_and_equal_scores_count_half() -> None:
    assert pairwise_agreement([rating(1, Outcome.TIE), rating(2, Outcome.BOTH_BAD)], {"a1": 1, "b1": 0}, 1) is None
    agreement = pairwise_agreement([rating(1, Outcome.LEFT)], {"a1": 0.5, "b1": 0.5}, 1)
    assert agreement
    assert agreement.value == 0.5
    assert not agreement.enough


def test_pictures_without_a_score_are_left_out() -> None:
    agreement = pairwise_agreement(
        [rating(1, Outcome.LEFT), rating(2, Outcome.LEFT)], {"a1": 1.0, "b1": 0.0, "a2": 0.0}, 1
    )
    assert agreement
    assert agreement.n == 1


def test_the_human_ceiling_compares_choices_by_picture_and_not_by_side() -> None:
    same_picture = [rating(1, Outcome.LEFT, "r"), rating(1, Outcome.RIGHT, "s", sides=("b1", "a1"))]
    split = [rating(2, Outcome.LEFT, "r"), rating(2, Outcome.RIGHT, "s")]
    agreement = human_ceiling(same_picture + split)
    assert agreement
    assert agreement.value == 0.5
    assert human_ceiling([rating(3, Outcome.LEFT)]) is None


def test_pointwise_is_spearmans_correlation_with_the_share_of_votes_won() -> None:
    ratings, scores = campaign(60, 0.8)
    agreement = pointwise_correlation(ratings, scores, 1)
    won = {}
    for vote in ratings:
        for side, sample in enumerate(vote.samples):
            won[sample] = float((vote.answer is Outcome.LEFT) == (side == 0))
    expected = stats.spearmanr([won[name] for name in won], [scores[name] for name in won]).statistic
    assert agreement
    assert agreement.value == pytest.approx(expected, abs=1e-12)
    assert agreement.low < agreement.value < agreement.high
    assert pointwise_correlation([rating(1, Outcome.LEFT)], {"a1": 1.0}, 1) is None


def test_models_in_the_same_order_have_a_correlation_of_1_and_in_reverse_order_minus_1() -> None:
    people = {"A": 1.0, "B": 0.0, "C": -1.0}
    assert ordering_correlation(people, {"A": 30, "B": 20, "C": 10}, 1) == (1.0, 3)
    assert ordering_correlation(people, {"A": 30, "B": 20, "C": 10}, -1) == (-1.0, 3)
    assert math.isnan(ordering_correlation(people, {"A": 1.0}, 1)[0])
