"""Fuse: the adapter goes into the base weights."""

from collections.abc import Sequence

from prefect import task

from naruto_core import sdxl
from naruto_core.artifacts import sha256_folder
from naruto_core.domain import Adapter, FusedModel, Run
from naruto_core.fusion import Blend, blends_of, fuse_adapters
from naruto_core.recipe import FusionSection, ModelSection
from naruto_core.recipe_training import Precision
from tasks.context import TaskContext, working_on
from tasks.progress import say


@task
def fuse(
    run: Run, model: ModelSection, section: FusionSection, precision: Precision, adapters: Sequence[Adapter]
) -> FusedModel:
    """Merge the adapters, each at the recipe's scale, into a model for plain diffusers; found if already there
    as recorded.
    """
    with working_on(run, "fuse") as place:
        known, folder = place.store.find_fused(run.id), place.layout.fused(run.id)
        if known and sha256_folder(folder) == known.sha256:
            return known
        pipeline = sdxl.load_pipeline(model, precision, place.device)
        fuse_adapters(pipeline, blends(place, section, adapters), folder)
        fused = FusedModel(run.id, place.layout.relative(folder), sha256_folder(folder), section.lora_scale)
        place.store.add_fused(fused)
        say(f"fused model at {folder}")
        return fused


def blends(place: TaskContext, section: FusionSection, adapters: Sequence[Adapter]) -> list[Blend]:
    """Every adapter's folder with its scale: its style's own, or the one of all."""
    return blends_of(place.layout.root, section, adapters)
