"""Flow `train-naruto`: from captioned pictures to a fine-tuned SDXL, measured."""

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows.profiles import choose_recipe, choose_suite
from tasks.fuse import check_fused, fuse
from tasks.generate import generate
from tasks.ingest import ingest
from tasks.preflight import preflight
from tasks.publish import publish
from tasks.run import close_run, open_run, present
from tasks.score import score
from tasks.train import train

Profile = Annotated[str, Field(description="Recipe to run: mini, t4, or the path of a recipe file.", examples=["mini"])]
Source = Annotated[
    str | None, Field(description="Pictures to use instead of the recipe's: a path, hub id or world:<style>.")
]
Overrides = Annotated[
    dict[str, Any] | None,
    Field(description='Single choices to change, dotted: {"training.rank": 8}.', examples=[{"training.rank": 8}]),
]


@flow(name="train-naruto", flow_run_name="train-naruto-{profile}", result_serializer="json")
def train_naruto(profile: Profile = "mini", dataset: Source = None, overrides: Overrides = None) -> str:
    """Does a LoRA trained on a small captioned set draw that set's style better than the base it adapts?"""
    recipe = choose_recipe(profile, dataset, overrides)
    suite = choose_suite(recipe.generation)
    preflight(recipe, suite)

    # Data: checked, stored by content; a version is its pictures, captions and split.
    datasets = [ingest(section) for section in recipe.datasets]
    run = open_run(recipe, suite, datasets)

    # Adaptation: low-rank updates of the attention layers, then merged into the base weights.
    adapters = train(run)
    fused = fuse(run, adapters)

    # Samples by base and adapted model: every prompt, every seed. The fused model must draw a few of them alike.
    generate(run, adapters, fused)
    check_fused(run, fused)

    # Evaluation: distance to the reference, agreement with the prompts, variety, copying; base and real as anchors.
    score(run)

    publish(run, adapters)
    present(run)
    return close_run(run).id


if __name__ == "__main__":
    train_naruto()
