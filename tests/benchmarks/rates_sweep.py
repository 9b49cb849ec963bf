"""How often the intervals and words of a sweep are right: simulated settings, seeds and prompts with known answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from naruto_core.scoring.sweep_results import RunValue, crossed_mean, sweep_results
from naruto_core.search import is_pruned
from tests.benchmarks.bench_rates import Rate, at_least, at_most


@dataclass(frozen=True, slots=True)
class World:
    """Standard deviations: of a seed's effect, of a prompt's, and of a single pair of both."""

    of_seed: float
    of_prompt: float
    of_pair: float


# A seed moves all pictures of a run: 0.15 is the error of a mean of 44 prompts, so that the seeds' part of the error is
# nothing, small, equal, twice and ten times the prompts' part for two seeds.
WORLDS = {
    "seeds do not matter": World(0.0, 1.0, 0.5),
    "only pairs matter": World(0.0, 0.0, 1.0),
    "seeds matter less": World(0.1, 1.0, 0.5),
    "as much": World(0.2, 1.0, 0.5),
    "more": World(0.45, 1.0, 0.5),
    "much more": World(2.0, 1.0, 0.5),
    "prompts do not matter": World(0.3, 0.0, 1.0),
}


def rates(seconds: float) -> Iterator[Rate]:
    """Every claim with its rate, in about so many seconds."""
    n = max(400, round(seconds * 70))
    for seeds in (2, 3, 4, 5):
        for prompts in (6, 44):
            for name, world in WORLDS.items():
                claim = f"interval over {seeds} seeds and {prompts} prompts covers ({name})"
                yield at_least(claim, coverage(seeds, prompts, world, n), n, 0.93)
    for settings, seeds in ((2, 2), (4, 3), (9, 3)):
        for name, world in WORLDS.items():
            few = max(200, n // settings)
            alarms, covered = sweep_rates(settings, seeds, 44, world, few)
            claim = f"{settings} equal settings with {seeds} seeds"
            yield at_most(f"any of {claim} is better or worse ({name})", alarms, few, 0.05)
            yield at_least(f"every shown interval of {claim} covers ({name})", covered, few, 0.95 - 0.02)
    for trials, seeds in ((10, 2), (30, 2), (30, 3)):
        for name, field in FIELDS.items():
            few = max(100, n // trials // 4)
            claim = f"a word on a search of {trials} equal settings with {seeds} seeds, which is not given ({name})"
            yield at_most(claim, search_alarms(trials, seeds, 44, field, few), few, 0.2)
    for correlation, least in ((0.9, 0.8), (0.5, 0.4)):
        few = max(100, n // 8)
        kept = best_kept(16, correlation, few)
        yield at_least(f"halving keeps the best of 16 settings (previews correlate {correlation})", kept, few, least)


def simulated_runs(rng: np.random.Generator, seeds: int, prompts: int, world: World) -> list[RunValue]:
    """The runs of one setting whose true mean is 0."""
    table = (
        rng.normal(0, 1, (seeds, 1)) * world.of_seed
        + rng.normal(0, 1, (1, prompts)) * world.of_prompt
        + rng.normal(0, 1, (seeds, prompts)) * world.of_pair
    )
    names = tuple(str(number) for number in range(prompts))
    return [RunValue(float(row.mean()), tuple(row.tolist()), names) for row in table]


def coverage(seeds: int, prompts: int, world: World, worlds: int) -> float:
    """The share of worlds in which the interval of a setting's mean holds it."""
    rng, hits = np.random.default_rng([seeds, prompts]), 0
    for _ in range(worlds):
        low, high = crossed_mean(simulated_runs(rng, seeds, prompts, world)).interval()
        hits += low is not None and high is not None and low <= 0 <= high
    return hits / worlds


def sweep_rates(settings: int, seeds: int, prompts: int, world: World, worlds: int) -> tuple[float, float]:
    """The share of worlds of equal settings with a false word, and of shown intervals of differences that hold 0."""
    rng, alarms, hits, shown = np.random.default_rng([settings, seeds]), 0, 0, 0
    for _ in range(worlds):
        runs = [dict(enumerate(simulated_runs(rng, seeds, prompts, world))) for _ in range(settings)]
        differences = [result.difference for result in sweep_results(runs, 1) if result.difference]
        alarms += any(difference.word in ("better", "worse") for difference in differences)
        for difference in differences:
            assert difference.low is not None
            assert difference.high is not None
            hits, shown = hits + (difference.low <= 0 <= difference.high), shown + 1
            assert (difference.word in ("better", "worse")) == (not difference.low <= 0 <= difference.high)
    return alarms / worlds, hits / shown


@dataclass(frozen=True, slots=True)
class Field:
    """A search's world: what a seed and a prompt add to a setting is a smooth random function of its value in [0, 1].

    Standard deviations, and the `length` over which the functions change.
    """

    of_seed: float
    of_prompt: float
    of_pair: float
    length: float


FIELDS = {
    "seeds matter, rough": Field(0.3, 0.2, 0.5, 0.1),
    "seeds matter, smooth": Field(0.3, 0.2, 0.5, 0.5),
    "prompts matter, rough": Field(0.02, 1.0, 0.3, 0.1),
    "only pairs matter": Field(0.0, 0.0, 1.0, 0.5),
}
_WAVES = 16


def search_alarms(trials: int, seeds: int, prompts: int, field: Field, worlds: int) -> float:
    """The share of worlds of equal settings in which a search that climbs calls any setting better or worse."""
    rng, alarms = np.random.default_rng([trials, seeds, round(field.length * 10)]), 0
    for _ in range(worlds):
        results = sweep_results(_climbed(rng, trials, seeds, prompts, field), 1)
        alarms += any(r.difference is not None and r.difference.word in ("better", "worse") for r in results)
    return alarms / worlds


def _climbed(
    rng: np.random.Generator, trials: int, seeds: int, prompts: int, field: Field
) -> list[dict[int, RunValue]]:
    """The settings of one search: it begins in the middle, and mostly tries values near the best mean so far."""
    of_seed, of_prompt = (_functions(rng, count, field.length) for count in (seeds, prompts))
    names = tuple(str(number) for number in range(prompts))
    values, settings, best = [0.5], list[dict[int, RunValue]](), (-np.inf, 0.5)
    for number in range(trials):
        if number:
            near = number > 5 and rng.random() < 0.7
            values.append(float(np.clip(best[1] + rng.normal(0, 0.1), 0, 1)) if near else float(rng.random()))
        table = (
            field.of_seed * of_seed(values[-1])[:, None]
            + field.of_prompt * of_prompt(values[-1])[None, :]
            + field.of_pair * rng.normal(0, 1, (seeds, prompts))
        )
        settings.append({s: RunValue(float(row.mean()), tuple(row.tolist()), names) for s, row in enumerate(table)})
        best = max(best, (float(table.mean()), values[-1]))
    return settings


def _functions(rng: np.random.Generator, count: int, length: float) -> Callable[[float], NDArray[np.float64]]:
    """`count` random smooth functions of variance 1 (random Fourier features)."""
    amplitudes = rng.normal(0, 1, (2, count, _WAVES)) / np.sqrt(_WAVES)
    frequencies = rng.normal(0, 1 / length, _WAVES)
    return lambda x: (amplitudes[0] * np.cos(frequencies * x) + amplitudes[1] * np.sin(frequencies * x)).sum(axis=1)


def best_kept(settings: int, correlation: float, worlds: int) -> float:
    """The share of worlds in which successive halving (previews at 1, 2, 4 of 8 steps) trains the best setting fully.

    A preview's score correlates with the setting's quality; its noise is new at each preview.
    """
    rng, kept = np.random.default_rng([settings, round(correlation * 10)]), 0
    for _ in range(worlds):
        quality = rng.normal(0, 1, settings)
        noise = rng.normal(0, 1, (settings, 3))
        scores = correlation * quality[:, None] + np.sqrt(1 - correlation**2) * noise
        earlier: list[dict[int, float]] = []
        for number in range(settings):
            previews: dict[int, float] = {}
            ended = False
            for rung, score in zip((1, 2, 4), scores[number], strict=True):
                previews[rung] = float(score)
                if ended := is_pruned(earlier, previews, 1, 2):
                    break
            earlier.append(previews)
            kept += number == int(np.argmax(quality)) and not ended
    return kept / worlds
