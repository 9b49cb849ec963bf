"""Validation of metrics against people's votes: known answers."""

import math
import random

import pytest
from scipy import stats

from naruto_core.judging.metric_validation import (
    human_ceiling,
    ordering_correlation,
    pairwise_agreement,
    pointwise_correlation,
)
from naruto_core.ratings import AnswerCount, Outcome


def answer(unit: int, outcome: Outcome, count: int = 1, *, sides: tuple[str, str] | None = None) -> AnswerCount:
    samples = sides or (f"a{unit}", f"b{unit}")
    return AnswerCount(unit, f"p{unit % 20}", samples, ("A", "B"), outcome, count)


def campaign(count: int, agree: float, seed: int = 0) -> tuple[list[AnswerCount], dict[str, float]]:
    """Votes, and a metric that prefers the same pictures with probability `agree`."""
    rng, answers, scores = random.Random(seed), [], {}
    for unit in range(count):
        outcome = rng.choice((Outcome.LEFT, Outcome.RIGHT))
        high = "a" if (outcome is Outcome.LEFT) == (rng.random() < agree) else "b"
        scores |= {f"{name}{unit}": (0.6 if name == high else 0.4) + rng.random() / 10 for name in "ab"}
        answers.append(answer(unit, outcome))
    return answers, scores


def test_a_metric_that_always_agrees_with_people_has_1_and_its_opposite_0() -> None:
    answers, scores = campaign(100, 1.0)
    for better, expected in ((1, 1.0), (-1, 0.0)):
        agreement = pairwise_agreement(answers, scores, better)
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
    assert pairwise_agreement([answer(1, Outcome.TIE), answer(2, Outcome.BOTH_BAD)], {"a1": 1, "b1": 0}, 1) is None
    agreement = pairwise_agreement([answer(1, Outcome.LEFT)], {"a1": 0.5, "b1": 0.5}, 1)
    assert agreement
    assert agreement.value == 0.5
    assert not agreement.enough


def test_pictures_without_a_score_are_left_out() -> None:
    agreement = pairwise_agreement(
        [answer(1, Outcome.LEFT), answer(2, Outcome.LEFT)], {"a1": 1.0, "b1": 0.0, "a2": 0.0}, 1
    )
    assert agreement
    assert agreement.n == 1


def test_the_human_ceiling_compares_choices_by_picture_and_not_by_side() -> None:
    same_picture = [answer(1, Outcome.LEFT), answer(1, Outcome.RIGHT, sides=("b1", "a1"))]
    split = [answer(2, Outcome.LEFT), answer(2, Outcome.RIGHT)]
    agreement = human_ceiling(same_picture + split)
    assert agreement
    assert agreement.value == 0.5
    assert human_ceiling([answer(3, Outcome.LEFT)]) is None


def test_counted_answers_give_what_as_many_single_answers_give() -> None:
    rng, (_, scores) = random.Random(4), campaign(40, 0.7)
    counted = [answer(unit, outcome, rng.randrange(1, 5)) for unit in range(40) for outcome in Outcome]
    single = [answer(one.unit_id, one.answer) for one in counted for _ in range(one.count)]
    assert human_ceiling(counted) == human_ceiling(single)
    for measure in (pairwise_agreement, pointwise_correlation):
        assert measure(counted, scores, 1) == measure(single, scores, 1)


def test_pointwise_is_spearmans_correlation_with_the_share_of_votes_won() -> None:
    answers, scores = campaign(60, 0.8)
    agreement = pointwise_correlation(answers, scores, 1)
    won = {}
    for vote in answers:
        for side, sample in enumerate(vote.samples):
            won[sample] = float((vote.answer is Outcome.LEFT) == (side == 0))
    expected = stats.spearmanr([won[name] for name in won], [scores[name] for name in won]).statistic
    assert agreement
    assert agreement.value == pytest.approx(expected, abs=1e-12)
    assert agreement.low < agreement.value < agreement.high
    assert pointwise_correlation([answer(1, Outcome.LEFT)], {"a1": 1.0}, 1) is None


def test_the_interval_of_a_correlation_has_no_end_beyond_1() -> None:
    votes = [answer(unit, Outcome.LEFT, sides=(f"a{unit}", f"b{unit}")) for unit in range(20)]
    scores = {f"{name}{unit}": float(name == "a") for unit in range(20) for name in "ab"} | {"a0": 0.4, "b0": 0.5}
    agreement = pointwise_correlation(votes, scores, 1)
    assert agreement
    assert agreement.enough
    assert (0.9 < agreement.value < 1, agreement.high) == (True, 1)
    opposite = pointwise_correlation(votes, scores, -1)
    assert opposite
    assert opposite.low == -1


def test_models_in_the_same_order_have_a_correlation_of_1_and_in_reverse_order_minus_1() -> None:
    people = {"A": 1.0, "B": 0.0, "C": -1.0}
    assert ordering_correlation(people, {"A": 30, "B": 20, "C": 10}, 1) == (1.0, 3)
    assert ordering_correlation(people, {"A": 30, "B": 20, "C": 10}, -1) == (-1.0, 3)
    assert math.isnan(ordering_correlation(people, {"A": 1.0}, 1)[0])
