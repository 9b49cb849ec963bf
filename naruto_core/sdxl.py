"""The only loader of base-model parts.

A model name is a hub id (with a pinned revision), a folder, or `package:<package>/<folder>` for
files that ship inside a Python package. Safetensors only; no code from a model folder is ever run.
"""

import gc
import hashlib
import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from naruto_core import devices
from naruto_core.artifacts import sha256_file
from naruto_core.errors import ModelUnusable
from naruto_core.hub import check_hub_snapshot
from naruto_core.model_folder import tensor_shapes
from naruto_core.recipe import ModelSection
from naruto_core.recipe_training import Precision
from naruto_core.sampling import complete_schedule, vae_dtype
from naruto_core.weight_check import MODEL_PARTS, portable_name

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


def describe_parts(section: ModelSection) -> dict[str, Any]:
    """unet, vae, text_encoder and text_encoder_2 of the base model from their configurations alone, without memory.

    Raises ModelUnusable when a configuration is missing or is none.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    place, revision = locate(section.base, section.revision)
    vae, vae_revision = locate(section.vae, section.vae_revision) if section.vae else (place, revision)
    inside: dict[str, Any] = {} if section.vae else {"subfolder": "vae"}
    pinned: dict[str, Any] = {"revision": revision or "main"}  # of a folder it means nothing
    try:
        with torch.device("meta"):
            unet: Any = UNet2DConditionModel.load_config(place, subfolder="unet", revision=revision)
            auto: Any = AutoencoderKL.load_config(vae, revision=vae_revision, **inside)
            words = [
                CLIPTextConfig.from_pretrained(place, subfolder=part, **pinned)
                for part in ("text_encoder", "text_encoder_2")
            ]
            return {
                "unet": UNet2DConditionModel.from_config(unet),
                "vae": AutoencoderKL.from_config(auto),
                "text_encoder": CLIPTextModel(words[0]),
                "text_encoder_2": CLIPTextModelWithProjection(words[1]),
            }
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnusable(f"cannot read the configuration of {section.base}: {reason}") from error


def locate(name: str, revision: str | None) -> tuple[str, str | None]:
    """What `from_pretrained` should be given for `name`: a folder, or a hub id and its revision.

    Raises ModelUnusable for a folder that is not there and for a hub id without a revision.
    """
    if name.startswith("package:"):
        package, _, inner = name.removeprefix("package:").partition("/")
        try:
            folder = Path(str(resources.files(package))) / inner
        except ModuleNotFoundError:
            raise ModelUnusable(f"{name}: there is no Python package {package}.") from None
        if not folder.is_dir():
            raise ModelUnusable(f"{name}: the package {package} has no folder {inner}.")
        return str(folder), None
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path), None
    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise ModelUnusable(f"there is no model folder {name}.")
    if not revision:
        raise ModelUnusable(
            f"{name} is a hub id: pin its revision (a commit hash) in the recipe, so that it cannot change."
        )
    return name, revision


def identity(section: ModelSection) -> str:
    """A digest of the base model: of its weight files, or of hub id and revision."""
    digest = hashlib.sha256()
    for name, revision in ((section.base, section.revision), (section.vae, section.vae_revision)):
        if name is None:
            continue
        place, pinned = locate(name, revision)
        digest.update(f"{place}@{pinned}\n".encode() if pinned else _folder_digest(Path(place)).encode())
    return digest.hexdigest()


def prediction_type(section: ModelSection) -> str | None:
    """What the base model predicts, e.g. epsilon or v_prediction, as its scheduler's file says.

    None when that file is not on this machine: nothing is downloaded for it. SDXL's, when it does not say.
    """
    from huggingface_hub import try_to_load_from_cache

    name = "scheduler/scheduler_config.json"
    try:
        place, revision = locate(section.base, section.revision)
        path = try_to_load_from_cache(place, name, revision=revision) if revision else Path(place) / name
        if not isinstance(path, str | Path):
            return None
        config: dict[str, Any] = json.loads(Path(path).read_bytes())
    except (ModelUnusable, OSError, ValueError):
        return None
    return complete_schedule(config)["prediction_type"]


def _folder_digest(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json", ".txt"))
    return "".join(f"{p.relative_to(folder).as_posix()}:{sha256_file(p)}\n" for p in files)


@contextmanager
def quiet_loading(*, show_progress: bool = False) -> Generator[None]:
    """Inside the block diffusers and transformers print nothing: bars of local files are noise.

    transformers reports tensors that were not loaded as a warning only; `load_pipeline` and `adapter_file` raise for
    them. `show_progress` keeps the bars, which a download needs.
    """
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    shown = [] if show_progress else [library for library in libraries if library.is_progress_bar_enabled()]
    levels = [library.get_verbosity() for library in libraries]
    for library in shown:
        library.disable_progress_bar()
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)


def _silence_cut_prompts() -> None:
    """Keep diffusers from writing the cut end of a prompt into the log: prompts are private.

    How much of a text is cut is counted by `naruto_core.token_limit` instead.
    """
    name = "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl"
    logging.getLogger(name).addFilter(_holds_no_prompt)


def _holds_no_prompt(record: logging.LogRecord) -> bool:
    return "was truncated because" not in str(record.msg)


def load_pipeline(section: ModelSection, precision: Precision, device: torch.device) -> "StableDiffusionXLPipeline":
    """The base model on `device`, frozen, in evaluation mode; its VAE in fp32 where that says `force_upcast`.

    What the scheduler's file does not say is SDXL's published value. Two base models do not fit into a T4: callers let
    go of the one before first; on a GPU one that only a cycle of references still holds is freed before the load.

    Raises ModelUnusable when it is missing, not an SDXL, has no safetensors files, or when a weight of a model is in no
    file: the libraries would fill it with random numbers. Raises RecordDamaged when a downloaded file is not what was
    downloaded.
    """
    from diffusers import StableDiffusionXLPipeline

    if device.type == "cuda":  # on a CPU, where memory is not that short, it would take longer than the load itself
        gc.collect()
    _silence_cut_prompts()
    dtype = devices.weights_dtype(precision, device)
    place, revision = locate(section.base, section.revision)
    with _loading(section, revision):
        parts = {part: load_part(section, part, dtype) for part in MODEL_PARTS}
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            place, revision=revision, add_watermarker=False, use_safetensors=True, **parts
        )
    for model in parts.values():
        model.requires_grad_(False).eval()
    pipeline.scheduler = type(pipeline.scheduler).from_config(complete_schedule(pipeline.scheduler.config))
    if revision:
        check_hub_snapshot(place, revision, "model_index.json")
    if section.vae and section.vae_revision:
        check_hub_snapshot(section.vae, section.vae_revision, "config.json")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def load_part(section: ModelSection, part: str, dtype: torch.dtype) -> Any:
    """One of MODEL_PARTS of the base model, on the CPU.

    Raises ModelUnusable when a weight is in no file, and what the libraries raise when there is none at all.
    """
    import diffusers
    import transformers

    place, revision = locate(section.base, section.revision)
    options: dict[str, Any] = {"revision": revision, "variant": section.variant, "subfolder": part}
    if part == "vae" and section.vae:
        place, revision = locate(section.vae, section.vae_revision)
        options = {"revision": revision}
    name = MODEL_PARTS[part]
    kind: Any = getattr(transformers, name) if part.startswith("text_encoder") else getattr(diffusers, name)
    options["revision"] = options["revision"] or "main"  # of a folder it means nothing
    if part == "vae":
        dtype = vae_dtype(kind.load_config(place, **{key: options[key] for key in options.keys() - {"variant"}}), dtype)
    model, report = kind.from_pretrained(place, dtype=dtype, use_safetensors=True, output_loading_info=True, **options)
    if missing := sorted(report["missing_keys"]):
        raise ModelUnusable(
            f"cannot load {part} of {place}: {len(missing)} weights are in none of its files, first {missing[0]}; "
            "the folder is incomplete, or was saved for another version of the libraries."
        )
    return model


def check_complete(folder: Path) -> None:
    """Hold the headers of the weight files below the pipeline `folder` against its configurations: names and shapes.

    Raises ModelUnusable when a weight is in no file or has another shape. Values are not read: full size takes seconds.
    """
    described = describe_parts(ModelSection.model_validate({"base": str(folder)}))
    for part in MODEL_PARTS:
        shapes = tensor_shapes(folder, part)
        for name, weight in described[part].named_parameters():
            if shapes.get(portable_name(part, name)) != tuple(weight.shape):
                raise ModelUnusable(f"the model {folder} is incomplete: its files lack {name} of {part}.")


@contextmanager
def _loading(section: ModelSection, revision: str | None) -> Generator[None]:
    """Quietly, unless files may have to be downloaded; the libraries' errors become one sentence."""
    try:
        with quiet_loading(show_progress=revision is not None):
            yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnusable(f"cannot load {section.base} as an SDXL pipeline: {reason}") from error
