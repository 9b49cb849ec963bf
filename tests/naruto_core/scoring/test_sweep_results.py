"""A sweep's intervals cover, and its words are those of the intervals.

The long forms, for every number of seeds, are in tests/benchmarks/rates_sweep.py.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from naruto_core.errors import NarutoError
from naruto_core.intervals import mean_estimate
from naruto_core.scoring.resampling import mean_measure, pseudo_values
from naruto_core.scoring.sweep_results import RunValue, crossed_mean, holm_steps, sweep_results
from tests.benchmarks.rates_sweep import WORLDS, World, coverage, simulated_runs, sweep_rates

PROMPTS = 44
Runs = dict[int, RunValue]


def setting(seed: int, shift: float = 0.0, *, seeds: int = 3, world: World = WORLDS["seeds matter less"]) -> Runs:
    """The runs of a setting; those of one `seed` of this function have the same prompts' effects."""
    runs = simulated_runs(np.random.default_rng(seed), seeds, PROMPTS, world)
    return {number: shifted(run, shift) for number, run in enumerate(runs)}


def shifted(run: RunValue, by: float) -> RunValue:
    return replace(run, value=run.value + by, pseudo_values=tuple(value + by for value in run.pseudo_values))


def test_the_pseudo_values_of_a_mean_are_the_groups_means():
    values = np.array([1.0, 3.0, 4.0, 6.0, 5.0, 5.0])
    assert pseudo_values(mean_measure(values), list("aabbcc")) == pytest.approx([2.0, 5.0, 5.0])


def test_where_seeds_are_alike_the_interval_is_that_over_prompts_alone():
    (run,) = simulated_runs(np.random.default_rng(1), 1, PROMPTS, World(0, 1, 0))
    mean, expected = crossed_mean([run, run]), mean_estimate(run.pseudo_values, [str(n) for n in range(PROMPTS)], 0)
    assert mean.interval() == pytest.approx((expected.low, expected.high))


def test_where_prompts_are_alike_the_interval_is_students_over_seeds():
    values = [1.0, 2.0, 4.0]
    runs = [RunValue(value, (value,) * PROMPTS, tuple("ab")) for value in values]
    expected = stats.ttest_1samp(values, 0)
    mean, interval = crossed_mean(runs), expected.confidence_interval()
    assert mean.interval() == pytest.approx((interval.low, interval.high))
    assert mean.p() == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize("world", ["only pairs matter", "more", "much more"])
def test_the_interval_over_seeds_and_prompts_covers_the_truth(seeds: int, world: str):
    assert coverage(seeds, PROMPTS, WORLDS[world], 400) >= stats.binom.ppf(0.001, 400, 0.93) / 400


def test_an_interval_over_prompts_alone_would_not_where_seeds_matter():
    rng, groups, hits = np.random.default_rng(0), [str(n) for n in range(PROMPTS)], 0
    for _ in range(100):
        runs = simulated_runs(rng, 2, PROMPTS, WORLDS["more"])
        estimate = mean_estimate(np.mean([run.pseudo_values for run in runs], axis=0), groups, 0)
        hits += estimate.low <= 0 <= estimate.high
    assert hits < 80


def test_equal_settings_are_rarely_better_or_worse_and_every_word_is_that_of_its_interval():
    alarms, covered = sweep_rates(4, 3, PROMPTS, WORLDS["as much"], 60)
    assert alarms <= stats.binom.isf(0.001, 60, 0.05) / 60
    assert covered > 0.93


def test_a_level_and_a_p_of_holms_procedure_reject_the_same():
    rng = np.random.default_rng(3)
    for _ in range(200):
        p_values = [*(rng.random(5) ** 4).tolist(), None]
        levels, adjusted = holm_steps(p_values)
        for p, level, of_family in zip(p_values, levels, adjusted, strict=True):
            assert (p is None) == (of_family is None)
            if p is not None and of_family is not None:
                assert (p < level) == (of_family < 0.05)
                assert 0.05 / 6 <= level <= 0.05
    assert holm_steps([0.01, 0.04, 0.03])[1] == pytest.approx([0.03, 0.06, 0.06])


def test_a_setting_that_is_much_better_is_called_so_and_an_equal_one_is_undecided():
    first = setting(1)
    results = sweep_results([first, setting(2, 5.0), setting(3), first], better=-1)
    words = [result.difference.word if result.difference else None for result in results]
    assert words == [None, "worse", "undecided", "alike"]
    (better,) = (r.difference for r in sweep_results([first, setting(2, 5.0)], better=1)[1:])
    assert better is not None
    assert (better.word, better.confidence) == ("better", 0.95)
    assert results[1].difference is not None
    assert results[1].difference.confidence == pytest.approx(1 - 0.05 / 3)
    values = [run.value for run in first.values()]
    assert (results[0].mean, results[0].spread) == (pytest.approx(np.mean(values)), pytest.approx(stats.tstd(values)))


def test_one_seed_or_five_prompts_judge_nothing_and_a_pending_setting_is_not_judged():
    alone = [setting(1, seeds=1), setting(2, 5.0, seeds=1)]
    few = [
        {seed: replace(run, prompts=run.prompts[:5]) for seed, run in runs.items()}
        for runs in (setting(1), setting(2, 5))
    ]
    for settings in (alone, few):
        difference = sweep_results(settings, better=1)[1].difference
        assert difference is not None
        assert (difference.word, difference.p) == ("cannot be judged", None)
    full = [setting(1), setting(2, 5.0), setting(3, 5.0)]
    results = sweep_results(full, 1, pending=[False, True, False])
    assert [r.difference.word for r in results if r.difference] == ["not finished", "better"]
    results = sweep_results(full, 1, pruned=[False, True, False])
    assert [(r.difference.word, r.difference.p is None) for r in results if r.difference] == [
        ("pruned", True),
        ("better", False),
    ]
    assert results[2].difference is not None
    assert results[2].difference.confidence == pytest.approx(0.975)  # of two differences, although one is not judged
    for result in sweep_results(full, 1, searched=True)[1:]:  # it chose its settings by their results
        assert result.difference is not None
        assert (result.difference.word, result.difference.low, result.difference.p) == ("not judged", None, None)
    results = sweep_results(full, 1, pending=[True, False, False])
    assert [r.difference.word for r in results if r.difference] == ["not finished", "not finished"]


def test_differences_are_of_the_seeds_that_both_settings_have():
    first, second = setting(1), setting(2)
    del second[1]
    difference = sweep_results([first, second], 1)[1].difference
    assert difference is not None
    assert difference.seeds == 2
    expected = np.mean([second[seed].value - first[seed].value for seed in (0, 2)])
    assert difference.value == pytest.approx(expected)
    empty = sweep_results([first, {}], 1)[1]
    assert (empty.mean, empty.difference and empty.difference.word) == (None, "cannot be judged")
    assert math.isclose(sweep_results([first], 1)[0].mean or 0, np.mean([run.value for run in first.values()]))


def test_runs_of_different_prompts_are_not_compared():
    first = setting(1)
    other = {seed: replace(run, prompts=(*run.prompts[1:], "z")) for seed, run in first.items()}
    with pytest.raises(NarutoError, match="use the same prompt suite"):
        sweep_results([first, other], 1)
