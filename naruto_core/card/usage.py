"""How the files are used: code for diffusers that runs as it stands, and steps for ComfyUI."""

from pathlib import PurePosixPath

from naruto_core.card.facts import CardFacts, WeightFiles, escape
from naruto_core.git_info import is_hub_id, public_name
from naruto_core.prompts import insert_tokens
from naruto_core.recipe import Recipe
from naruto_core.sampling import SAMPLERS
from naruto_core.textual_inversion import split_tokens


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
    told = ", or ".join(escape(insert_tokens(phrase, _spoken(words))) for phrase in phrases)
    steps = [f"Begin the prompt with the trigger phrase: {told}"]
    if skip := recipe.generation.clip_skip:  # 0 would be SDXL's penultimate layer, ComfyUI's -2
        steps.append(f"*CLIP Set Last Layer* at {-skip - 2}.")
    return steps


# The oldest versions that load what is exported, all of it; tests load it with exactly these.
LOWEST_VERSIONS = {"diffusers": "0.33", "transformers": "4.51", "accelerate": "1.6", "peft": "0.15"}

_DTYPE = {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16"}


def needed_versions() -> str:
    """ "diffusers 0.33, transformers 4.51, ... or newer": what the files of an adapter load with."""
    *first, last = (f"{package} {version}" for package, version in LOWEST_VERSIONS.items())
    return f"{', '.join(first)} and {last}, or newer"


def diffusers_code(recipe: Recipe, run_id: str, files: WeightFiles, prompt: str, seed: int) -> str:
    """A Python program that draws `prompt` from `seed` as the adapted pictures of this run were drawn.

    What people wrote stands in it as Python literals: it can end neither a string nor the block of code.
    """
    model = recipe.model
    classes = ["AutoencoderKL"] if model.vae else []
    classes += [SAMPLERS[recipe.generation.scheduler], "StableDiffusionXLPipeline"]
    packaged = any(name.startswith("package:") for name in (model.base, model.vae or ""))
    lines = [
        *(["from importlib.resources import files", ""] if packaged else []),
        "import torch",
        f"from diffusers import {', '.join(classes)}",
        *(["from huggingface_hub import snapshot_download"] if recipe.publish.push_to_hub and files.embeddings else []),
        *(["from safetensors.torch import load_file"] if files.embeddings else []),
        "",
        *_places(recipe, run_id, files),
        "",
        *_base(recipe),
        *(_new_tokens(recipe, files.embeddings) if files.embeddings else []),
        *_adapters(recipe, run_id, files),
        "",
        *_drawing(recipe, prompt, seed),
    ]
    return "\n".join(lines)


def _places(recipe: Recipe, run_id: str, files: WeightFiles) -> list[str]:
    model, publish = recipe.model, recipe.publish
    pushed = f"{publish.hub_model_id!r}"
    if files.embeddings:  # which diffusers does not fetch by tensor names
        pushed = f"snapshot_download({pushed}, revision={run_id!r})"
    pushed += "  # or the folder this file is in"
    adapter = pushed if publish.push_to_hub else "'.'  # the folder this file is in"
    return [
        f"base = {_place(model.base, model.revision)}",
        *([f"vae = {_place(model.vae, model.vae_revision)}"] if model.vae else []),
        f"adapter = {adapter}",
        "device = 'cuda' if torch.cuda.is_available() else 'cpu'",
    ]


def _place(name: str, revision: str | None) -> str:
    if name.startswith("package:"):
        package, _, folder = name.removeprefix("package:").partition("/")
        return f"str(files({package!r}) / {folder!r})  # ships inside that Python package"
    if is_hub_id(name, revision):
        return repr(name)
    return f"{'path/to/' + public_name(name, revision)!r}  # a folder: see below which one"


def _base(recipe: Recipe) -> list[str]:
    model = recipe.model
    # not `dtype`, which diffusers before 0.40 does not heed
    dtype = f"torch_dtype={_DTYPE[recipe.generation.mixed_precision]}"
    vae = ", ".join(["vae", *_pin(model.vae or "", model.vae_revision), dtype])
    options = [
        *_pin(model.base, model.revision),
        *([f"variant={model.variant!r}"] if model.variant else []),
        *([f"vae=AutoencoderKL.from_pretrained({vae})"] if model.vae else []),
        dtype,
    ]
    return [
        "pipeline = StableDiffusionXLPipeline.from_pretrained(",
        "    base,",
        *[f"    {option}," for option in options],
        ").to(device)",
        f"pipeline.scheduler = {SAMPLERS[recipe.generation.scheduler]}.from_config(pipeline.scheduler.config)",
    ]


def _new_tokens(recipe: Recipe, file: str) -> list[str]:
    """Into both tokenizers and text encoders, as `naruto_core.textual_inversion.load_tokens` does."""
    count = sum(len(split_tokens(name)) for name in recipe.new_tokens.values())
    lines = [
        "",
        f"state = load_file(f'{{adapter}}/{file}')",
        f"tokens = [f'<s{{number}}>' for number in range({count})]",
    ]
    for key, part in (("clip_l", ""), ("clip_g", "_2")):
        encoder = f"text_encoder=pipeline.text_encoder{part}, tokenizer=pipeline.tokenizer{part}"
        lines += ["pipeline.load_textual_inversion(", f"    state[{key!r}], token=tokens, {encoder}", ")"]
    return [
        *lines,
        "# SDXL's second text encoder says eos_token_id 2, and then takes the pooled text at the highest token id,",
        "# which a new token has. These tokens were learnt with the text pooled at its end, as ComfyUI does it.",
        "pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id",
        "",
    ]


def _adapters(recipe: Recipe, run_id: str, files: WeightFiles) -> list[str]:
    scales = {style: recipe.fusion.style_scales.get(style, recipe.fusion.lora_scale) for style in files.loras}
    named = list(scales.values()) not in ([], [1.0])
    names = {style: f"style-{style}" if style else "style" for style in scales}
    lines: list[str] = []
    for style, name in files.loras.items():
        options = [
            *([f"subfolder={style!r}"] if style else []),
            f"weight_name={name.rpartition('/')[2]!r}",
            *([f"revision={run_id!r}"] if recipe.publish.push_to_hub and not files.embeddings else []),
            *([f"adapter_name={names[style]!r}"] if named else []),
        ]
        lines.append(f"pipeline.load_lora_weights(adapter, {', '.join(options)})")
    if named:
        lines.append(f"pipeline.set_adapters({list(names.values())}, {list(scales.values())})")
    return lines


def _pin(name: str, revision: str | None) -> list[str]:
    return [f"revision={revision!r}"] if is_hub_id(name, revision) else []


def _drawing(recipe: Recipe, prompt: str, seed: int) -> list[str]:
    drawing = recipe.generation
    return [
        "picture = pipeline(",
        f"    prompt={prompt!r},",
        f"    negative_prompt={drawing.negative_prompt!r},",
        f"    height={drawing.resolution},",
        f"    width={drawing.resolution},",
        f"    num_inference_steps={drawing.num_inference_steps},",
        f"    guidance_scale={drawing.guidance_scale},",
        *([f"    clip_skip={drawing.clip_skip},"] if drawing.clip_skip else []),
        f"    generator=torch.Generator().manual_seed({seed}),",
        ").images[0]",
        "picture.save('picture.png')",
    ]
