"""Preflight: say what cannot work before hours are spent on finding out."""

import os

from prefect import task

from naruto_core import sdxl
from naruto_core.errors import RecipeInvalid
from naruto_core.recipe import Recipe
from naruto_core.settings import read_settings
from naruto_core.telemetry.tracking import choose_trackers


@task
def preflight(recipe: Recipe) -> None:
    """Check hub token, trackers, device, precision and base model; the token itself is never logged or kept."""
    if recipe.publish.push_to_hub and not os.environ.get("HF_TOKEN"):
        raise RecipeInvalid(
            "publish.push_to_hub is true, but HF_TOKEN is not set: export a write token, or run with "
            "--set publish.push_to_hub=false."
        )
    settings = read_settings()
    choose_trackers(settings.trackers, settings.mlflow_uri)
    device = sdxl.pick_device(settings.device)
    for precision in (recipe.training.mixed_precision, recipe.generation.mixed_precision):
        sdxl.check_precision(precision, device)
    sdxl.locate(recipe.model.base, recipe.model.revision)
    if recipe.model.vae:
        sdxl.locate(recipe.model.vae, recipe.model.vae_revision)
