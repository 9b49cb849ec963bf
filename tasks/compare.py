"""Compare: two models over the same prompts and seeds, from features that are kept."""

from naruto_core.domain import DRAWN, Variant
from naruto_core.errors import NotRecorded
from naruto_core.recipe import Recipe
from naruto_core.scoring.comparison import Comparison, Side, compare
from naruto_core.scoring.run_features import RunFeatures
from tasks.gather import gather
from tasks.place import Place


def recorded_run(place: Place, name: str) -> tuple[RunFeatures, Recipe]:
    """What a run that was drawn and scored is judged by; NotRecorded for one that was not."""
    run, suite = place.store.run(name), place.store.prompts(name)
    dataset = place.store.find_dataset(run.dataset_id)
    if suite is None or dataset is None or not place.store.samples(run.id):
        raise NotRecorded(f"run {run.id} has no samples yet; finish it with  naruto run --recipe {run.profile}")
    recipe = Recipe.model_validate_json(place.store.recipe_json(run.id))
    return gather(place, run, recipe, suite, dataset), recipe


def compare_models(place: Place, first: str, second: str) -> list[Comparison]:
    """How the model `second` differs from `first`: each a run, or RUN:VARIANT (adapted when not said).

    Primary metrics are those of the second's recipe. Raises NarutoError for what cannot be compared.
    """
    sides: list[Side] = []
    recipes: list[Recipe] = []
    for name in (first, second):
        run, _, variant = name.partition(":")
        if variant not in ("", *DRAWN):
            raise NotRecorded(f"{name}: a model is RUN:VARIANT, with {', '.join(DRAWN)} for VARIANT.")
        features, recipe = recorded_run(place, place.store.run(run).id)
        model = Side(name, features, Variant(variant or Variant.ADAPTED))
        if model.variant not in features.samples:
            raise NotRecorded(f"{name}: this run drew no pictures with {model.variant}.")
        sides.append(model)
        recipes.append(recipe)
    return compare(sides[0], sides[1], recipes[1].scoring)
