"""How often the intervals, tests and forecasts of scores are right: simulations with known answers."""

import time
from collections.abc import Iterator

import numpy as np
from scipy import stats

from naruto_core.intervals import LEVEL, POWER, mean_estimate, share_estimate
from naruto_core.scoring.metrics import SET_METRICS
from naruto_core.scoring.resampling import Difference, difference, mean_measure, paired_difference
from naruto_core.scoring.set_metrics import SetMetric
from naruto_core.scoring.style_preference import limits
from naruto_core.scoring.verdict import verdict
from tests.benchmarks.bench_rates import Rate, at_least, at_most
from tests.naruto_core.scoring.planted import unknown_preference

DIMENSIONS = 12
SPREAD = np.linspace(1.5, 0.4, DIMENSIONS)
REFERENCE = np.random.default_rng(11).normal(size=(176, DIMENSIONS)) * SPREAD


def rates(seconds: float) -> Iterator[Rate]:
    """Every claim with its rate, in about so many seconds."""
    yield from mean_rates(seconds * 0.1)
    yield from difference_rates(seconds * 0.7)
    yield at_least("interval of a change of content covers (unknown styles)", content_coverage(5000)[0], 5000, 0.95)
    yield at_least("the range of further prompts holds (20 prompts)", ranges_that_hold(20_000, 20), 20_000, 0.8)
    yield at_least("the range of further prompts holds (44 prompts)", ranges_that_hold(20_000, 44), 20_000, 0.8)


def mean_rates(seconds: float) -> Iterator[Rate]:
    """Coverage of the intervals of means and shares, and false alarms of the paired test."""
    n = max(300, round(seconds * 150))
    for skew in (0.0, 1.0, 2.0):
        for prompts in (3, 4, 6, 9, 12, 44):
            claim = f"interval of a mean covers ({prompts} prompts, skewness {skew:.0f})"
            yield at_least(claim, mean_coverage(prompts, n, skew), n, 0.93)
    for prompts in (3, 12, 44):
        lowest = min(share_coverage(prompts, share, n) for share in (0.02, 0.2, 0.5))
        yield at_least(f"interval of a share covers ({prompts} prompts)", lowest, n, 0.93)
    for prompts in (6, 12, 44):
        alarms = max(false_alarms(prompts, kind, n) for kind in ("normal", "skewed", "heavy", "rare"))
        yield at_most(f"paired test of equal means is significant ({prompts} prompts)", alarms, n, 0.05)


def difference_rates(seconds: float) -> Iterator[Rate]:
    """Coverage of the difference of every set metric, for models that differ and for equal ones."""
    grids = ((44, 4, 0.15), (44, 4, 0.0), (6, 4, 0.0), (3, 4, 0.0))
    for metric in SET_METRICS:
        for prompts, seeds, shift in grids:
            hits, n = difference_coverage(metric, prompts, seeds, shift, seconds / len(SET_METRICS) / len(grids))
            models = "models that differ" if shift else "equal models"
            claim = f"interval of a difference of {metric.name} covers ({prompts} x {seeds}, {models})"
            yield at_least(claim, hits, n, 0.92)


def mean_coverage(prompts: int, worlds: int, skew: float = 0.0) -> float:
    """The share of worlds in which the interval of a mean holds it; pictures of a prompt move together.

    The means of the prompts have the skewness `skew` (2: exponential), those of the demo's metrics up to 2.2.
    """
    rng, groups = np.random.default_rng(prompts), [str(i // 4) for i in range(4 * prompts)]
    shape = (2 / skew) ** 2 if skew else 0.0
    of_prompts = (
        (rng.gamma(shape, size=(worlds, prompts)) - shape) / np.sqrt(shape)
        if skew
        else rng.normal(size=(worlds, prompts))
    )
    noise = rng.normal(0, 0.1 if skew else 0.5, (worlds, 4 * prompts))
    values = np.repeat(of_prompts, 4, axis=1) + noise
    estimates = [mean_estimate(row, groups) for row in values]
    return float(np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates]))


def share_coverage(prompts: int, share: float, worlds: int) -> float:
    """The same of a share; prompts have shares with an intraclass correlation of 0.2."""
    rng, groups = np.random.default_rng(prompts), [str(i // 4) for i in range(4 * prompts)]
    of_prompts = rng.beta(share * 4, (1 - share) * 4, (worlds, prompts))
    values = rng.random((worlds, 4 * prompts)) < np.repeat(of_prompts, 4, axis=1)
    estimates = [share_estimate(row, groups) for row in values]
    return float(np.mean([estimate.low <= share <= estimate.high for estimate in estimates]))


def content_coverage(worlds: int, prompts: int = 20) -> tuple[float, float]:
    """The share of worlds in which the interval of a change of content holds it; and one that subtracts the mean does.

    The worlds are those of `unknown_preference`.
    """
    rng, groups = np.random.default_rng(prompts), [str(i) for i in range(prompts)]
    hits, of_subtracted = 0, 0
    for _ in range(worlds):
        preferred, measured = unknown_preference(rng)
        first = rng.normal(0.6, 0.05, prompts)
        change = paired_difference(first, first + preferred + rng.normal(0, 0.02, prompts), groups, share=False)
        known, mean = limits(measured), float(np.mean(measured))
        allowed = change.allowing_for(known.low, known.high)
        assert None not in (change.low, change.high, allowed.low, allowed.high)
        hits += allowed.low <= 0 <= allowed.high
        of_subtracted += change.low - mean <= 0 <= change.high - mean
    return hits / worlds, of_subtracted / worlds


def false_alarms(prompts: int, kind: str, worlds: int) -> float:
    """The share of worlds of two equal models in which the paired test is significant."""
    rng, groups = np.random.default_rng(prompts), [str(i) for i in range(prompts)]
    shape = (worlds, 2 * prompts)
    values = {
        "normal": lambda: rng.normal(size=shape),
        "skewed": lambda: rng.exponential(size=shape),
        "heavy": lambda: rng.standard_cauchy(shape),
        "rare": lambda: (rng.random(shape) < 0.05).astype(np.float64),
    }[kind]()
    p_values = [difference(mean_measure(row), groups).p for row in values]
    return float(np.mean([p is not None and p < LEVEL for p in p_values]))


def difference_world(
    metric: SetMetric, rng: np.random.Generator, prompts: int, seeds: int, shift: float = 0.0
) -> Difference:
    """The difference of two models in one world: what the prompts ask for moves both, and each on its own."""
    n = prompts * seeds
    common = np.repeat(rng.normal(0, 0.6, (prompts, DIMENSIONS)), seeds, axis=0)

    def model(off: float) -> np.ndarray:
        own = np.repeat(rng.normal(0, 0.3, (prompts, DIMENSIONS)), seeds, axis=0)
        return (common + own + rng.normal(0, 0.7, (n, DIMENSIONS))) * SPREAD * (1 - off) + 0.3 + off

    both = np.concatenate([model(0.0), model(shift)])
    reference = REFERENCE[:n] if metric.axis == "overlap" else REFERENCE
    measure = metric.measure(both, reference)
    return difference(measure, [str(i // seeds) for i in range(n)])


def difference_coverage(
    metric: SetMetric, prompts: int, seeds: int, shift: float, seconds: float, least: int = 100
) -> tuple[float, int]:
    """The share of worlds in which the interval holds the mean difference over all worlds, and their number."""
    rng, started = np.random.default_rng(5), time.process_time()
    worlds: list[Difference] = []
    while len(worlds) < least or (time.process_time() - started < seconds and len(worlds) < 2000):
        worlds.append(difference_world(metric, rng, prompts, seeds, shift))
    truth = float(np.mean([world.value for world in worlds])) if shift else 0.0
    hits = [world.low is not None and world.low <= truth <= (world.high or 0.0) for world in worlds]
    return float(np.mean(hits)), len(worlds)


def ranges_that_hold(worlds: int, prompts: int) -> float:
    """The share of the ranges of further prompts that hold the true number, over effects from 0 to 4 standard errors.

    True is the number with which a t test at 5 % has 80 % power; no more are needed where there are enough already.
    """
    rng, error = np.random.default_rng(2), 1 / np.sqrt(prompts)
    held: list[bool] = []
    for effect in rng.uniform(0, 4, worlds) * error:
        spread = error * np.sqrt(rng.chisquare(prompts - 1) / (prompts - 1))
        value, reach = effect + rng.normal() * error, float(stats.t.ppf(0.975, prompts - 1)) * spread
        p = 2 * float(stats.t.sf(abs(value) / spread, prompts - 1))
        more = verdict(Difference(value, value - reach, value + reach, p, prompts), 1, p).more
        if more is not None:
            needed = max(0.0, ((stats.norm.isf(LEVEL / 2) + stats.norm.ppf(POWER)) / effect) ** 2 - prompts)
            held.append(more.low <= needed and (more.high is None or needed <= more.high))
    return float(np.mean(held))
