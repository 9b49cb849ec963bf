"""The model card of a run: what a stranger must know to use, judge and trust the adapter.

Front matter as the hub reads it, body as people do. Only what the record holds is said, a number
never without its n; what is not known is called so. No path of the machine stands in it.
"""

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from naruto_core.card.comfyui import comfyui_steps
from naruto_core.card.facts import CardFacts
from naruto_core.card.licences import base_licence
from naruto_core.card.markdown import escape, table
from naruto_core.card.sources import base_model, base_name, licences, picture_sections, training_data
from naruto_core.card.tables import picture_table, recipe_table, score_table
from naruto_core.card.usage import diffusers_code, needed_versions
from naruto_core.domain import Variant
from naruto_core.prompts import trigger_phrases
from naruto_core.provenance import is_hub_id
from naruto_core.recipe import MAIN_STYLE

_TAGS = ["text-to-image", "stable-diffusion-xl", "diffusers", "diffusers-training"]
_LORA_TAGS, _WORD_TAGS = ["lora", "template:sd-lora"], ["textual_inversion"]


def model_card(facts: CardFacts) -> ModelCard:
    """The README.md of a run's adapter."""
    sections = [
        _head(facts),
        _pictures(facts),
        _diffusers(facts),
        _comfyui(facts),
        _files(facts),
        base_model(facts),
        training_data(facts),
        _recipe(facts),
        _scores(facts),
        licences(facts),
        _limits(facts),
    ]
    body = "\n\n".join(section for section in sections if section)
    return ModelCard(f"---\n{_front_matter(facts).to_yaml()}\n---\n\n{body}\n")


def _front_matter(facts: CardFacts) -> ModelCardData:
    model, datasets = facts.recipe.model, picture_sections(facts.recipe)
    on_hub = is_hub_id(model.base, model.revision)
    more: dict[str, Any] = {"base_model_relation": "adapter"} if on_hub else {}
    if facts.shown:
        more["widget"] = _widget(facts)
    return ModelCardData(
        base_model=model.base if on_hub else None,
        datasets=[one.source for one in datasets if is_hub_id(one.source, one.revision)] or None,
        library_name="diffusers",
        license=base_licence(model)[0],
        pipeline_tag="text-to-image",
        tags=[*_TAGS, *(_LORA_TAGS if facts.files.loras else []), *(_WORD_TAGS if facts.files.embeddings else [])],
        instance_prompt=trigger_phrases(facts.recipe)[MAIN_STYLE],
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
    styles = ", and on those of " + " and ".join(style.name for style in facts.recipe.styles)
    phrases = trigger_phrases(facts.recipe)
    if len(phrases) == 1:
        trigger = f"Trigger phrase: **{escape(phrases['main'])}**"
    else:
        trigger = "Trigger phrases:\n\n" + "\n".join(f"- {style}: **{escape(p)}**" for style, p in phrases.items())
    return (
        f"# {facts.run.id}\n\n"
        f"{_what(facts)} for {base_name(facts.recipe.model)}, trained by naruto-sdxl on {facts.dataset.n_train} "
        f"captioned pictures{styles if facts.recipe.styles else ''}.\n\n{trigger}{_words(facts)}"
    )


def _what(facts: CardFacts) -> str:
    section, count = facts.recipe.training, len(facts.files.loras)
    kind = "DoRA" if section.use_dora else "LoRA"
    tokens = "new tokens" if facts.files.embeddings else ""
    if not count:
        return f"Embeddings of {tokens}"
    told = f"A {kind} adapter of rank {section.rank}" if count == 1 else f"{count} {kind} adapters, one for each style,"
    told += "" if count == 1 else f" of rank {section.rank}"
    return f"{told} with {tokens}" if tokens else told


def _words(facts: CardFacts) -> str:
    """What stands for new tokens, in prompts for programs that know no such words."""
    told = " and ".join(f"{escape(tokens)} for {escape(word)}" for word, tokens in facts.recipe.new_tokens.items())
    return f"\n\nNew tokens: in prompts for diffusers write {told}." if told else ""


def _pictures(facts: CardFacts) -> str:
    if not facts.shown:
        return ""
    drawing = facts.recipe.generation
    return (
        f"{picture_table(facts.shown)}\n\n"
        f"Same prompt and same seed in every row: {len(facts.shown)} of the {facts.n_prompts} prompts of the suite "
        f"{escape(facts.suite_name)}, evenly spaced, the first seed of each; none was picked by its looks. "
        f"{drawing.num_inference_steps} {drawing.scheduler} steps, guidance {drawing.guidance_scale}, "
        f"{drawing.resolution} pixels.{_what_the_base_read(facts)}"
    )


def _what_the_base_read(facts: CardFacts) -> str:
    told = " and ".join(f"{escape(word)} for {escape(tokens)}" for word, tokens in facts.recipe.new_tokens.items())
    return f" The base, which has no new tokens, read {told}." if told else ""


def _diffusers(facts: CardFacts) -> str:
    trigger = trigger_phrases(facts.recipe)[MAIN_STYLE]
    prompt, seed = (facts.shown[0].text, facts.shown[0].seed) if facts.shown else (trigger, 0)
    code = diffusers_code(facts.recipe, facts.run.id, facts.files, prompt, seed)
    return (
        f"## Use it in diffusers\n\nWith {needed_versions()}. Another device or precision than the run's rounds "
        f"differently, and may draw small details otherwise.\n\n```python\n{code}\n```"
    )


def _comfyui(facts: CardFacts) -> str:
    steps = comfyui_steps(facts)
    return f"## Use it in ComfyUI\n\n{steps}" if steps else ""


def _files(facts: CardFacts) -> str:
    files, readers = facts.files, "for ComfyUI, A1111 and kohya's tools"
    rows = [
        *[[f"`{name}`", f"the adapter{_of(style)}, for diffusers"] for style, name in files.loras.items()],
        *([[f"`{files.embeddings}`", "the embeddings of the new tokens, for diffusers"]] if files.embeddings else []),
        *[[f"`{name}`", f"the adapter{_of(style)}, {readers}"] for style, name in files.kohya.items()],
        *[[f"`{name}`", f"new tokens for {escape(word)}, for ComfyUI, A1111"] for word, name in files.words.items()],
        *([["`samples/`", "the pictures above"]] if facts.shown else []),
    ]
    return f"## Files\n\n{table(['file', 'what it is'], rows)}"


def _of(style: str) -> str:
    return f" of {style}" if style else ""


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


def _limits(facts: CardFacts) -> str:
    trained, drawn = facts.recipe.training.resolution, facts.recipe.generation.resolution
    limits = [
        "It was trained on small picture sets, and draws their styles, with their gaps and habits."
        if facts.recipe.styles
        else "It was trained on one small picture set, and draws that set's style, with its gaps and habits.",
        "What the base model cannot draw, or draws with prejudice, this adapter does not mend.",
        "It may repeat training pictures: compare before you publish what it draws.",
        f"It was trained at {trained} and tried at {drawn} pixels; nothing is known of other sizes.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)
