"""What `naruto plan` shows: the plan of a recipe, before anything is downloaded or drawn."""

from collections.abc import Mapping
from typing import Any

from flows.listings import Listing, columns
from flows.profiles import choose_recipe, choose_suite
from naruto_core.planning.plan import as_json, facts, table
from tasks.context import task_context
from tasks.plan import plan_for_gpu


def plan_recipe(profile: str, dataset: str | None, overrides: Mapping[str, Any], gpu: str | None) -> Listing:
    """The plan of a recipe on this machine, or on a GPU of the table.

    Raises RecipeInvalid for a recipe that cannot be read, and DeviceUnfit for an unknown or too small GPU.
    """
    recipe = choose_recipe(profile, dataset, overrides)
    suite = choose_suite(recipe.generation)
    with task_context() as context:
        plan = plan_for_gpu(context, recipe, suite, gpu)
    return Listing(as_json(plan), "\n".join([columns(table(plan)), "", *facts(plan)]))
