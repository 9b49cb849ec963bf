"""How the files are loaded: code for diffusers that runs as it stands, and where ComfyUI wants which file."""

from naruto_core.card.markdown import escape
from naruto_core.provenance import is_hub_id, public_name
from naruto_core.recipe import Recipe

_DTYPE = {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16"}
_SCHEDULER = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler"}


def diffusers_code(recipe: Recipe, run_id: str, weight_name: str, prompt: str, seed: int) -> str:
    """A Python program that draws `prompt` from `seed` as the adapted pictures of this run were drawn.

    What people wrote stands in it as Python literals: it can end neither a string nor the block of code.
    """
    model = recipe.model
    classes = ["AutoencoderKL"] if model.vae else []
    classes += [_SCHEDULER[recipe.generation.scheduler], "StableDiffusionXLPipeline"]
    packaged = any(name.startswith("package:") for name in (model.base, model.vae or ""))
    lines = [
        *(["from importlib.resources import files", ""] if packaged else []),
        "import torch",
        f"from diffusers import {', '.join(classes)}",
        "",
        *_places(recipe),
        "",
        *_loading(recipe, run_id, weight_name),
        *_drawing(recipe, prompt, seed),
    ]
    return "\n".join(lines)


def _places(recipe: Recipe) -> list[str]:
    model, publish = recipe.model, recipe.publish
    pushed = f"{publish.hub_model_id!r}  # or the folder this file is in"
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


def _loading(recipe: Recipe, run_id: str, weight_name: str) -> list[str]:
    model, scale = recipe.model, recipe.fusion.lora_scale
    dtype = f"dtype={_DTYPE[recipe.generation.mixed_precision]}"
    vae = ", ".join(["vae", *_pin(model.vae or "", model.vae_revision), dtype])
    options = [
        *_pin(model.base, model.revision),
        *([f"variant={model.variant!r}"] if model.variant else []),
        *([f"vae=AutoencoderKL.from_pretrained({vae})"] if model.vae else []),
        dtype,
    ]
    weights = [
        f"weight_name={weight_name!r}",
        *([f"revision={run_id!r}"] if recipe.publish.push_to_hub else []),
        *(["adapter_name='style'"] if scale != 1 else []),
    ]
    return [
        "pipeline = StableDiffusionXLPipeline.from_pretrained(",
        "    base,",
        *[f"    {option}," for option in options],
        ").to(device)",
        f"pipeline.scheduler = {_SCHEDULER[recipe.generation.scheduler]}.from_config(pipeline.scheduler.config)",
        f"pipeline.load_lora_weights(adapter, {', '.join(weights)})",
        *([f"pipeline.set_adapters('style', {scale})"] if scale != 1 else []),
        "",
    ]


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
        f"    generator=torch.Generator().manual_seed({seed}),",
        ").images[0]",
        "picture.save('picture.png')",
    ]


def comfyui_steps(recipe: Recipe, file: str) -> str:
    """Where the kohya file `file` goes, and what to connect; a numbered list."""
    model, scale = recipe.model, recipe.fusion.lora_scale
    base = f"a checkpoint file of {escape(model.base)}" if is_hub_id(model.base, model.revision) else "the base model"
    steps = [
        f"Put `{file}` into `ComfyUI/models/loras/` (A1111 and Forge: `models/Lora/`).",
        f"*Load Checkpoint* with {base}, then *Load LoRA* with `strength_model` and `strength_clip` at {scale}.",
        f"Begin the prompt with the trigger phrase: {escape(recipe.training.instance_prompt)}",
    ]
    if model.base.startswith("package:"):
        steps.append("This base model is a folder for diffusers only: ComfyUI has no checkpoint of it to load.")
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
