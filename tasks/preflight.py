"""Preflight: check what can fail before hours are spent; and how a training fits into the memory of this machine."""

from pathlib import Path

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from naruto_core import devices, sdxl
from naruto_core.adapter_file import parts_without_weights
from naruto_core.artifact_store import ArtifactStore
from naruto_core.dataset.versions import check_table_folder
from naruto_core.domain import PromptSuite
from naruto_core.errors import RecipeInvalid
from naruto_core.hub import check_token
from naruto_core.lora_import import ForeignLora, read_lora
from naruto_core.recipe import Recipe
from naruto_core.recipe_training import TrainingSection
from naruto_core.refiner import check_refiner
from naruto_core.settings import Settings, read_settings
from naruto_core.telemetry.tracking import choose_trackers
from naruto_core.training.lora import check_initial
from naruto_core.training.memory import GIB, MemoryPlan, plan_memory
from tasks.distributed import check_processes
from tasks.prefect_server import end_server_with_this_process
from tasks.progress import say
from tasks.publish import hub_token
from tasks.shards import open_cluster, scheduler_address
from tasks.truncation import check_suite


def memory_plan(recipe: Recipe, settings: Settings, device: torch.device) -> MemoryPlan:
    """What each phase needs, and the split to train with; DeviceUnfit when nothing fits."""
    available = int(settings.memory_gib * GIB) if settings.memory_gib else devices.available_memory(device)
    return plan_memory(recipe.model, recipe.training, recipe.generation, device, available)


@task(cache_policy=NO_CACHE)
def preflight(recipe: Recipe, suite: PromptSuite | None = None) -> None:
    """Check hub token, data root, trackers, bucket, cluster, device, precision, base model, memory, length of prompts.

    The token itself is never logged or kept. Raises a NarutoError that names what cannot work.
    """
    end_server_with_this_process()
    if recipe.publish.push_to_hub:
        _check_token(recipe.publish.hub_model_id or "")
    settings = read_settings()
    check_table_folder(settings.root)
    choose_trackers(settings.trackers, settings.mlflow_uri)
    if settings.store:
        ArtifactStore(settings.store).check()
    if scheduler_address(settings):
        with open_cluster(settings):
            pass
    device = devices.pick_device(settings.device)
    notes = sdxl.base_notes(recipe.model, recipe.generation.clip_skip)
    for precision in sorted({recipe.weights_precision, recipe.generation.mixed_precision}):
        devices.check_precision(precision, device)
        if devices.computed_precision(precision, device) != precision:
            notes.append(f"this CPU has no {precision} instructions: {precision} is computed in fp32")
    if recipe.generation.refiner:
        check_refiner(recipe.generation.refiner)
    for note in notes:
        say(note)
    if not recipe.imported:
        check_warmup(recipe.training)
        check_style_scales(recipe)
        check_processes(recipe.training, device)
        say(memory_plan(recipe, settings, device).summary)
        check_init_adapter(recipe)
    if suite:
        check_suite(recipe, suite)


def check_warmup(section: TrainingSection) -> None:
    """Raise RecipeInvalid when training ends before the learning rate has risen to its value."""
    if section.lr_warmup_steps > section.max_train_steps:
        raise RecipeInvalid(
            f"training.lr_warmup_steps is {section.lr_warmup_steps}, and training has {section.max_train_steps} steps: "
            "the learning rate would never reach its value; warm up in fewer steps, or train more."
        )


def check_style_scales(recipe: Recipe) -> None:
    """Raise RecipeInvalid when scales of styles are set where one adapter has all styles, so that none is used."""
    if recipe.fusion.style_scales and recipe.adapter_names == ("",):
        raise RecipeInvalid(
            "fusion.style_scales is for an adapter per style, and this recipe has one adapter: set fusion.lora_scale "
            "instead, or training.adapters to per-style and styles."
        )


def check_init_adapter(recipe: Recipe) -> ForeignLora | None:
    """The adapter that training starts from, if the recipe names one. ModelUnusable when it does not fit the recipe."""
    section = recipe.training
    if section.init_adapter is None:
        return None
    lora = read_lora(Path(section.init_adapter).expanduser(), recipe.model)
    check_initial(section, parts_without_weights(recipe.model), lora.adapter)
    return lora


def _check_token(repository: str) -> None:
    token = hub_token()
    if not token:
        raise RecipeInvalid(
            "publish.push_to_hub is true, but HF_TOKEN is not set: export a write token, or run with "
            "--set publish.push_to_hub=false."
        )
    if not check_token(repository, token):
        say("the hub cannot be asked about HF_TOKEN now; going on: the push comes last, and can be done again")
