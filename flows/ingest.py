"""Flow `ingest`: only the first step, to check a picture set before a run."""

from prefect import flow

from flows.profiles import Overrides, Profile, choose_ingest
from tasks.ingest import ingest
from tasks.truncation import say_long_captions


@flow(name="ingest", flow_run_name="ingest-{profile}", result_serializer="json")
def ingest_pictures(profile: Profile = "mini", dataset: str | None = None, overrides: Overrides = None) -> str:
    """Check and store a captioned picture set; the id of its version.

    Args:
        profile: The recipe: its name, or the path of a recipe file where no form restricts it.
        dataset: Pictures to use instead of the recipe's: a path, a hub id, or world:<style>.
        overrides: Single values of the recipe to change, dotted, e.g. {"training.rank": 8}.
    """
    recipe = choose_ingest(profile, dataset, overrides)
    version = ingest(recipe.dataset)
    say_long_captions(recipe, version)
    return version.id
