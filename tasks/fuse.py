"""Fuse: the adapter goes into the base weights."""

from collections.abc import Sequence

from prefect import task

from naruto_core import sdxl
from naruto_core.artifacts import sha256_folder
from naruto_core.domain import Adapter, FusedModel
from naruto_core.fusion import fuse_adapters, scaled_adapters
from tasks.context import OpenRun, run_context
from tasks.plan import timed_phase
from tasks.progress import say


@task
def fuse(opened: OpenRun, adapters: Sequence[Adapter]) -> FusedModel:
    """Merge the adapters, each at the recipe's scale, into a model for plain diffusers.

    A fused model that is already there, as it was recorded, is not made again.
    """
    with run_context(opened, "fuse") as context:
        run, recipe = context.run, context.recipe
        recorded, folder = context.store.find_fused(run.id), context.layout.fused(run.id)
        if recorded and sha256_folder(folder) == recorded.sha256:
            return recorded
        with timed_phase(context, "fuse", 1):
            pipeline = sdxl.load_pipeline(recipe.model, recipe.training.mixed_precision, context.device)
            fuse_adapters(pipeline, scaled_adapters(context.layout.root, recipe.fusion, adapters), folder)
        fused = FusedModel(run.id, context.layout.relative(folder), sha256_folder(folder), recipe.fusion.lora_scale)
        context.store.add_fused(fused)
        say(f"fused model at {folder}")
        return fused
