"""Flow `sweep`: the runs of a sweep file one after the other, then the comparison of its settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow

from flows.profiles import choose_recipe
from flows.sweep_listing import setting_rows, sweep_text
from flows.train_naruto import train_naruto
from naruto_core.errors import NarutoError, RecipeInvalid, RunStopped, StorageFailed
from naruto_core.recipe import Recipe
from naruto_core.scoring.metrics import find_metric
from naruto_core.settings import read_settings
from naruto_core.store.database import open_database
from naruto_core.sweep import Cell, SweepFile, read_sweep
from tasks.prefect_page import show_sweep_in_prefect
from tasks.progress import say
from tasks.sweep import report_sweep


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A sweep file with its cells and their recipes."""

    file: SweepFile
    cells: Sequence[Cell]
    recipes: Sequence[Recipe]


@flow(name="sweep", flow_run_name="sweep-{file}", result_serializer="json")
def sweep(file: str) -> str:
    """Train every setting of a sweep file with every seed and compare them; the sweep's name.

    A run that fails does not stop the others; the same sweep tries it again, and goes on where it was stopped.

    Args:
        file: The path of the sweep file (.yaml).
    """
    plan = plan_sweep(Path(file))
    name = plan.file.name
    with open_database(read_settings().database_url) as database:
        database.sweeps.open_sweep(
            name=name,
            recipe=plan.file.recipe,
            objective=plan.file.objective,
            cells=plan.cells,
            fingerprints=[recipe.fingerprint for recipe in plan.recipes],
            now=datetime.now(UTC),
        )
    failures = [failure for cell in plan.cells if (failure := _run_cell(plan, cell))]
    report = report_sweep(name)
    show_sweep_in_prefect(name, setting_rows(report))
    say(f"\n{sweep_text(report)}\n")
    if failures:
        raise NarutoError(
            f"{len(failures)} of {len(plan.cells)} runs of the sweep {name} failed: {failures[0]} "
            "The same command tries them again."
        )
    return name


def plan_sweep(path: Path) -> SweepPlan:
    """The runs of the sweep file at `path`, all checked; nothing is computed or recorded.

    Raises RecipeInvalid for a file or a value that cannot be used, and for an objective that does not decide.
    """
    file = read_sweep(path)
    cells = file.cells()
    recipes: list[Recipe] = []
    for cell in cells:
        try:
            recipes.append(choose_recipe(file.recipe, file.dataset, cell.overrides))
        except RecipeInvalid as error:
            raise RecipeInvalid(f"sweep {file.name}: {error}") from None
    _check_recipe(file, recipes[0])
    cell_of: dict[str, Cell] = {}
    for cell, recipe in zip(cells, recipes, strict=True):
        if (same := cell_of.setdefault(recipe.fingerprint, cell)) is not cell:
            raise RecipeInvalid(
                f"sweep {file.name}: {dict(same.values)} and {dict(cell.values)} are the same recipe: leave one out."
            )
    return SweepPlan(file, cells, recipes)


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


def _run_cell(plan: SweepPlan, cell: Cell) -> str:
    """Run one cell and record it; why it failed, "" where it is done."""
    file = plan.file
    say(f"sweep {file.name}: run {cell.position + 1} of {len(plan.cells)}")
    run_id, failure = None, ""
    try:
        run_id = train_naruto(file.recipe, file.dataset, cell.overrides)
    except (RunStopped, StorageFailed):  # somebody stopped it; or all the others would fail alike
        raise
    except NarutoError as error:
        failure = str(error)
        say(f"sweep {file.name}: run {cell.position + 1} failed: {failure}")
    with open_database(read_settings().database_url) as database:
        database.sweeps.record_cell(file.name, cell.position, run_id, failure)
    return failure
