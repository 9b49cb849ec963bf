"""Runs laid out by two keys of their recipes, as an XYZ plot: the values of one key as columns, of the other as rows.

The runs of a grid have everything else in common: the dataset and all other keys. They may come from a sweep or from
single commands.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from naruto_core.report.recipe_changes import flatten

_NAMES_ONLY = frozenset({"profile"})  # the name of the recipe's file changes no picture
# Keys that are combined; of more, those with the fewest values: a key that differs in each run makes no grid.
_MOST_KEYS = 40


@dataclass(frozen=True, slots=True)
class RunRecipe:
    """A run as a grid sees it: `recipe` is JSON."""

    run_id: str
    dataset_id: str
    recipe: str


@dataclass(frozen=True, slots=True)
class KeyGrid:
    """`columns` and `rows` are the values of the keys `x` and `y` as JSON, in order; `runs` has an id or None for each
    row and column; `others` are the keys with their values that tell this grid from other grids of the same two keys.
    """

    x: str
    y: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    runs: tuple[tuple[str | None, ...], ...]
    others: Mapping[str, str]

    @property
    def n_runs(self) -> int:
        """How many cells have a run."""
        return sum(run_id is not None for row in self.runs for run_id in row)


def key_pairs(recorded: Sequence[RunRecipe]) -> dict[tuple[str, str], int]:
    """The pairs of keys that have a grid, with the number of runs in the largest one; the largest first.

    The keys of a pair are in alphabetical order.
    """
    flat = [_flat(run) for run in recorded]
    values = {key: {recipe.get(key, "") for recipe in flat} for recipe in flat for key in recipe}
    differing = sorted((key for key in values if len(values[key]) > 1), key=lambda key: (len(values[key]), key))
    keys = sorted(key for key in differing[:_MOST_KEYS] if key != _DATASET)
    # two runs are equal but for x and y where the sums of their other hashes are: no comparison of whole recipes
    hashes = [{key: hash((key, recipe.get(key, ""))) for key in differing} for recipe in flat]
    sums = [sum(of_run.values()) for of_run in hashes]
    sizes: dict[tuple[str, str], int] = {}
    for x, y in combinations(keys, 2):
        groups: dict[int, set[tuple[str, str]]] = {}
        for recipe, of_run, total in zip(flat, hashes, sums, strict=True):
            groups.setdefault(total - of_run[x] - of_run[y], set()).add((recipe.get(x, ""), recipe.get(y, "")))
        sizes[x, y] = max((len(cells) for cells in groups.values() if _is_grid(cells)), default=0)
    return dict(sorted(((pair, n) for pair, n in sizes.items() if n), key=lambda item: (-item[1], item[0])))


def key_grids(recorded: Sequence[RunRecipe], x: str, y: str) -> list[KeyGrid]:
    """The grids of two keys, the one with the most runs first; each has at least two values of both keys.

    Of several runs in one cell, which differ in the name of their recipe only, the first of `recorded` is shown.
    """
    groups: dict[frozenset[tuple[str, str]], dict[tuple[str, str], str]] = {}
    for run in recorded:
        recipe = _flat(run)
        cell = recipe.pop(x, ""), recipe.pop(y, "")
        groups.setdefault(frozenset(recipe.items()), {}).setdefault(cell, run.run_id)
    grids = {others: cells for others, cells in groups.items() if _is_grid(cells.keys())}
    common = frozenset[tuple[str, str]].intersection(*grids) if grids else frozenset[tuple[str, str]]()
    result = [_grid(x, y, cells, dict(sorted(others - common))) for others, cells in grids.items()]
    return sorted(result, key=lambda grid: -grid.n_runs)


_DATASET = "dataset version"  # beside the keys of the recipe


def _flat(run: RunRecipe) -> dict[str, str]:
    keys = {key: value for key, value in flatten(json.loads(run.recipe)).items() if key not in _NAMES_ONLY}
    return keys | {_DATASET: run.dataset_id}


def _is_grid(cells: Collection[tuple[str, str]]) -> bool:
    return len({x for x, _ in cells}) > 1 and len({y for _, y in cells}) > 1


def _grid(x: str, y: str, cells: Mapping[tuple[str, str], str], others: Mapping[str, str]) -> KeyGrid:
    columns, rows = (tuple(sorted({cell[axis] for cell in cells}, key=_order)) for axis in (0, 1))
    runs = tuple(tuple(cells.get((column, row)) for column in columns) for row in rows)
    return KeyGrid(x, y, columns, rows, runs, others)


def _order(text: str) -> tuple[int, float, str]:
    """Numbers by size, then other values by their text; a key that a recipe lacks is first."""
    value = json.loads(text) if text else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return 1, float(value), ""
    return (2 if text else 0), 0.0, text
