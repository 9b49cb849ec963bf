"""A sweep file: a recipe, the settings to try, and the seeds that every setting is trained with.

A *setting* is one combination of values for some keys of the recipe: each one of a grid, or one trial of a search. The
first setting of a grid has the first value of every key, that of a search the recipe's own values; the others are
compared with it. A *cell* is a setting with a seed: one run.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from naruto_core.errors import RecipeInvalid
from naruto_core.recipe_text import explain, read_text_file, read_yaml
from naruto_core.recipe_training import Section

MANY_CELLS = 100  # above it, the command asks before it starts
MOST_CELLS = 10_000
SEED_KEY = "training.seed"

# Keys that the settings of a sweep must have in common, because their scores could not be compared otherwise.
_COMMON = ("profile", "dataset", "styles", "imported", "scoring", "publish")
_COMMON_OF_GENERATION = ("suite", "variants", "prompts", "seeds", "resolution")


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep: the `values` of setting number `setting` (from 0), trained with `seed`."""

    position: int
    setting: int
    values: Mapping[str, Any]
    seed: int

    @property
    def overrides(self) -> dict[str, Any]:
        """The cell as dotted overrides of the recipe."""
        return {**self.values, SEED_KEY: self.seed}


class SearchRange(Section):
    """The values that a search may try for one key."""

    type: Literal["float", "int", "choices"] = Field(description="Real numbers, whole numbers, or a list of values.")
    low: float | None = Field(None, description="Smallest value, of numbers.")
    high: float | None = Field(None, description="Largest value, of numbers.")
    log: bool = Field(False, description="Search numbers on a logarithmic scale.")
    values: tuple[Any, ...] = Field((), description="The values to choose from, of choices.")

    @model_validator(mode="after")
    def _is_a_range(self) -> "SearchRange":
        if self.type == "choices":
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("choices have values, e.g. {type: choices, values: [4, 8]}, and no low, high or log")
            _check_values("choices", self.values)
            return self
        if self.values or self.low is None or self.high is None:
            raise ValueError(f"numbers have low and high, e.g. {{type: {self.type}, low: 4, high: 8}}, and no values")
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be less than high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic scale needs a low above 0")
        if self.type == "int" and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("low and high must be whole numbers")
        return self

    @property
    def probes(self) -> tuple[Any, ...]:
        """The values that a recipe must accept for the range to be possible: every choice, or the ends and one between.

        The one between is no whole number in a range of real numbers, and next to the low end among whole numbers.
        """
        if self.type == "choices" or self.low is None or self.high is None:
            return self.values
        if self.type == "int":
            return tuple(sorted({int(self.low), int(self.low) + 1, int(self.high)}))
        return self.low, self.low + (self.high - self.low) / math.pi, self.high

    @property
    def size(self) -> float:
        """How many values there are; infinite for real numbers."""
        if self.type == "float" or self.low is None or self.high is None:
            return math.inf if self.type == "float" else len(self.values)
        return int(self.high) - int(self.low) + 1

    def __contains__(self, value: Any) -> bool:
        if self.type == "choices":
            return _as_text(value) in map(_as_text, self.values)
        is_number = isinstance(value, int if self.type == "int" else (int, float)) and not isinstance(value, bool)
        return is_number and self.low is not None and self.high is not None and self.low <= value <= self.high


class SearchSection(Section):
    """A search (Optuna) through ranges of values."""

    ranges: dict[str, SearchRange] = Field(
        min_length=1, description="Dotted keys of the recipe, each with its range: {type: float, low:, high:, log:}."
    )
    trials: int = Field(20, ge=2, le=MOST_CELLS, description="Settings to try, the recipe's own values included.")
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="Tree-structured Parzen estimator (Bergstra et al. 2011), which learns; or random values."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the sampler.")

    @field_validator("ranges")
    @classmethod
    def _keys_may_differ(cls, ranges: dict[str, SearchRange]) -> dict[str, SearchRange]:
        for key in ranges:
            _check_key(key)
        return ranges

    @model_validator(mode="after")
    def _there_are_so_many_settings(self) -> "SearchSection":
        size = math.prod(of_key.size for of_key in self.ranges.values())
        if size < self.trials:
            raise ValueError(
                f"the ranges hold only {size:.0f} settings: set trials to {size:.0f} or less, or use a grid"
            )
        return self


class PruningSection(Section):
    """Successive halving: of the settings, only the best at each rung of training go on."""

    reduction_factor: int = Field(
        2,
        ge=2,
        le=16,
        description="At the first preview, and at each later one after this many times the steps, a run goes on if it "
        "is among the best 1 of this many.",
    )


class SweepFile(Section):
    """Every key of a sweep file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$", description="Name of the sweep.")]
    recipe: str = Field(min_length=1, description="Profile, or path of a recipe file (.yaml).")
    dataset: str | None = Field(None, min_length=1, description="Pictures to use instead of the recipe's.")
    grid: dict[str, tuple[Any, ...]] | None = Field(
        None,
        description="Dotted keys of the recipe, each with the values to try; the first setting has the first of each.",
    )
    search: SearchSection | None = Field(
        None, validate_default=True, description="In place of a grid: a search through ranges."
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        description=f"Values of {SEED_KEY}; each setting is trained once with each."
    )
    objective: str = Field(min_length=1, description="The metric that decides: one of the recipe's scoring.primary.")
    pruning: PruningSection | None = Field(
        None, description="Stop runs early whose previews score low; null: every run is trained to its end."
    )

    @field_validator("grid")
    @classmethod
    def _every_key_has_different_values(
        cls, grid: dict[str, tuple[Any, ...]] | None
    ) -> dict[str, tuple[Any, ...]] | None:
        if grid is None:
            return None
        if not grid:
            raise ValueError("it is empty: name a key of the recipe with its values, e.g. training.rank: [4, 8]")
        for key, values in grid.items():
            _check_values(key, values)
            _check_key(key)
        return grid

    @field_validator("seeds")
    @classmethod
    def _seeds_are_different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds:
            raise ValueError("it is empty: list at least one, and two or more to judge differences, e.g. [1, 2, 3]")
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is repeated")
        return seeds

    @field_validator("search")
    @classmethod
    def _has_a_grid_or_a_search(cls, search: SearchSection | None, info: ValidationInfo) -> SearchSection | None:
        if "grid" in info.data and (info.data["grid"] is None) == (search is None):
            raise ValueError("a sweep has either a grid (keys with values to try) or a search (keys with ranges)")
        return search

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the recipe in which the settings differ."""
        return tuple(self.search.ranges if self.search else self.grid or ())

    @property
    def n_settings(self) -> int:
        """The number of settings."""
        if self.search:
            return self.search.trials
        return math.prod(len(values) for values in (self.grid or {}).values())

    @property
    def n_cells(self) -> int:
        """The number of runs."""
        return len(self.seeds) * self.n_settings

    def check_size(self) -> None:
        """Raise RecipeInvalid for more than `MOST_CELLS` runs."""
        if self.n_cells > MOST_CELLS:
            raise RecipeInvalid(
                f"sweep {self.name} has {self.n_cells:,} runs; the most is {MOST_CELLS:,}: try fewer values at once."
            )

    def grid_settings(self) -> Iterator[dict[str, Any]]:
        """Every combination of the grid's values; none of a search."""
        for values in itertools.product(*self.grid.values()) if self.grid else ():
            yield dict(zip(self.grid or (), values, strict=True))

    def cells_of(self, setting: int, values: Mapping[str, Any]) -> list[Cell]:
        """The runs of setting number `setting`, one for each seed."""
        first = setting * len(self.seeds)
        return [Cell(first + index, setting, values, seed) for index, seed in enumerate(self.seeds)]


def _check_key(key: str) -> None:
    if key == SEED_KEY:
        raise ValueError(f"{SEED_KEY} cannot be tried like other keys: list its values in seeds")
    section, _, rest = key.partition(".")
    of_generation = section == "generation" and rest in ("", *_COMMON_OF_GENERATION)
    if section in _COMMON or of_generation:
        raise ValueError(f"{key} must be the same in all runs: scores of different values could not be compared")


def _check_values(key: str, values: Sequence[Any]) -> None:
    if not values:
        raise ValueError(f"{key} has no values: list them, e.g. training.rank: [4, 8]")
    if len(set(map(_as_text, values))) < len(values):
        raise ValueError(f"a value of {key} is repeated")


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def read_sweep(path: Path) -> SweepFile:
    """The sweep file at `path`.

    Raises RecipeInvalid, naming file, key and reason, for a missing file, broken YAML, an unknown key or a wrong value.
    """
    try:
        tree = read_yaml(read_text_file(path))
    except FileNotFoundError:
        raise RecipeInvalid(f"there is no sweep file {path}.") from None
    except (OSError, ValueError, RecipeInvalid) as error:  # ValueError: no UTF-8, or a name with a zero byte
        raise RecipeInvalid(f"cannot read sweep file {path}: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise RecipeInvalid(f"sweep file {path} must be a mapping with name, recipe, grid, seeds and objective.")
    try:
        return SweepFile.model_validate(tree)
    except ValidationError as error:
        raise RecipeInvalid(f"sweep file {path.name}: {explain(error, SweepFile)}") from None


def setting_label(values: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> str:
    """The values in which one setting differs from others of `settings`: "training.rank=8"; of a single one all."""
    differing = [key for key in values if len({_as_text(other[key]) for other in settings}) > 1]
    return ", ".join(f"{key}={value_text(values[key])}" for key in differing or values)


def value_text(value: Any) -> str:
    """A value for people: real numbers with four digits."""
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) and not value.is_integer() else json.dumps(value)


def sweep_digest(file: SweepFile, fingerprints: Sequence[str]) -> str:
    """What makes two sweeps the same: the objective, and the fingerprint of every cell's recipe in order.

    Of a search, those of the first setting's recipes, and the search itself; and the pruning, if any.
    """
    parts = [file.objective, *fingerprints]
    if file.search:
        parts.append(file.search.model_dump_json())
    if file.pruning:
        parts.append(file.pruning.model_dump_json())
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
