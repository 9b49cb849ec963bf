"""A search proposes the same settings from the same results, and successive halving ends the runs that are behind."""

from typing import Any

import numpy as np
import pytest

from naruto_core.search import FinishedTrial, is_pruned, propose
from naruto_core.sweep import SearchRange, SearchSection

RANGES = {
    "training.learning_rate": SearchRange(type="float", low=1e-5, high=1e-1, log=True),
    "training.rank": SearchRange(type="int", low=4, high=32),
    "training.lora_layers": SearchRange(type="choices", values=(["to_q"], ["to_q", "to_k"], None)),
}


def searched(trials: int, **changes: Any) -> list[FinishedTrial]:
    """A whole search whose objective is the distance of the learning rate's exponent from -3: less is better."""
    search = SearchSection.model_validate({"ranges": RANGES, "trials": max(trials, 2)} | changes)
    done: list[FinishedTrial] = []
    for _ in range(trials):
        values = propose(search, done, better=-1)
        done.append(FinishedTrial(values, abs(np.log10(values["training.learning_rate"]) + 3)))
    return done


def test_values_lie_in_their_ranges_and_a_search_that_goes_on_proposes_the_same():
    whole = searched(14)
    assert all(trial.values[key] in of_key for trial in whole for key, of_key in RANGES.items())
    assert {type(trial.values["training.rank"]) for trial in whole} == {int}
    search = SearchSection.model_validate({"ranges": RANGES, "trials": 14})
    for count in (3, 12):  # before and after the first ten, which are random
        assert propose(search, whole[:count], -1) == whole[count].values
    other = SearchSection.model_validate({"ranges": RANGES, "trials": 14, "seed": 1})
    assert propose(other, whole[:12], -1) != whole[12].values


def test_the_learning_sampler_comes_nearer_than_random_values():
    learned, random = searched(30), searched(30, sampler="random")
    distance = [np.mean([trial.objective for trial in of_sampler[15:]]) for of_sampler in (learned, random)]
    assert distance[0] < 0.7 * distance[1]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_no_setting_is_tried_twice_although_the_ranges_hold_just_so_many(sampler: str):
    ranges = {"training.rank": {"type": "int", "low": 1, "high": 4}, "x": {"type": "choices", "values": [None, 1.5]}}
    search = SearchSection.model_validate({"ranges": ranges, "trials": 8, "sampler": sampler})
    done: list[FinishedTrial] = []
    for number in range(8):
        done.append(FinishedTrial(propose(search, done, better=1), None if number % 2 else 0.5))
    assert len({str(trial.values) for trial in done}) == 8


def test_first_values_outside_the_ranges_and_failed_and_pruned_settings_are_no_obstacle():
    search = SearchSection.model_validate({"ranges": {"training.rank": RANGES["training.rank"]}, "trials": 20})
    outside = FinishedTrial({"training.rank": 64}, 0.1)
    failed = FinishedTrial({"training.rank": 5}, None)
    pruned = [FinishedTrial({"training.rank": rank}, None, True, {2: 0.3}) for rank in range(6, 18)]
    proposed = propose(search, [outside, failed, *pruned], better=1)
    assert 4 <= proposed["training.rank"] <= 32
    nan = FinishedTrial({"training.rank": 30}, float("nan"))
    assert propose(search, [nan], better=1)["training.rank"] != 30


def test_a_run_goes_on_at_a_rung_where_it_is_among_the_best_half_of_those_that_reached_it():
    good, fair, low = {1: 0.5, 2: 0.6}, {1: 0.4}, {1: 0.1}
    assert not is_pruned([], low, 1, 2)  # the first run has no other to be compared with
    assert is_pruned([good], low, 1, 2)
    assert is_pruned([good], fair, 1, 2)
    assert not is_pruned([low], fair, 1, 2)
    assert not is_pruned([low, low, good], fair, 1, 2)
    assert is_pruned([low, good, good], fair, 1, 2)
    assert not is_pruned([good], {1: 0.5, 2: 0.6, 3: 0.0}, 1, 2)  # rungs are at 1, 2, 4, ... steps
    assert is_pruned([good], {1: 0.5, 2: 0.5}, 1, 2)
    assert is_pruned([good], {1: float("nan")}, 1, 2)
    assert not is_pruned([good], {1: 0.1}, 2, 2)  # its first rung is at two steps
