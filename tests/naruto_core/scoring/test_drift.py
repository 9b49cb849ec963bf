"""Served pictures held against a run's own: what has changed is said, what has not is not."""

import math

import numpy as np
import pytest

from naruto_core.scoring.drift import LEAST_PROMPTS, Values, shift
from naruto_core.serving import Steadiness


def world(rng: np.random.Generator, prompts: int, mean: float = 0.0) -> Values:
    """Four pictures a prompt; prompts differ as much as the pictures of one do."""
    of_prompts = rng.normal(mean, 1, prompts).repeat(4)
    return Values(of_prompts + rng.normal(0, 1, 4 * prompts), [f"p{n}" for n in range(prompts) for _ in range(4)])


def test_the_interval_holds_the_true_difference_in_95_of_100_worlds() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        found = shift(world(rng, 30, 0.4), world(rng, 44), share=False, seed=0)
        held += found.low <= 0.4 <= found.high
    assert 0.92 <= held / 300 <= 0.98


def test_of_runs_that_have_not_changed_hardly_one_has_drifted() -> None:
    rng = np.random.default_rng(1)
    said = [shift(world(rng, 30), world(rng, 44), share=False, seed=0).verdict for _ in range(200)]
    assert said.count(Steadiness.DRIFTED) <= 2
    assert Steadiness.UNDECIDED in said


def test_a_model_that_has_changed_has_drifted_and_many_pictures_say_that_it_has_not() -> None:
    rng = np.random.default_rng(2)
    worse = shift(world(rng, 100, -1.5), world(rng, 44), share=False, seed=0)
    assert worse.verdict is Steadiness.DRIFTED
    assert worse.low < worse.difference < worse.high < -worse.margin
    same = np.random.default_rng(3)
    assert shift(world(same, 3000), world(same, 3000), share=False, seed=0).verdict is Steadiness.STEADY


@pytest.mark.parametrize(
    ("blank", "verdict"), [(0, Steadiness.STEADY), (3, Steadiness.UNDECIDED), (40, Steadiness.DRIFTED)]
)
def test_blank_pictures_are_a_share(blank: int, verdict: Steadiness) -> None:
    served = Values(np.array([1.0] * blank + [0.0] * (300 - blank)), [f"s{n}" for n in range(300)])
    own = Values(np.zeros(400), [f"o{n}" for n in range(400)])
    found = shift(served, own, share=True, seed=0)
    assert (found.verdict, found.own) == (verdict, 0.0)
    assert found.low <= found.difference < found.high


def test_of_a_handful_of_prompts_nothing_is_said() -> None:
    rng = np.random.default_rng(4)
    few = shift(world(rng, LEAST_PROMPTS - 1, 9.0), world(rng, 44), share=False, seed=0)
    assert few.verdict is Steadiness.UNDECIDED
    assert (few.low, few.high) == (-math.inf, math.inf)
