"""How often the intervals and words of a sweep are right: simulated settings, seeds and prompts with known answers."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from naruto_core.scoring.sweep_results import RunValue, crossed_mean, sweep_results
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
