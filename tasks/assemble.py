"""Assemble: what is handed out of a run in one folder: adapter, pictures, model card, and the file for ComfyUI."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from naruto_core import sdxl
from naruto_core.artifacts import Layout, atomic_folder, sha256_file
from naruto_core.card.facts import CardFacts, ShownPrompt
from naruto_core.card.model_card import model_card
from naruto_core.domain import Adapter, PromptSuite, Run, Sample, Variant
from naruto_core.errors import ModelUnusable, RecordDamaged
from naruto_core.generation import save_picture
from naruto_core.kohya import kohya_metadata, write_kohya
from naruto_core.provenance import is_hub_id
from naruto_core.recipe import ModelSection, Recipe
from naruto_core.store.opening import Store

SHOWN_PROMPTS, SHOWN_VARIANTS = 4, 2


def assemble(
    store: Store, layout: Layout, run: Run, adapters: Sequence[Adapter], folder: Path, *, for_comfyui: bool
) -> None:
    """Fill `folder`, atomically; the same record gives the same bytes.

    Raises RecordDamaged when the adapter or a picture is missing or not the recorded one, and
    ModelUnusable when `for_comfyui` asks for a file that kohya's format cannot hold.
    """
    source = whole_adapter(layout, adapters[-1])
    recipe = Recipe.model_validate_json(store.recipe_json(run.id))
    dataset = store.find_dataset(run.dataset_id)
    assert dataset is not None  # a foreign key
    suite = store.prompts(run.id)
    with atomic_folder(folder) as scratch:
        weights = sorted(path.name for path in source.parent.glob("*.safetensors"))
        for name in weights:
            shutil.copyfile(source.parent / name, scratch / name)
        kohya = f"{run.id}.safetensors" if for_comfyui else ""
        if kohya:
            write_kohya(source, scratch / kohya, kohya_metadata(run, recipe, dataset))
        facts = CardFacts(
            run=run,
            recipe=recipe,
            dataset=dataset,
            base_digest=_base_digest(recipe.model),
            weight_name=source.name,
            kohya_name=kohya,
            other_weights=tuple(name for name in weights if name != source.name),
            scores=tuple(score for score in store.scores(run.id) if score.sample_id is None),
            shown=_show_pictures(store, layout, run, recipe, suite, scratch) if suite else (),
            suite_name=suite.name if suite else "",
            n_prompts=len(suite.prompts) if suite else 0,
        )
        (scratch / "README.md").write_text(str(model_card(facts)), encoding="utf-8", newline="\n")


def whole_adapter(layout: Layout, adapter: Adapter) -> Path:
    """The adapter's file; RecordDamaged when it is gone, or another than was recorded."""
    return _whole(layout, "adapter", adapter.path, adapter.sha256)


def _whole(layout: Layout, what: str, recorded: str, sha256: str) -> Path:
    path = layout.absolute(recorded)
    if not path.is_file() or sha256_file(path) != sha256:
        raise RecordDamaged(f"the {what} {recorded} is not the one that was recorded; see `naruto verify`.")
    return path


def _base_digest(model: ModelSection) -> str:
    """A digest of a base model that has no address; "" for the hub's, and for a folder that is gone by now."""
    if is_hub_id(model.base, model.revision):
        return ""
    try:
        return sdxl.identity(model)
    except ModelUnusable:
        return ""


def _show_pictures(
    store: Store, layout: Layout, run: Run, recipe: Recipe, suite: PromptSuite, folder: Path
) -> tuple[ShownPrompt, ...]:
    """A few prompts, evenly spaced over the suite, each drawn by the first variants that there are."""
    seed = suite.seeds[0]
    drawn = {(s.prompt, s.variant): s for s in store.samples(run.id) if s.seed == seed}
    variants = [v for v in Variant if any(variant is v for _, variant in drawn)][:SHOWN_VARIANTS]
    complete = [p for p in suite.prompts if variants and all((p.slug, v) in drawn for v in variants)]
    count = min(SHOWN_PROMPTS, len(complete))
    shown: list[ShownPrompt] = []
    for prompt in (complete[number * len(complete) // count] for number in range(count)):
        samples = {variant: drawn[prompt.slug, variant] for variant in variants}
        names = {v: _copy_picture(layout, s, prompt.text, recipe, folder) for v, s in samples.items()}
        shown.append(ShownPrompt(prompt.text, seed, names))
    return tuple(shown)


def _copy_picture(layout: Layout, sample: Sample, text: str, recipe: Recipe, folder: Path) -> str:
    """Save the sample below `folder`; its name there. What it says of itself is written anew, without paths."""
    drawing = recipe.generation.model_dump(mode="json", exclude={"suite", "variants", "prompts", "seeds"})
    facts = {"run": sample.run_id, "variant": sample.variant, "prompt": text, "seed": sample.seed}
    name = f"samples/{sample.id}.png"
    with Image.open(_whole(layout, "picture", sample.path, sample.sha256)) as picture:
        save_picture(picture.convert("RGB"), folder / name, facts | drawing)
    return name
