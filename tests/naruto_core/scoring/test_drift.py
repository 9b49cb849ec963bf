"""Served pictures compared with a run's own samples: drift is reported when it is there, and only then."""

import math

import numpy as np
import pytest

from naruto_core.scoring.drift import LEAST_PROMPTS, Values, shift, why_never_steady
from naruto_core.serving import DriftVerdict


def world(rng: np.random.Generator, prompts: int, mean: float = 0.0) -> Values:
    """Four pictures a prompt; prompts differ as much as the pictures of one do."""
    of_prompts = rng.normal(mean, 1, prompts).repeat(4)
    return Values(of_prompts + rng.normal(0, 1, 4 * prompts), [f"p{n}" for n in range(prompts) for _ in range(4)])


def test_the_interval_covers_the_true_difference_in_95_of_100_worlds() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        change = shift(world(rng, 30, 0.4), world(rng, 44), share=False)
        hits += change.low <= 0.4 <= change.high
    assert 0.92 <= hits / 300 <= 0.98


def test_of_200_models_that_have_not_changed_at_most_two_are_called_drifted() -> None:
    rng = np.random.default_rng(1)
    verdicts = [shift(world(rng, 30), world(rng, 44), share=False).verdict for _ in range(200)]
    assert verdicts.count(DriftVerdict.DRIFTED) <= 2
    assert DriftVerdict.UNDECIDED in verdicts


def test_a_changed_model_is_called_drifted_and_an_unchanged_one_steady_with_enough_pictures() -> None:
    rng = np.random.default_rng(2)
    worse = shift(world(rng, 100, -1.5), world(rng, 44), share=False)
    assert worse.verdict is DriftVerdict.DRIFTED
    assert worse.low < worse.difference < worse.high < -worse.margin
    same = np.random.default_rng(3)
    assert shift(world(same, 3000), world(same, 3000), share=False).verdict is DriftVerdict.STEADY


@pytest.mark.parametrize(
    ("blank", "verdict"), [(0, DriftVerdict.STEADY), (3, DriftVerdict.UNDECIDED), (40, DriftVerdict.DRIFTED)]
)
def test_the_share_of_blank_pictures_drifts_too(blank: int, verdict: DriftVerdict) -> None:
    served = Values(np.array([1.0] * blank + [0.0] * (300 - blank)), [f"s{n}" for n in range(300)])
    own = Values(np.zeros(400), [f"o{n}" for n in range(400)])
    change = shift(served, own, share=True)
    assert (change.verdict, change.own) == (verdict, 0.0)
    assert change.low <= change.difference < change.high


def test_where_steady_cannot_be_reached_the_number_of_prompts_that_reach_it_is_told() -> None:
    rng = np.random.default_rng(7)
    never = shift(world(rng, 3000), world(rng, 44), share=False)
    assert never.verdict is DriftVerdict.UNDECIDED  # however many pictures were served
    reason = why_never_steady(never, 44)
    assert "its own 44 prompts is known to 0." in reason
    needed = int(reason.split("about ")[1].split(" ")[0].replace(",", ""))
    enough = shift(world(rng, needed), world(rng, needed), share=False)
    assert why_never_steady(enough, needed) == ""
    few = shift(world(rng, 40), world(rng, 9), share=False)
    assert why_never_steady(few, 9) == "its own samples have 9 prompts, at least 10 are needed"


@pytest.mark.parametrize("blank", [0, 1])
def test_the_number_of_prompts_that_a_share_needs_to_be_found_steady_is_the_number_that_it_needs(blank: int) -> None:
    def without_blanks(prompts: int) -> Values:
        pictures = 4 * prompts
        values = np.array([1.0] * (blank * prompts // 44) + [0.0] * (pictures - blank * prompts // 44))
        return Values(values, [f"p{n % prompts}" for n in range(pictures)])

    reason = why_never_steady(shift(without_blanks(3000), without_blanks(44), share=True), 44)
    needed = int(reason.split("about ")[1].split(" ")[0].replace(",", ""))
    verdicts = [shift(without_blanks(n), without_blanks(n), share=True).verdict for n in (needed * 3 // 4, needed)]
    assert verdicts == [DriftVerdict.UNDECIDED, DriftVerdict.STEADY]


@pytest.mark.parametrize("value", [0.1, 0.3, 0.593, 0.7])
def test_equal_values_on_both_sides_have_not_drifted_and_no_number_of_prompts_makes_them_steady(value: float) -> None:
    own = Values(np.full(176, value), [f"p{n % 44}" for n in range(176)])
    for count in range(20, 60):
        change = shift(Values(np.full(count, value), [f"s{n}" for n in range(count)]), own, share=False)
        assert change.verdict is not DriftVerdict.DRIFTED
        assert why_never_steady(change, 44) == "all of its own samples have one value, so that there is no margin"


def test_with_too_few_prompts_nothing_is_decided() -> None:
    rng = np.random.default_rng(4)
    few = shift(world(rng, LEAST_PROMPTS - 1, 9.0), world(rng, 44), share=False)
    assert few.verdict is DriftVerdict.UNDECIDED
    assert (few.low, few.high) == (-math.inf, math.inf)
