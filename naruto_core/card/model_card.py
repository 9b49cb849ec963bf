"""The model card of a run: what a stranger must know to use, judge and trust the adapter.

Front matter as the hub reads it, body as people do. Only what the record holds is said, a number
never without its n; what is not known is called so. No path of the machine stands in it.
"""

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from naruto_core.card.facts import CardFacts
from naruto_core.card.licences import base_licence, pictures_licence
from naruto_core.card.markdown import escape, table
from naruto_core.card.tables import picture_table, recipe_table, score_table
from naruto_core.card.usage import comfyui_steps, diffusers_code
from naruto_core.domain import Variant
from naruto_core.provenance import is_hub_id, public_name

_TAGS = ["text-to-image", "stable-diffusion-xl", "lora", "diffusers", "diffusers-training", "template:sd-lora"]


def model_card(facts: CardFacts) -> ModelCard:
    """The README.md of a run's adapter."""
    sections = [
        _head(facts),
        _pictures(facts),
        _diffusers(facts),
        _comfyui(facts),
        _files(facts),
        _base(facts),
        _data(facts),
        _recipe(facts),
        _scores(facts),
        _licences(facts),
        _limits(facts),
    ]
    body = "\n\n".join(section for section in sections if section)
    return ModelCard(f"---\n{_front_matter(facts).to_yaml()}\n---\n\n{body}\n")


def _front_matter(facts: CardFacts) -> ModelCardData:
    model, dataset = facts.recipe.model, facts.recipe.dataset
    on_hub = is_hub_id(model.base, model.revision)
    more: dict[str, Any] = {"base_model_relation": "adapter"} if on_hub else {}
    if facts.shown:
        more["widget"] = _widget(facts)
    return ModelCardData(
        base_model=model.base if on_hub else None,
        datasets=[dataset.source] if is_hub_id(dataset.source, dataset.revision) else None,
        library_name="diffusers",
        license=base_licence(model)[0],
        pipeline_tag="text-to-image",
        tags=_TAGS,
        instance_prompt=facts.recipe.training.instance_prompt,
        **more,
    )


def _widget(facts: CardFacts) -> list[dict[str, Any]]:
    negative = facts.recipe.generation.negative_prompt
    return [
        {
            "text": one.text,
            "parameters": {"negative_prompt": negative},
            "output": {"url": one.pictures[Variant.ADAPTED]},
        }
        for one in facts.shown
        if Variant.ADAPTED in one.pictures
    ]


def _head(facts: CardFacts) -> str:
    section = facts.recipe.training
    return (
        f"# {facts.run.id}\n\n"
        f"A LoRA adapter of rank {section.rank} for {_base_name(facts)}, trained by naruto-sdxl on "
        f"{facts.dataset.n_train} captioned pictures.\n\n"
        f"Trigger phrase: **{escape(section.instance_prompt)}**"
    )


def _base_name(facts: CardFacts) -> str:
    model = facts.recipe.model
    if is_hub_id(model.base, model.revision):
        return f"[{escape(model.base)}](https://huggingface.co/{model.base})"
    if model.base.startswith("package:"):
        package, _, folder = model.base.removeprefix("package:").partition("/")
        return f"the SDXL model in the folder {escape(folder)} of the Python package {escape(package)}"
    name = public_name(model.base, model.revision)
    return f"a local SDXL model called {escape(name)}" if name else "a local SDXL model"


def _pictures(facts: CardFacts) -> str:
    if not facts.shown:
        return ""
    drawing = facts.recipe.generation
    return (
        f"{picture_table(facts.shown)}\n\n"
        f"Same prompt and same seed in every row: {len(facts.shown)} of the {facts.n_prompts} prompts of the suite "
        f"{escape(facts.suite_name)}, evenly spaced, the first seed of each; none was picked by its looks. "
        f"{drawing.num_inference_steps} {drawing.scheduler} steps, guidance {drawing.guidance_scale}, "
        f"{drawing.resolution} pixels."
    )


def _diffusers(facts: CardFacts) -> str:
    trigger = facts.recipe.training.instance_prompt
    prompt, seed = (facts.shown[0].text, facts.shown[0].seed) if facts.shown else (trigger, 0)
    code = diffusers_code(facts.recipe, facts.run.id, facts.weight_name, prompt, seed)
    return (
        "## Use it in diffusers\n\nWith diffusers 0.42 or newer, and peft. Another device or precision than the "
        f"run's rounds differently, and may draw small details otherwise.\n\n```python\n{code}\n```"
    )


def _comfyui(facts: CardFacts) -> str:
    return f"## Use it in ComfyUI\n\n{comfyui_steps(facts.recipe, facts.kohya_name)}" if facts.kohya_name else ""


def _files(facts: CardFacts) -> str:
    rows = [
        [f"`{facts.weight_name}`", "the adapter, for diffusers"],
        *([[f"`{facts.kohya_name}`", "the same, for ComfyUI, A1111 and kohya's tools"]] if facts.kohya_name else []),
        *[[f"`{name}`", "more weights that belong to the adapter"] for name in facts.other_weights],
        *([["`samples/`", "the pictures above"]] if facts.shown else []),
    ]
    return f"## Files\n\n{table(['file', 'what it is'], rows)}"


def _base(facts: CardFacts) -> str:
    model = facts.recipe.model
    told = [f"Trained on top of {_base_name(facts)}"]
    if is_hub_id(model.base, model.revision):
        told[0] += f", revision {escape(model.revision or '')}"
    elif facts.base_digest:
        told[0] += f"; sha256 over its files when this card was written: `{facts.base_digest}`"
    if model.vae and is_hub_id(model.vae, model.vae_revision):
        told.append(
            f"VAE: [{escape(model.vae)}](https://huggingface.co/{model.vae}), "
            f"revision {escape(model.vae_revision or '')}"
        )
    elif model.vae:
        told.append("VAE: another one than its own, a local one")
    return "## Base model\n\n" + "\n\n".join(f"{sentence}." for sentence in told)


def _data(facts: CardFacts) -> str:
    dataset, section = facts.dataset, facts.recipe.dataset
    name = public_name(section.source, section.revision)
    if is_hub_id(section.source, section.revision):
        source = f"[{escape(name)}](https://huggingface.co/datasets/{name}), revision {escape(section.revision or '')}"
    elif section.source.startswith("world:"):
        source = f"Drawings made by the software itself, {escape(name)}"
    else:
        source = f"A local picture set called {escape(name)}" if name else "A local picture set"
    held_out = f"{dataset.n_reference} held out of training" if dataset.n_reference else "none held out of training"
    return (
        f"## Training data\n\n{source}: version `{dataset.id}`, {dataset.n_train} pictures to learn from, {held_out}, "
        f"{dataset.n_quarantined} records left out as broken, {dataset.n_duplicates} duplicates found."
    )


def _recipe(facts: CardFacts) -> str:
    return (
        f"## Recipe\n\n{recipe_table(facts.recipe)}\n\n"
        f"Profile {escape(facts.run.profile)}; sha256 of all choices: `{facts.run.fingerprint}`."
    )


def _scores(facts: CardFacts) -> str:
    if not facts.scores:
        return "## Scores\n\nNothing was measured."
    told = "Value [95 % interval] of n pictures. Only numbers of one row are comparable."
    if any(score.metric == "fid" for score in facts.scores):
        told += " An FID of so few pictures is biased upward; do not hold it against anybody else's."
    if not facts.dataset.n_reference:
        told += " Nothing was held out: what compares with pictures compares with those that were trained on."
    return f"## Scores\n\n{score_table(facts)}\n\n{told}"


def _licences(facts: CardFacts) -> str:
    base, pictures = base_licence(facts.recipe.model)[1], pictures_licence(facts.recipe.dataset)
    return f"## Licences\n\n- {base}\n- {pictures}"


def _limits(facts: CardFacts) -> str:
    trained, drawn = facts.recipe.training.resolution, facts.recipe.generation.resolution
    limits = [
        "It was trained on one small picture set, and draws that set's style, with its gaps and habits.",
        "What the base model cannot draw, or draws with prejudice, this adapter does not mend.",
        "It may repeat training pictures: compare before you publish what it draws.",
        f"It was trained at {trained} and tried at {drawn} pixels; nothing is known of other sizes.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)
