"""Flow `import-lora`: a LoRA of another trainer becomes a run, measured like our own."""

from typing import Any

from prefect import flow

from flows.profiles import choose_import, choose_suite, imported_recipe, imported_section
from naruto_core.prompts import with_trigger
from tasks.fuse import check_fused, fuse
from tasks.generate import generate
from tasks.import_lora import examine_lora, find_lora, record_lora
from tasks.ingest import ingest
from tasks.preflight import preflight
from tasks.pruning import shown_as_cancelled
from tasks.run import close_run, open_run, present
from tasks.score import score


@flow(name="import-lora", flow_run_name="import-lora-{profile}", result_serializer="json")
@shown_as_cancelled
def import_lora(
    file: str,
    profile: str = "mini",
    base: str | None = None,
    dataset: str | None = None,
    name: str | None = None,
    trigger: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> str:
    """Does a LoRA that was trained elsewhere draw the dataset's style better than its base?"""
    chosen = choose_import(profile, base, dataset, overrides)
    suite = choose_suite(chosen.generation)
    phrase = chosen.training.instance_prompt
    suite = with_trigger(suite, phrase, trigger) if trigger else suite
    found = find_lora(file)
    lora = examine_lora(found, chosen.model)
    imported = imported_section(
        kind="lora",
        name=found.name,
        sha256=lora.sha256,
        instance_prompt=trigger or phrase,
        trigger=trigger or None,
        format=lora.format,
        rank=lora.ranks,
        modules=lora.modules,
        use_dora=lora.use_dora,
        facts=lora.facts,
    )
    recipe = imported_recipe(chosen, imported, name or found.path.stem)
    preflight(recipe, suite)
    run = open_run(recipe, suite, [ingest(recipe.dataset)])

    adapters = record_lora(run, found)
    fused = fuse(run, adapters)
    generate(run, adapters, fused)
    check_fused(run, fused)
    score(run)
    present(run)
    return close_run(run).id
