"""Flow `sweep`: the runs of a sweep file one after the other, then the comparison of its settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.exceptions import CancelledRun

from flows.profiles import choose_recipe
from flows.sweep_listing import setting_rows, sweep_text
from flows.train_naruto import train_naruto
from naruto_core.errors import NarutoError, RecipeInvalid, RunStopped, StorageFailed
from naruto_core.recipe import Recipe
from naruto_core.scoring.metrics import find_metric
from naruto_core.settings import read_settings
from naruto_core.store.database import Database, open_database
from naruto_core.store.sweeps import RecordedCell
from naruto_core.sweep import SEED_KEY, Cell, SweepFile, read_sweep, value_text
from tasks.prefect_page import show_sweep_in_prefect
from tasks.progress import say
from tasks.pruning import halving, halving_rule, shown_as_cancelled, was_pruned
from tasks.sweep import next_values, report_sweep


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A sweep file with the settings that are known before it begins, as cells with their recipes.

    Those are all of a grid; of a search the first one, the recipe's own values.
    """

    file: SweepFile
    cells: Sequence[Cell]
    recipes: Sequence[Recipe]

    def cells_of(self, setting: int) -> list[Cell]:
        """The cells of a setting; [] where the search has yet to propose it."""
        return [cell for cell in self.cells if cell.setting == setting]


@flow(name="sweep", flow_run_name="sweep-{file}", result_serializer="json")
@shown_as_cancelled
def sweep(file: str) -> str:
    """Train every setting of a sweep file with every seed and compare them; the sweep's name.

    A run that fails does not stop the others; the same sweep tries it again, and goes on where it was stopped.

    Args:
        file: The path of the sweep file (.yaml).
    """
    plan = plan_sweep(Path(file))
    name = plan.file.name
    with open_database(read_settings().database_url) as database:
        fingerprints = [recipe.fingerprint for recipe in plan.recipes]
        database.sweeps.open_sweep(plan.file, plan.cells, fingerprints, datetime.now(UTC))
    failures = [failure for number in range(plan.file.n_settings) for failure in _run_setting(plan, number)]
    report = report_sweep(name)
    show_sweep_in_prefect(name, setting_rows(report))
    say(f"\n{sweep_text(report)}\n")
    if failures:
        raise NarutoError(
            f"{len(failures)} of {plan.file.n_cells} runs of the sweep {name} failed: {failures[0]} "
            "The same command tries them again."
        )
    return name


def plan_sweep(path: Path) -> SweepPlan:
    """The runs of the sweep file at `path`, all checked; nothing is computed or recorded.

    Raises RecipeInvalid for a file or a value that cannot be used, and for an objective that does not decide.
    """
    file = read_sweep(path)
    file.check_size()
    first = _recipe(file, {SEED_KEY: file.seeds[0]})
    _check_recipe(file, first)
    if file.search:
        _check_ranges(file)
        settings = [_own_values(file, first)]
    else:
        settings = list(file.grid_settings())
    cells = [cell for number, values in enumerate(settings) for cell in file.cells_of(number, values)]
    recipes = [_recipe(file, cell.overrides) for cell in cells]
    for recipe in recipes:
        _check_recipe(file, recipe)
    cell_of: dict[str, Cell] = {}
    for cell, recipe in zip(cells, recipes, strict=True):
        if (same := cell_of.setdefault(recipe.fingerprint, cell)) is not cell:
            raise RecipeInvalid(
                f"sweep {file.name}: {dict(same.values)} and {dict(cell.values)} are the same recipe: leave one out."
            )
    return SweepPlan(file, cells, recipes)


def _recipe(file: SweepFile, overrides: Mapping[str, Any]) -> Recipe:
    try:
        return choose_recipe(file.recipe, file.dataset, overrides)
    except RecipeInvalid as error:
        raise RecipeInvalid(f"sweep {file.name}: {error}") from None


def _check_ranges(file: SweepFile) -> None:
    """Raise RecipeInvalid where the recipe refuses an end of a range, a value between, or a choice; or two are one."""
    for key, of_key in (file.search.ranges if file.search else {}).items():
        value_of: dict[str, Any] = {}
        for value in of_key.probes:
            fingerprint = _recipe(file, {key: value, SEED_KEY: file.seeds[0]}).fingerprint
            if fingerprint in value_of:
                raise RecipeInvalid(
                    f"sweep {file.name}: search: {key} of {value_text(value_of[fingerprint])} and of "
                    f"{value_text(value)} are the same recipe: leave one out."
                )
            value_of[fingerprint] = value


def _own_values(file: SweepFile, recipe: Recipe) -> dict[str, Any]:
    """The recipe's own values of the searched keys. Raises RecipeInvalid for a key in a section that is null."""
    values: dict[str, Any] = {}
    for key in file.keys:
        node: Any = recipe.model_dump(mode="json")
        for part in key.split("."):
            if not isinstance(node, dict):
                raise RecipeInvalid(
                    f"sweep {file.name}: search: the recipe {recipe.profile} has no section {key.rpartition('.')[0]}, "
                    f"so there is no first value of {key}: add the section to the recipe."
                )
            node = node.get(part)
        values[key] = _as_choice(file, key, node, recipe)
    return values


def _as_choice(file: SweepFile, key: str, own: Any, recipe: Recipe) -> Any:
    """`own`, the value of `key` in `recipe`, as the search's choices write it; itself where it is none of them."""
    of_key = file.search.ranges[key] if file.search else None
    for choice in of_key.values if of_key else ():
        if _recipe(file, {key: choice, SEED_KEY: file.seeds[0]}).fingerprint == recipe.fingerprint:
            return choice
    return own


def _check_recipe(file: SweepFile, recipe: Recipe) -> None:
    primary = recipe.scoring.primary
    if file.objective not in primary:
        raise RecipeInvalid(
            f"sweep {file.name}: objective: {file.objective} is not among scoring.primary of the recipe "
            f"{recipe.profile}: use {' or '.join(primary)}."
        )
    if not (metric := find_metric(file.objective)) or not metric.better:
        raise RecipeInvalid(
            f"sweep {file.name}: objective: neither more nor less of {file.objective} is better: use another metric of "
            "scoring.primary."
        )
    if recipe.publish.push_to_hub:
        raise RecipeInvalid(
            f"sweep {file.name}: the recipe {recipe.profile} pushes to a hub, where each run would replace the one "
            "before: set publish.push_to_hub to false in it."
        )
    if file.pruning and not (recipe.training.previews and recipe.training.previews.score):
        raise RecipeInvalid(
            f"sweep {file.name}: pruning: the recipe {recipe.profile} has no scored previews: set training.previews in "
            "it, e.g. to {preview_steps: 100}, or leave pruning out."
        )
    if file.pruning and len(recipe.adapter_names) > 1:
        raise RecipeInvalid(
            f"sweep {file.name}: pruning: the recipe {recipe.profile} trains an adapter per style, one after "
            "the other, so that their previews cannot be compared: leave pruning out."
        )


def _run_setting(plan: SweepPlan, number: int) -> list[str]:
    """Run every cell of a setting that is still to be run; why they failed. The search proposes a new setting."""
    file = plan.file
    cells = plan.cells_of(number) or _searched_cells(file, number)
    with open_database(read_settings().database_url) as database:
        pending = any(recorded.is_pending for recorded in _recorded_cells(database, file, number))
    failures = [_run_cell(file, cell) for cell in cells]
    if pending:
        report_sweep(file.name)  # the dashboard shows what is known so far
    return [failure for failure in failures if failure]


def _searched_cells(file: SweepFile, number: int) -> list[Cell]:
    """The cells of setting `number` of a search: those that are recorded, or else those that it proposes now."""
    assert file.search is not None
    with open_database(read_settings().database_url) as database:
        recorded = _recorded_cells(database, file, number)
        if not recorded:
            cells = file.cells_of(number, next_values(file.name, file.search))
            database.sweeps.add_setting(file.name, cells, [_fingerprint(file, cell) for cell in cells])
            recorded = _recorded_cells(database, file, number)
    return [of_cell.cell for of_cell in recorded]


def _fingerprint(file: SweepFile, cell: Cell) -> str:
    """The fingerprint of a cell's recipe; "" for values that only together are refused: its run says so and fails."""
    try:
        return _recipe(file, cell.overrides).fingerprint
    except RecipeInvalid:
        return ""


def _recorded_cells(database: Database, file: SweepFile, number: int) -> list[RecordedCell]:
    sweep = database.sweeps.sweep(file.name)
    return [recorded for recorded in sweep.cells if recorded.cell.setting == number]


def _run_cell(file: SweepFile, cell: Cell) -> str:
    """Run one cell and record it, unless it is over; why it failed, "" where it is done or pruned."""
    with open_database(read_settings().database_url) as database:
        sweep = database.sweeps.sweep(file.name)
        recorded = sweep.cells[cell.position]
        rule = halving_rule(sweep, cell, file.pruning.reduction_factor, database.runs) if file.pruning else None
    if recorded.is_over:
        return ""
    values = ", ".join(f"{key}={value_text(value)}" for key, value in cell.values.items())
    number = f"run {cell.position + 1} of {file.n_cells}"
    say(f"sweep {file.name}: {number}: {values}, seed {cell.seed}")
    run_id, failure, pruned = None, "", False
    try:
        with halving(rule):
            run_id = train_naruto(file.recipe, file.dataset, cell.overrides)
    except CancelledRun as ended:
        if not was_pruned(ended):
            raise RunStopped(str(ended)) from None
        pruned = True
        say(f"sweep {file.name}: {ended}")
    except (RunStopped, StorageFailed):  # somebody stopped it; or all the others would fail alike
        raise
    except NarutoError as error:
        failure = str(error)
        say(f"sweep {file.name}: {number} failed: {failure}")
    with open_database(read_settings().database_url) as database:
        database.sweeps.record_cell(file.name, cell.position, run_id, failure)
        if pruned:
            database.sweeps.prune_setting(file.name, cell.setting)
    return failure
