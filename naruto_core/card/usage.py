"""How to use the files: code for diffusers that runs unchanged, and steps for ComfyUI."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from naruto_core.card.facts import CardFacts, WeightFiles, escape
from naruto_core.git_info import is_hub_id, public_name
from naruto_core.model_folder import find_variant
from naruto_core.prompts import insert_tokens
from naruto_core.recipe import Recipe
from naruto_core.recipe_sections import ModelSection, RefinerSection
from naruto_core.sampling import SAMPLERS
from naruto_core.single_file import hub_address, is_single_file
from naruto_core.text_encoding import TOKENS_PER_CHUNK, number_of_chunks
from naruto_core.textual_inversion import split_tokens
from naruto_core.token_limit import prompt_words


def comfyui_steps(facts: CardFacts) -> str:
    """A numbered list, below the reason where there is no LoRA for ComfyUI; "" when nothing was exported for it."""
    recipe, files = facts.recipe, facts.files
    reason = f"There is no LoRA file for ComfyUI: {escape(files.no_kohya)}." if files.no_kohya else ""
    if not files.kohya and not files.words:
        return reason
    steps = [*_lora(recipe, files.kohya), *_embeddings(files.words), *_prompt(recipe, files.words)]
    if recipe.model.base.startswith("package:"):
        steps.append("This base model is a folder for diffusers only: there is no checkpoint file of it for ComfyUI.")
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


def _embeddings(words: dict[str, str]) -> list[str]:
    if not words:
        return []
    names = " and ".join(f"`{name}`" for name in words.values())
    prompt_words = " and ".join(f"`{name}` for {escape(word)}" for word, name in _prompt_words(words).items())
    return [
        f"Put {names} into `ComfyUI/models/embeddings/` (A1111 and Forge: `embeddings/`; there write only the name).",
        f"In the prompt write {prompt_words}, as a separate word: it stands for all its new tokens.",
    ]


def _prompt_words(words: dict[str, str]) -> dict[str, str]:
    """The text that ComfyUI replaces by the embeddings in a file, for each word."""
    return {word: f"embedding:{PurePosixPath(name).stem}" for word, name in words.items()}


def _prompt(recipe: Recipe, words: dict[str, str]) -> list[str]:
    phrases = [recipe.instance_prompt, *(style.instance_prompt for style in recipe.styles)]
    triggers = ", or ".join(escape(insert_tokens(phrase, _prompt_words(words))) for phrase in phrases)
    unknown = recipe.imported and not recipe.imported.trigger
    steps = [] if unknown else [f"Begin the prompt with the trigger phrase: {triggers}"]
    if skip := recipe.generation.clip_skip:  # 0 would be SDXL's penultimate layer, ComfyUI's -2
        steps.append(f"*CLIP Set Last Layer* at {-skip - 2}.")
    if recipe.generation.prompt_weights:
        steps.append("Prompts may have weights of words, such as (red hair:1.2): ComfyUI reads them as this run does.")
    if _is_long(recipe):
        length = recipe.generation.max_token_length
        steps.append(
            f"Prompts may be long: this run reads {length} tokens of each, as {number_of_chunks(length)} chunks; "
            "ComfyUI, A1111 and Forge read a long prompt in chunks by themselves, and a short one as one chunk."
        )
    return steps


# The oldest versions that load every exported file; tests load the files with exactly these.
LOWEST_VERSIONS = {"diffusers": "0.33", "transformers": "4.51", "accelerate": "1.6", "peft": "0.15"}

_DTYPE = {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16"}


def needed_versions() -> str:
    """The library versions that load the files of an adapter: "diffusers 0.33, ... and peft 0.15, or newer"."""
    *first, last = (f"{package} {version}" for package, version in LOWEST_VERSIONS.items())
    return f"{', '.join(first)} and {last}, or newer"


def diffusers_code(
    recipe: Recipe, run_id: str, files: WeightFiles, prompt: str, seed: int, schedule: Mapping[str, object]
) -> str:
    """A Python program that generates `prompt` with `seed` exactly as the adapted pictures of this run.

    `schedule` is that of `CardFacts`. All text from users is written as Python literals, so that it can end neither a
    string nor the block of code.
    """
    model = recipe.model
    classes = ["AutoencoderKL"] if model.vae else []
    classes += [SAMPLERS[recipe.generation.scheduler].scheduler_class]
    classes += ["StableDiffusionXLImg2ImgPipeline"] if recipe.generation.refiner else []
    classes += ["StableDiffusionXLPipeline"]
    packaged = any(name.startswith("package:") for name in (model.base, model.vae or "", model.config or ""))
    hub = [
        *(["hf_hub_download"] if _hub_file(model) else []),
        *(["snapshot_download"] if recipe.publish.push_to_hub and files.embeddings else []),
    ]
    lines = [
        *(["from importlib.resources import files", ""] if packaged else []),
        "import torch",
        f"from diffusers import {', '.join(classes)}",
        *([f"from huggingface_hub import {', '.join(hub)}"] if hub else []),
        *(["from safetensors.torch import load_file"] if files.embeddings else []),
        "",
        *_sources(recipe, run_id, files),
        "",
        *_base(recipe, schedule),
        *(_new_tokens(recipe, files.embeddings) if files.embeddings else []),
        *_adapters(recipe, run_id, files),
        "",
        *(_encode_function(recipe) if _is_long(recipe) else []),
        *_generation(recipe, prompt, seed),
    ]
    return "\n".join(lines)


def _sources(recipe: Recipe, run_id: str, files: WeightFiles) -> list[str]:
    model, publish = recipe.model, recipe.publish
    pushed = f"{publish.hub_model_id!r}"
    if files.embeddings:  # diffusers does not download these
        pushed = f"snapshot_download({pushed}, revision={run_id!r})"
    pushed += "  # or the folder this file is in"
    adapter = pushed if publish.push_to_hub else "'.'  # the folder this file is in"
    base = _hub_file(model) or _source(model.base, model.revision)
    return [
        f"base = {base}",
        *([f"config = {_source(model.config, model.config_revision)}"] if model.config else []),
        *([f"vae = {_source(model.vae, model.vae_revision)}"] if model.vae else []),
        f"adapter = {adapter}",
        "device = 'cuda' if torch.cuda.is_available() else 'cpu'",
    ]


def _source(name: str, revision: str | None) -> str:
    if name.startswith("package:"):
        package, _, folder = name.removeprefix("package:").partition("/")
        return f"str(files({package!r}) / {folder!r})  # ships inside that Python package"
    if is_hub_id(name, revision):
        return repr(name)
    kind = "file" if is_single_file(name) else "folder"
    return f"{'path/to/' + public_name(name, revision)!r}  # a {kind}: see the section Base model"


def _hub_file(model: ModelSection) -> str:
    """A Python expression that downloads the base model's single file; "" for other base models."""
    if not (address := hub_address(model.base, model.revision)):
        return ""
    return f"hf_hub_download({address[0]!r}, {address[1]!r}, revision={model.revision!r})"


def _variant(model: ModelSection) -> str | None:
    """The file variant that the base model is read in; None for plain files."""
    if is_hub_id(model.base, model.revision):
        return model.variant
    folder = Path(model.base).expanduser()
    return find_variant(folder, "unet", model.variant) if folder.is_dir() else None


def _base(recipe: Recipe, schedule: Mapping[str, object]) -> list[str]:
    model = recipe.model
    # not `dtype`, which diffusers before 0.40 ignores
    dtype = f"torch_dtype={_DTYPE[recipe.generation.mixed_precision]}"
    single = is_single_file(model.base)
    vae = ", ".join(["vae", *_pin(model.vae or "", model.vae_revision), dtype])
    options = [
        *_pin(model.base, model.revision),
        *([f"variant={variant!r}"] if (variant := _variant(model)) else []),
        *(["config=config"] if single and model.config else []),
        *([f"vae=AutoencoderKL.from_pretrained({vae})"] if model.vae else []),
        dtype,
    ]
    sampler = SAMPLERS[recipe.generation.scheduler]
    settings = "".join(f", {key}={value!r}" for key, value in {**schedule, **sampler.options}.items())
    return [
        f"pipeline = StableDiffusionXLPipeline.{'from_single_file' if single else 'from_pretrained'}(",
        "    base,",
        *[f"    {option}," for option in options],
        ").to(device)",
        f"pipeline.scheduler = {sampler.scheduler_class}.from_config(pipeline.scheduler.config{settings})",
    ]


def _new_tokens(recipe: Recipe, file: str) -> list[str]:
    """Loads the new tokens into both tokenizers and text encoders, as `naruto_core.textual_inversion.load_tokens`."""
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
        "# SDXL's second text encoder has eos_token_id 2, and then pools the text at the highest token id, which is",
        "# that of a new token. These tokens were trained with the text pooled at its end, as ComfyUI does it.",
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


def _is_long(recipe: Recipe) -> bool:
    """Whether texts are read in more than the one chunk that diffusers' pipeline reads."""
    return recipe.generation.max_token_length > TOKENS_PER_CHUNK


def _encode_function(recipe: Recipe) -> list[str]:
    """A function that encodes a text in chunks, as `naruto_core.text_encoding.encode_texts`."""
    count = number_of_chunks(recipe.generation.max_token_length)
    return f"""
# The pipeline reads only the beginning of a prompt, one chunk of 75 tokens. This run reads {count} chunks.
@torch.no_grad()
def encode(text, clip_skip):
    chunks = [[] for _ in range({count})]
    encoders = (pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)
    for tokenizer, encoder in encoders:
        room = tokenizer.model_max_length - 2
        tokens = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        for number, chunk in enumerate(chunks):
            part = tokens[number * room : (number + 1) * room]
            ids = [tokenizer.bos_token_id, *part, tokenizer.eos_token_id]
            ids += [tokenizer.pad_token_id] * (room - len(part))
            output = encoder(torch.tensor([ids], device=device), output_hidden_states=True)
            chunk.append(output.hidden_states[-2 - clip_skip])
            if number == 0:
                pooled = output[0]  # of the second encoder, in the end
    return torch.cat([torch.cat(chunk, dim=-1) for chunk in chunks], dim=1), pooled

""".splitlines()


_WITHOUT_WEIGHTS = [
    "# This run reads weights of words, such as (red hair:1.2); diffusers does not, so they are left out here, and the",
    "# picture differs. The run's service and endpoint read them.",
]


def _texts(recipe: Recipe, prompt: str) -> tuple[list[str], list[str]]:
    """Lines before the call of the pipeline, and the arguments of the call, for the prompt and the negative prompt."""
    generation, skip = recipe.generation, recipe.generation.clip_skip or 0
    words, negative = (prompt_words(generation, text) for text in (prompt, generation.negative_prompt))
    note = [] if (words, negative) == (prompt, generation.negative_prompt) else _WITHOUT_WEIGHTS
    if not _is_long(recipe):
        arguments = [f"prompt={words!r}", f"negative_prompt={negative!r}"]
        return note, [*arguments, *([f"clip_skip={skip}"] if skip else [])]
    before = [
        *note,
        f"hidden, pooled = encode({words!r}, clip_skip={skip})",
        # as in the pipeline, where clip_skip has no effect on the negative prompt
        f"negative_hidden, negative_pooled = encode({negative!r}, clip_skip=0)",
    ]
    return before, [
        "prompt_embeds=hidden",
        "pooled_prompt_embeds=pooled",
        "negative_prompt_embeds=negative_hidden",
        "negative_pooled_prompt_embeds=negative_pooled",
    ]


def _generation(recipe: Recipe, prompt: str, seed: int) -> list[str]:
    generation = recipe.generation
    before, texts = _texts(recipe, prompt)
    common = [
        *texts,
        f"num_inference_steps={generation.num_inference_steps}",
        f"guidance_scale={generation.guidance_scale}",
        f"generator=torch.Generator().manual_seed({seed})",
    ]
    size = [f"height={generation.resolution}", f"width={generation.resolution}"]
    stage = generation.refiner
    first_stage = ["output_type='latent'", f"denoising_end={stage.high_noise_frac}"] if stage else []
    return [
        *before,
        "picture = pipeline(",
        *[f"    {argument}," for argument in [*texts, *size, *common[len(texts) :], *first_stage]],
        ").images[0]" if stage is None else ").images",
        *(_second_stage(stage, common) if stage else []),
        "picture.save('picture.png')",
    ]


def _second_stage(stage: RefinerSection, common: Sequence[str]) -> list[str]:
    """The refiner's part: diffusers' documented two calls; the first pipeline is freed before the second is loaded."""
    options = [*_pin(stage.base, stage.revision), *([f"variant={stage.variant!r}"] if stage.variant else [])]
    arguments = [*common, "image=picture", f"denoising_start={stage.high_noise_frac}"]
    return [
        "dtype, sampler = pipeline.unet.dtype, pipeline.scheduler",
        "del pipeline",
        f"refiner_base = {_source(stage.base, stage.revision)}",
        "refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(",
        *[f"    {option}," for option in ["refiner_base", *options, "torch_dtype=dtype"]],
        ").to(device)",
        "refiner.scheduler = type(sampler).from_config(sampler.config)",
        "picture = refiner(",
        *[f"    {argument}," for argument in arguments],
        ").images[0]",
    ]
