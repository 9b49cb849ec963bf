"""Flow `train-naruto`: from captioned pictures to a fine-tuned SDXL, measured."""

from prefect import flow

from flows.profiles import Overrides, Profile, choose_recipe, choose_suite
from tasks.fuse import check_fused, fuse
from tasks.generate import generate
from tasks.ingest import ingest
from tasks.preflight import preflight
from tasks.pruning import shown_as_cancelled
from tasks.publish import publish
from tasks.run import close_run, open_run, present
from tasks.score import score
from tasks.train import train


@flow(name="train-naruto", flow_run_name="train-naruto-{profile}", result_serializer="json")
@shown_as_cancelled
def train_naruto(profile: Profile = "mini", dataset: str | None = None, overrides: Overrides = None) -> str:
    """Does a LoRA trained on a small captioned set draw that set's style better than the base it adapts?

    Args:
        profile: The recipe: its name, or the path of a recipe file where no form restricts it.
        dataset: Pictures to use instead of the recipe's: a path, a hub id, or world:<style>.
        overrides: Single values of the recipe to change, dotted, e.g. {"training.rank": 8}.
    """
    recipe = choose_recipe(profile, dataset, overrides)
    suite = choose_suite(recipe.generation)
    preflight(recipe, suite)

    # Data: checked, stored by content; a version is its pictures, captions and split.
    datasets = [ingest(section) for section in recipe.datasets]
    run = open_run(recipe, suite, datasets)

    # Adaptation: low-rank updates of the chosen layers, then merged into the base weights.
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
