"""Fuse: the adapter goes into the base weights."""

from prefect import task

from naruto_core import sdxl
from naruto_core.artifacts import sha256_folder
from naruto_core.domain import Adapter, FusedModel, Run
from naruto_core.fusion import fuse_adapter
from naruto_core.recipe import FusionSection, ModelSection
from naruto_core.recipe_training import Precision
from tasks.place import working_on
from tasks.reporting import say


@task
def fuse(run: Run, model: ModelSection, section: FusionSection, precision: Precision, adapter: Adapter) -> FusedModel:
    """Merge the adapter into a whole model that plain diffusers loads; found again when already there."""
    with working_on(run, "fuse") as place:
        if known := place.store.find_fused(run.id):
            return known
        pipeline = sdxl.load_pipeline(model, precision, place.device)
        folder = place.layout.fused(run.id)
        fuse_adapter(pipeline, place.layout.root / adapter.path, section.lora_scale, folder)
        fused = FusedModel(run.id, place.layout.relative(folder), sha256_folder(folder), section.lora_scale)
        place.store.add_fused(fused)
        say(f"fused model at {folder}")
        return fused
