"""What a sweep says: the settings' means over seeds and prompts, and their paired differences from the first setting.

A setting is trained with several seeds, and each of its models draws the same prompts: seeds and prompts are crossed
random effects (Owen & Eckles 2012, arXiv 1106.2125). The error of a mean over both is the root of two parts: the spread
of the seeds' values, and the jackknife over prompts. The prompts of an experiment are many and its seeds few, so that
one Student's t does not fit both: the quantile is Cochran & Cox's (1957) mean of both quantiles, weighted by the parts.
Both parts contain the spread of single pairs of a seed and a prompt, so that the error is a little too large rather
than too small. The measured coverage is in `tests/benchmarks/rates_sweep.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import or_
from typing import Literal

import numpy as np
import scipy  # its parts are imported at their first use

from naruto_core.domain import Variant
from naruto_core.errors import NarutoError
from naruto_core.intervals import LEAST_GROUPS, LEVEL, student
from naruto_core.scoring.blas_threads import single_threaded
from naruto_core.scoring.evaluation import set_metrics_of
from naruto_core.scoring.feature_set import Measure, RunFeatures, each_once
from naruto_core.scoring.resampling import LEAST_PROMPTS, mean_measure, pseudo_values
from naruto_core.scoring.sample_metrics import counted, sample_values

LEAST_SEEDS = 2
Word = Literal["better", "worse", "alike", "undecided", "cannot be judged", "not finished", "not judged", "pruned"]


@dataclass(frozen=True, slots=True)
class RunValue:
    """A metric of one run, with its jackknife pseudo-values (b,), one a block of `prompts`, which are in order.

    Without pseudo-values there is no interval: too few pictures are left where a block is left out.
    """

    value: float
    pseudo_values: tuple[float, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CrossedMean:
    """A mean over seeds and prompts; the squares of its two errors, and how many seeds and blocks of prompts there are.

    Without two seeds or `LEAST_GROUPS` blocks there is no interval.
    """

    value: float
    of_seeds: float
    of_prompts: float
    seeds: int
    blocks: int

    @property
    def has_interval(self) -> bool:
        """Whether both errors are known, and not both 0."""
        enough = self.seeds >= LEAST_SEEDS and self.blocks >= LEAST_GROUPS
        return enough and math.isfinite(self.of_seeds + self.of_prompts) and self.of_seeds + self.of_prompts > 0

    def reach(self, level: float = LEVEL) -> float:
        """Half the width of the interval that misses the true mean with the probability `level`."""
        total = self.of_seeds + self.of_prompts
        quantiles = student(self.seeds, level / 2), student(self.blocks, level / 2)
        return (quantiles[0] * self.of_seeds + quantiles[1] * self.of_prompts) / math.sqrt(total)

    def interval(self, level: float = LEVEL) -> tuple[float | None, float | None]:
        """The interval, (None, None) where there is none."""
        if not self.has_interval:
            return None, None
        reach = self.reach(level)
        return self.value - reach, self.value + reach

    def p(self) -> float:
        """The smallest level at which the interval does not contain 0; 1 for a value of 0."""
        if self.value == 0:
            return 1.0
        low, high = 1e-12, 1.0
        if self.reach(low) < abs(self.value):
            return low
        return float(scipy.optimize.brentq(lambda level: self.reach(level) - abs(self.value), low, high))


def crossed_mean(runs: Sequence[RunValue]) -> CrossedMean:
    """The mean of the runs' values; each run is one seed. Raises NarutoError unless all drew the same prompts."""
    if len({run.prompts for run in runs}) > 1:
        raise NarutoError("runs with different prompts cannot be compared: use the same prompt suite.")
    values = np.array([run.value for run in runs])
    whole = all(run.pseudo_values for run in runs)
    table = np.array([run.pseudo_values if whole else () for run in runs])
    seeds, blocks = table.shape
    of_seeds = float(values.var(ddof=1)) / seeds if seeds > 1 else math.inf
    of_prompts = float(table.mean(axis=0).var(ddof=1)) / blocks if blocks > 1 else math.inf
    return CrossedMean(float(values.mean()), of_seeds, of_prompts, seeds, blocks)


def minus(second: RunValue, first: RunValue) -> RunValue:
    """The difference of two runs. Raises NarutoError unless both drew the same prompts."""
    if second.prompts != first.prompts:
        raise NarutoError("runs with different prompts cannot be compared: use the same prompt suite.")
    pairs = zip(second.pseudo_values, first.pseudo_values, strict=False)
    return RunValue(second.value - first.value, tuple(b - a for b, a in pairs), second.prompts)


@dataclass(frozen=True, slots=True)
class SettingDifference:
    """A setting minus the first one, over the seeds that both have.

    `low` and `high` are of the interval at the level at which Holm's (1979) procedure tests this difference: its
    confidence is at least 95 %, and it excludes 0 exactly where `word` is better or worse. `p` is Holm's, over all
    differences of the sweep.
    """

    value: float | None
    low: float | None
    high: float | None
    confidence: float | None
    p: float | None
    seeds: int
    word: Word


@dataclass(frozen=True, slots=True)
class SettingResult:
    """The runs of one setting that are done: mean, spread between seeds (standard deviation), 95 % interval."""

    setting: int
    seeds: int
    prompts: int
    mean: float | None
    spread: float | None
    low: float | None
    high: float | None
    difference: SettingDifference | None


def sweep_results(
    settings: Sequence[Mapping[int, RunValue]],
    better: int,
    pending: Sequence[bool] | None = None,
    pruned: Sequence[bool] | None = None,
    *,
    searched: bool = False,
) -> list[SettingResult]:
    """The result of each setting, from the values of its done runs by seed; the first setting is compared with.

    `better` is 1 where more of the metric is better, -1 where less is. Of a setting that is `pending`, and of all of
    them while the first one is, no difference is judged: a result that is looked at before its end is decided too
    often. Nor is that of a setting that was `pruned`; it still counts in Holm's procedure, because the others are what
    is left of all settings that were tried. In a search, which chooses settings by such results, nothing is judged, and
    a difference has no interval: `search_alarms` of `tests/benchmarks/rates_sweep.py` measures how often it would be
    wrong.
    """
    waits = [False] * len(settings) if pending is None else list(pending)
    ended = [False] * len(settings) if pruned is None else list(pruned)
    differences = [_difference(settings[0], runs) for runs in settings[1:]]
    judged = [
        None if searched or waits[0] or skipped or mean is None or not _can_be_judged(mean, runs) else mean
        for mean, runs, skipped in zip(differences, settings[1:], map(or_, waits[1:], ended[1:]), strict=True)
    ]
    levels, adjusted = holm_steps([None if mean is None else mean.p() for mean in judged])
    results = [_setting_result(0, settings[0], None)]
    for number, (mean, level, p) in enumerate(zip(differences, levels, adjusted, strict=True), start=1):
        word: Word = "cannot be judged"
        if ended[number]:
            word = "pruned"
        elif waits[0] or waits[number]:
            word = "not finished"
        elif searched:
            word = "not judged"
        if mean is None:
            difference = SettingDifference(None, None, None, None, None, 0, word)
        else:
            low, high = (None, None) if searched else mean.interval(level)
            confidence = None if low is None else 1 - level
            difference = SettingDifference(mean.value, low, high, confidence, p, mean.seeds, word)
            if word == "cannot be judged":
                difference = replace(difference, word=_word(mean, difference, better))
        results.append(_setting_result(number, settings[number], difference))
    return results


def holm_steps(p_values: Sequence[float | None]) -> tuple[list[float], list[float | None]]:
    """For each hypothesis the level of its step in Holm's procedure, and its adjusted p; None has no p.

    The family is all of them, also those without p. A hypothesis after the first one that is not rejected has the level
    of that one. So a p below its level, and nothing else, is rejected.
    """
    size = len(p_values)
    level = LEVEL / max(size, 1)
    levels, adjusted = [level] * size, list[float | None]([None] * size)
    largest, rejecting = 0.0, True
    for rank, (p, index) in enumerate(sorted((p, index) for index, p in enumerate(p_values) if p is not None)):
        if rejecting:
            level = LEVEL / (size - rank)
            rejecting = p < level
        largest = max(largest, min(1.0, (size - rank) * p))
        levels[index], adjusted[index] = level, largest
    return levels, adjusted


def _difference(first: Mapping[int, RunValue], second: Mapping[int, RunValue]) -> CrossedMean | None:
    """The second setting minus the first over the seeds that both have; None without such a seed."""
    pairs = [minus(second[seed], first[seed]) for seed in first if seed in second]
    return crossed_mean(pairs) if pairs else None


def _can_be_judged(mean: CrossedMean, runs: Mapping[int, RunValue]) -> bool:
    return mean.has_interval and min(len(run.prompts) for run in runs.values()) >= LEAST_PROMPTS


def _word(mean: CrossedMean, difference: SettingDifference, better: int) -> Word:
    """Where the shown interval lies."""
    if mean.value == 0 and mean.of_seeds == 0 and mean.of_prompts == 0:
        return "alike"
    if difference.p is None or difference.low is None or difference.high is None:
        return "cannot be judged"
    if difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if mean.value * better > 0 else "worse"


def _setting_result(number: int, runs: Mapping[int, RunValue], difference: SettingDifference | None) -> SettingResult:
    if not runs:
        return SettingResult(number, 0, 0, None, None, None, None, difference)
    mean, values = crossed_mean(list(runs.values())), [run.value for run in runs.values()]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    prompts = min(len(run.prompts) for run in runs.values())
    return SettingResult(number, len(runs), prompts, mean.value, spread, *mean.interval(), difference)


@single_threaded
def run_value(features: RunFeatures, metric_name: str) -> RunValue:
    """The metric of the run's adapted model, as its scores have it. Raises NarutoError where it cannot be measured."""
    variant = Variant.ADAPTED
    if variant not in features.samples:
        raise NarutoError("the adapted model drew no pictures.")
    for metric, whole_set in set_metrics_of(features):
        if metric.name == metric_name:
            feature_set = whole_set.without(features.other_styles)
            measure = metric.measure(feature_set.rows(variant), metric.reference_of(feature_set))
            return _run_value(measure, feature_set.groups())
    values = sample_values(features)[variant].get(metric_name)
    if values is None or not counted(values).any():
        raise NarutoError(f"{metric_name} was not measured.")
    is_counted = counted(values)
    groups = [prompt for prompt, counts in zip(features.prompts(), is_counted, strict=True) if counts]
    return _run_value(mean_measure(values[is_counted]), groups)


def _run_value(measure: Measure, groups: Sequence[str]) -> RunValue:
    value = measure(each_once(len(groups)))
    try:
        of_blocks = pseudo_values(measure, groups)
    except NarutoError:  # too few pictures without one block
        of_blocks = np.zeros(0)
    if not math.isfinite(value):
        raise NarutoError("its value is not a number.")
    known = tuple(of_blocks.tolist()) if np.isfinite(of_blocks).all() else ()
    return RunValue(value, known, tuple(sorted(set(groups))))
