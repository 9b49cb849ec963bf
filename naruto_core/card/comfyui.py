"""Where ComfyUI wants which file, and what to connect and write there."""

from pathlib import PurePosixPath

from naruto_core.card.facts import CardFacts
from naruto_core.card.markdown import escape
from naruto_core.prompts import put_tokens
from naruto_core.provenance import is_hub_id
from naruto_core.recipe import Recipe


def comfyui_steps(facts: CardFacts) -> str:
    """A numbered list, after the reason where there is no LoRA for ComfyUI; "" when nothing of it was asked for."""
    recipe, files = facts.recipe, facts.files
    reason = f"There is no LoRA file for ComfyUI: {escape(files.no_kohya)}." if files.no_kohya else ""
    if not files.kohya and not files.words:
        return reason
    steps = [*_lora(recipe, files.kohya), *_words(files.words), *_prompt(recipe, files.words)]
    if recipe.model.base.startswith("package:"):
        steps.append("This base model is a folder for diffusers only: ComfyUI has no checkpoint of it to load.")
    listed = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    return f"{reason}\n\n{listed}" if reason else listed


def _lora(recipe: Recipe, kohya: dict[str, str]) -> list[str]:
    model, fusion = recipe.model, recipe.fusion
    base = f"a checkpoint file of {escape(model.base)}" if is_hub_id(model.base, model.revision) else "the base model"
    if not kohya:
        return [f"*Load Checkpoint* with {base}."]
    names = " and ".join(f"`{name}`" for name in kohya.values())
    scales = {name: fusion.style_scales.get(style, fusion.lora_scale) for style, name in kohya.items()}
    if len(kohya) == 1:
        (scale,) = scales.values()
        loaders = f"*Load LoRA* with `strength_model` and `strength_clip` at {scale}"
    else:
        each = ", ".join(f"{scale} for `{name}`" for name, scale in scales.items())
        loaders = f"one *Load LoRA* after the other with `strength_model` and `strength_clip` at {each}"
    return [
        f"Put {names} into `ComfyUI/models/loras/` (A1111 and Forge: `models/Lora/`).",
        f"*Load Checkpoint* with {base}, then {loaders}.",
    ]


def _words(words: dict[str, str]) -> list[str]:
    if not words:
        return []
    names = " and ".join(f"`{name}`" for name in words.values())
    spoken = " and ".join(f"`{spoken}` for {escape(word)}" for word, spoken in _spoken(words).items())
    return [
        f"Put {names} into `ComfyUI/models/embeddings/` (A1111 and Forge: `embeddings/`; there the bare name is used).",
        f"In the prompt write {spoken}, as a word of its own: all its new tokens are inserted at once.",
    ]


def _spoken(words: dict[str, str]) -> dict[str, str]:
    return {word: f"embedding:{PurePosixPath(name).stem}" for word, name in words.items()}


def _prompt(recipe: Recipe, words: dict[str, str]) -> list[str]:
    phrases = [recipe.training.instance_prompt, *(style.instance_prompt for style in recipe.styles)]
    told = ", or ".join(escape(put_tokens(phrase, _spoken(words))) for phrase in phrases)
    steps = [f"Begin the prompt with the trigger phrase: {told}"]
    if skip := recipe.generation.clip_skip:  # 0 would be SDXL's penultimate layer, ComfyUI's -2
        steps.append(f"*CLIP Set Last Layer* at {-skip - 2}.")
    return steps
