"""Publish: the folder that is handed out of a run, and its push to a model hub when the recipe asks for it."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from naruto_core import picture_file, sdxl
from naruto_core.adapter_file import check_loads, read_adapter
from naruto_core.artifacts import Layout, atomic_folder
from naruto_core.card.facts import CardFacts, ShownPrompt, WeightFiles
from naruto_core.card.model_card import model_card
from naruto_core.domain import Adapter, PromptSuite, Run, Sample, Variant
from naruto_core.errors import ModelUnusable
from naruto_core.generation import save_picture
from naruto_core.git_info import is_hub_id
from naruto_core.hub import push_folder
from naruto_core.kohya import no_kohya_reason
from naruto_core.noise_schedule import stated_schedule
from naruto_core.prompts import insert_tokens
from naruto_core.recipe import Recipe
from naruto_core.recipe_sections import ModelSection
from naruto_core.store.database import Store
from tasks.adapter_files import Trained, find_trained, whole_file, write_kohya_files, write_word_files
from tasks.context import OpenRun, run_context
from tasks.progress import say
from tasks.pruning import run_task

SHOWN_PROMPTS, SHOWN_VARIANTS = 4, 2


def write_bundle(
    store: Store, layout: Layout, run: Run, adapters: Sequence[Adapter], folder: Path, *, for_comfyui: bool
) -> None:
    """Fill `folder`, atomically; the same record gives the same bytes.

    `for_comfyui` adds what ComfyUI reads, or where there is no such form, the reason to the card. Raises
    RecordDamaged when an adapter or a picture is missing or not the recorded one, and ModelUnusable when an adapter
    does not load into the base model as it is.
    """
    trained = find_trained(store, layout, run, adapters)
    recipe, suite = trained.recipe, store.prompts(run.id)
    with atomic_folder(folder) as scratch:
        facts = CardFacts(
            run=run,
            recipe=recipe,
            dataset=trained.dataset,
            base_digest=_base_digest(recipe.model),
            files=_write_weights(trained, scratch, for_comfyui=for_comfyui),
            scores=tuple(score for score in store.scores(run.id) if score.sample_id is None),
            shown=_show_pictures(store, layout, run, recipe, suite, scratch) if suite else (),
            suite_name=suite.name if suite else "",
            n_prompts=len(suite.prompts) if suite else 0,
            schedule=_schedule(recipe.model),
        )
        (scratch / "README.md").write_text(str(model_card(facts)), encoding="utf-8", newline="\n")


def _write_weights(trained: Trained, folder: Path, *, for_comfyui: bool) -> WeightFiles:
    """Copy LoRA files (each style's into a folder of its name) and embeddings; for ComfyUI, in its forms too."""
    loras = {style: str(PurePosixPath(style, path.name)) for style, path in trained.loras.items()}
    for style, name in loras.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(trained.loras[style], folder / name)
        check_loads(trained.recipe.model, folder / name, read_adapter(trained.loras[style]))
    if trained.embeddings:
        shutil.copyfile(trained.embeddings, folder / trained.embeddings.name)
    embeddings = trained.embeddings.name if trained.embeddings else ""
    if not for_comfyui:
        return WeightFiles(loras, embeddings)
    reason = no_kohya_reason(trained.recipe)
    kohya = {} if reason else write_kohya_files(trained, folder)
    # new tokens without the LoRA they were learnt with draw something else
    words = write_word_files(trained, folder) if kohya or not loras else {}
    return WeightFiles(loras, embeddings, kohya, words, reason)


def _base_digest(model: ModelSection) -> str:
    """A digest of a base model that has no address; "" for the hub's, and for a folder that is gone by now."""
    if is_hub_id(model.base, model.revision):
        return ""
    try:
        return sdxl.identity(model)
    except ModelUnusable:
        return ""


def _schedule(model: ModelSection) -> dict[str, Any]:
    """The noise schedule of the base model where it is stated; {} for a file that is gone by now."""
    try:
        return stated_schedule(model)
    except ModelUnusable:
        return {}


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
        text = insert_tokens(prompt.text, recipe.new_tokens)
        read = {v: prompt.text if v is Variant.BASE else text for v in samples}  # the base has no new tokens
        names = {v: _copy_picture(layout, s, read[v], recipe, folder) for v, s in samples.items()}
        shown.append(ShownPrompt(text, seed, names))
    return tuple(shown)


def _copy_picture(layout: Layout, sample: Sample, text: str, recipe: Recipe, folder: Path) -> str:
    """Save the sample below `folder`; its name there. What it says of itself is written anew, without paths."""
    facts: dict[str, object] = {"run": sample.run_id, "variant": sample.variant, "prompt": text, "seed": sample.seed}
    name = f"samples/{sample.id}{picture_file.SUFFIX}"
    with Image.open(whole_file(layout, "picture", sample.path, sample.sha256)) as picture:
        save_picture(picture.convert("RGB"), folder / name, facts | recipe.generation.drawing_options)
    return name


@run_task()
def publish(opened: OpenRun, adapters: Sequence[Adapter]) -> str:
    """Push the run's folder, private by default, tagged with the run's id; its address, or "" when not asked to."""
    section = opened.recipe.publish
    if not section.push_to_hub or not section.hub_model_id:
        return ""
    with run_context(opened, "publish", needs_device=False) as context:
        folder = context.layout.published(opened.id)
        write_bundle(context.store, context.layout, opened.run, adapters, folder, for_comfyui=True)
        address = push_folder(folder, section.hub_model_id, section.private, opened.id, hub_token())
    say(f"pushed to {address}")
    return address


def hub_token() -> str:
    """The hub's token from the environment, "" when there is none; it is handed on, never kept or shown."""
    return os.environ.get("HF_TOKEN", "").strip()
