"""A sweep file: a recipe, values to try for some of its keys, and the seeds that every combination is trained with.

A *setting* is one combination of the values; the first one has the first value of every key, and the others are
compared with it. A *cell* is a setting with a seed: one run.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

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


class SweepFile(Section):
    """Every key of a sweep file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$", description="Name of the sweep.")]
    recipe: str = Field(min_length=1, description="Profile, or path of a recipe file (.yaml).")
    dataset: str | None = Field(None, min_length=1, description="Pictures to use instead of the recipe's.")
    grid: dict[str, tuple[Any, ...]] = Field(
        description="Dotted keys of the recipe, each with the values to try; the first setting has the first of each."
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        description=f"Values of {SEED_KEY}; each setting is trained once with each."
    )
    objective: str = Field(min_length=1, description="The metric that decides: one of the recipe's scoring.primary.")

    @field_validator("grid")
    @classmethod
    def _every_key_has_different_values(cls, grid: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        if not grid:
            raise ValueError("it is empty: name a key of the recipe with its values, e.g. training.rank: [4, 8]")
        for key, values in grid.items():
            if not values:
                raise ValueError(f"{key} has no values: list them, e.g. training.rank: [4, 8]")
            if len({json.dumps(value, sort_keys=True, default=str) for value in values}) < len(values):
                raise ValueError(f"a value of {key} is repeated")
            if key == SEED_KEY:
                raise ValueError(f"{SEED_KEY} cannot be in the grid: list its values in seeds")
            section, _, rest = key.partition(".")
            of_generation = section == "generation" and rest in ("", *_COMMON_OF_GENERATION)
            if section in _COMMON or of_generation:
                raise ValueError(f"{key} cannot be in the grid: scores of different values could not be compared")
        return grid

    @field_validator("seeds")
    @classmethod
    def _seeds_are_different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds:
            raise ValueError("it is empty: list at least one, and two or more to judge differences, e.g. [1, 2, 3]")
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is repeated")
        return seeds

    @property
    def n_cells(self) -> int:
        """The number of runs."""
        count = len(self.seeds)
        for values in self.grid.values():
            count *= len(values)
        return count

    def cells(self) -> list[Cell]:
        """Every run, setting by setting. Raises RecipeInvalid for more than `MOST_CELLS`."""
        if self.n_cells > MOST_CELLS:
            raise RecipeInvalid(
                f"sweep {self.name} has {self.n_cells:,} runs; the most is {MOST_CELLS:,}: try fewer values at once."
            )
        settings = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        pairs = [(number, setting, seed) for number, setting in enumerate(settings) for seed in self.seeds]
        return [Cell(position, number, setting, seed) for position, (number, setting, seed) in enumerate(pairs)]


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
    texts = {key: json.dumps(value) if not isinstance(value, str) else value for key, value in values.items()}
    differing = [key for key in values if len({json.dumps(other[key], sort_keys=True) for other in settings}) > 1]
    return ", ".join(f"{key}={texts[key]}" for key in differing or values)


def sweep_digest(objective: str, fingerprints: Sequence[str]) -> str:
    """What makes two sweeps the same: the objective, and the fingerprint of every cell's recipe in order."""
    return hashlib.sha256(" ".join([objective, *fingerprints]).encode()).hexdigest()
