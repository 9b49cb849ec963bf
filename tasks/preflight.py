"""Preflight: say what cannot work before hours are spent on finding out."""

from prefect import task

from naruto_core import devices
from naruto_core.domain import PromptSuite
from naruto_core.errors import RecipeInvalid
from naruto_core.hub import check_token
from naruto_core.recipe import Recipe
from naruto_core.settings import read_settings
from naruto_core.telemetry.tracking import choose_trackers
from tasks.planning import planned
from tasks.publish import hub_token
from tasks.reporting import say
from tasks.truncation import check_suite


@task
def preflight(recipe: Recipe, suite: PromptSuite | None = None) -> None:
    """Check hub token, trackers, device, precision, base model, memory and the length of prompts.

    The token itself is never logged or kept. Raises a NarutoError that names what cannot work.
    """
    if recipe.publish.push_to_hub:
        _check_token(recipe.publish.hub_model_id or "")
    settings = read_settings()
    choose_trackers(settings.trackers, settings.mlflow_uri)
    device = devices.pick_device(settings.device)
    for precision in (recipe.training.mixed_precision, recipe.generation.mixed_precision):
        devices.check_precision(precision, device)
    say(planned(recipe, settings, device).words)
    if suite:
        check_suite(recipe, suite)


def _check_token(repository: str) -> None:
    token = hub_token()
    if not token:
        raise RecipeInvalid(
            "publish.push_to_hub is true, but HF_TOKEN is not set: export a write token, or run with "
            "--set publish.push_to_hub=false."
        )
    if not check_token(repository, token):
        say("the hub cannot be asked about HF_TOKEN now; going on: the push comes last, and can be done again")
