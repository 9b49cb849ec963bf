"""Flow `import-pictures`: pictures that another program drew for the prompts of a suite become a measured run."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.profiles import choose_import, choose_suite, imported_recipe, imported_section
from naruto_core.dataset.sample_folder import read_sample_folder
from tasks.generate import generate
from tasks.import_pictures import record_pictures, say_sizes
from tasks.ingest import ingest
from tasks.preflight import preflight
from tasks.pruning import shown_as_cancelled
from tasks.run import close_run, open_run, present
from tasks.score import score


@flow(name="import-pictures", flow_run_name="import-pictures-{profile}", result_serializer="json")
@shown_as_cancelled
def import_pictures(
    folder: str,
    model: str,
    profile: str = "mini",
    base: str | None = None,
    dataset: str | None = None,
    table: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> str:
    """Does another model draw the dataset's style, and what the prompts say? With `base`, against that base model."""
    chosen = choose_import(profile, base, dataset, overrides)
    suite = choose_suite(chosen.generation)
    found = read_sample_folder(
        Path(folder).expanduser(), Path(table).expanduser() if table else None, suite, chosen.generation.resolution
    )
    say_sizes(found, chosen.generation.resolution)
    phrase = chosen.training.instance_prompt
    imported = imported_section(kind="pictures", name=model, sha256=found.sha256, instance_prompt=phrase)
    recipe = imported_recipe(chosen, imported, model, draw_base=base is not None)
    if base:
        preflight(recipe, suite)
    run = open_run(recipe, suite, [ingest(recipe.dataset)])

    record_pictures(run, found)
    if base:
        generate(run, [], None)
    score(run)
    present(run)
    return close_run(run).id
