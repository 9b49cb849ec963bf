"""Metrics against people: known answers."""

import math
import random
from datetime import UTC, datetime

import pytest
from scipy import stats

from naruto_core.judging.metric_validation import ceiling, ordering, pairwise, pointwise
from naruto_core.ratings import Outcome, Rating

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def rating(unit: int, outcome: Outcome, who: str = "r", *, sides: tuple[str, str] | None = None) -> Rating:
    samples = sides or (f"a{unit}", f"b{unit}")
    return Rating(unit, who, f"p{unit % 20}", 7, samples, ("A", "B"), outcome, 3.0, NOON)


def campaign(count: int, agree: float, seed: int = 0) -> tuple[list[Rating], dict[str, float]]:
    """Votes, and a metric that chooses as they do with probability `agree`."""
    draw, ratings, scores = random.Random(seed), [], {}
    for unit in range(count):
        outcome = draw.choice((Outcome.LEFT, Outcome.RIGHT))
        high = "a" if (outcome is Outcome.LEFT) == (draw.random() < agree) else "b"
        scores |= {f"{name}{unit}": (0.6 if name == high else 0.4) + draw.random() / 10 for name in "ab"}
        ratings.append(rating(unit, outcome))
    return ratings, scores


def test_a_metric_that_always_chooses_as_people_do_is_right_and_its_opposite_wrong() -> None:
    ratings, scores = campaign(100, 1.0)
    for better, expected in ((1, 1.0), (-1, 0.0)):
        found = pairwise(ratings, scores, better)
        assert found
        assert (found.value, found.n, found.prompts) == (expected, 100, 20)


def test_the_interval_of_a_metric_that_is_right_in_seven_of_ten_holds_seven_tenths() -> None:
    held = 0
    for seed in range(60):
        found = pairwise(*campaign(120, 0.7, seed), 1)
        assert found
        held += found.low <= 0.7 <= found.high
    assert 52 <= held <= 60


def test_ties_decide_nothing_and_a_metric_without_a_choice_is_half_right() -> None:
    assert pairwise([rating(1, Outcome.TIE), rating(2, Outcome.BOTH_BAD)], {"a1": 1, "b1": 0}, 1) is None
    found = pairwise([rating(1, Outcome.LEFT)], {"a1": 0.5, "b1": 0.5}, 1)
    assert found
    assert found.value == 0.5
    assert not found.enough


def test_pictures_without_a_score_are_left_out() -> None:
    found = pairwise([rating(1, Outcome.LEFT), rating(2, Outcome.LEFT)], {"a1": 1.0, "b1": 0.0, "a2": 0.0}, 1)
    assert found
    assert found.n == 1


def test_the_ceiling_is_how_often_one_person_chooses_as_the_others_whatever_the_side() -> None:
    together = [rating(1, Outcome.LEFT, "r"), rating(1, Outcome.RIGHT, "s", sides=("b1", "a1"))]
    split = [rating(2, Outcome.LEFT, "r"), rating(2, Outcome.RIGHT, "s")]
    found = ceiling(together + split)
    assert found
    assert found.value == 0.5
    assert ceiling([rating(3, Outcome.LEFT)]) is None


def test_pointwise_is_spearmans_correlation_with_the_share_of_votes_won() -> None:
    ratings, scores = campaign(60, 0.8)
    found = pointwise(ratings, scores, 1)
    won = {}
    for one in ratings:
        for place, sample in enumerate(one.samples):
            won[sample] = float((one.answer is Outcome.LEFT) == (place == 0))
    theirs = stats.spearmanr([won[name] for name in won], [scores[name] for name in won]).statistic
    assert found
    assert found.value == pytest.approx(theirs, abs=1e-12)
    assert found.low < found.value < found.high
    assert pointwise([rating(1, Outcome.LEFT)], {"a1": 1.0}, 1) is None


def test_models_are_ordered_alike_or_the_other_way_round() -> None:
    people = {"A": 1.0, "B": 0.0, "C": -1.0}
    assert ordering(people, {"A": 30, "B": 20, "C": 10}, 1) == (1.0, 3)
    assert ordering(people, {"A": 30, "B": 20, "C": 10}, -1) == (-1.0, 3)
    assert math.isnan(ordering(people, {"A": 1.0}, 1)[0])
