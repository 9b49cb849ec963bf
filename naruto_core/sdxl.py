"""Loading of SDXL base models; no other module loads them.

A model name is a hub id (with a pinned revision), a folder, or `package:<package>/<folder>` for
files inside a Python package. Safetensors only; no code from a model folder is executed.
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
    """unet, vae, text_encoder and text_encoder_2 of the base model from their configurations, on the meta device.

    Raises ModelUnusable when a configuration is missing or invalid.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    source, revision = locate(section.base, section.revision)
    vae, vae_revision = locate(section.vae, section.vae_revision) if section.vae else (source, revision)
    inside: dict[str, Any] = {} if section.vae else {"subfolder": "vae"}
    pinned: dict[str, Any] = {"revision": revision or "main"}  # ignored for a folder
    try:
        with torch.device("meta"):
            unet: Any = UNet2DConditionModel.load_config(source, subfolder="unet", revision=revision)
            auto: Any = AutoencoderKL.load_config(vae, revision=vae_revision, **inside)
            text_configs = [
                CLIPTextConfig.from_pretrained(source, subfolder=part, **pinned)
                for part in ("text_encoder", "text_encoder_2")
            ]
            return {
                "unet": UNet2DConditionModel.from_config(unet),
                "vae": AutoencoderKL.from_config(auto),
                "text_encoder": CLIPTextModel(text_configs[0]),
                "text_encoder_2": CLIPTextModelWithProjection(text_configs[1]),
            }
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnusable(f"cannot read the configuration of {section.base}: {reason}") from error


def locate(name: str, revision: str | None) -> tuple[str, str | None]:
    """The arguments of `from_pretrained` for `name`: a folder and None, or a hub id and its revision.

    Raises ModelUnusable for a folder that does not exist, and for a hub id without a revision.
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
            f"{name} is a hub id: set its revision (a commit hash) in the recipe, so that it cannot change."
        )
    return name, revision


def identity(section: ModelSection) -> str:
    """A digest of the base model: of its weight files, or of hub id and revision."""
    digest = hashlib.sha256()
    for name, revision in ((section.base, section.revision), (section.vae, section.vae_revision)):
        if name is None:
            continue
        source, pinned = locate(name, revision)
        digest.update(f"{source}@{pinned}\n".encode() if pinned else _folder_digest(Path(source)).encode())
    return digest.hexdigest()


def prediction_type(section: ModelSection) -> str | None:
    """The base model's prediction type by its scheduler's file, e.g. epsilon or v_prediction.

    None when that file is not on this machine (nothing is downloaded); SDXL's when the file does not name it.
    """
    from huggingface_hub import try_to_load_from_cache

    name = "scheduler/scheduler_config.json"
    try:
        source, revision = locate(section.base, section.revision)
        path = try_to_load_from_cache(source, name, revision=revision) if revision else Path(source) / name
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
    """Inside the block diffusers and transformers print nothing, no progress bars for local files.

    transformers reports tensors that were not loaded only as a warning; `load_pipeline` and `adapter_file` raise for
    them. `show_progress` keeps the bars, for downloads.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    with_bars = [] if show_progress else [library for library in libraries if library.is_progress_bar_enabled()]
    levels = [library.get_verbosity() for library in libraries]
    for library in with_bars:
        library.disable_progress_bar()
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library in with_bars:
            library.enable_progress_bar()
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)


def _hide_truncated_prompts() -> None:
    """Prevent diffusers from logging the truncated end of a prompt: prompts are private.

    `naruto_core.token_limit` reports truncated texts instead.
    """
    name = "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl"
    logging.getLogger(name).addFilter(_has_no_prompt)


def _has_no_prompt(record: logging.LogRecord) -> bool:
    return "was truncated because" not in str(record.msg)


def load_pipeline(section: ModelSection, precision: Precision, device: torch.device) -> "StableDiffusionXLPipeline":
    """The base model on `device`, frozen, in evaluation mode; its VAE in fp32 where its config has `force_upcast`.

    Values that the scheduler's file lacks are SDXL's published ones. Two base models do not fit into a T4: callers must
    drop an earlier one first; on a GPU, one that only a reference cycle keeps is freed before the load.

    Raises ModelUnusable when it is missing, is not SDXL, has no safetensors files, or when a weight is in no
    file (the libraries would fill it with random numbers). Raises RecordDamaged when a downloaded file was
    changed.
    """
    from diffusers import StableDiffusionXLPipeline

    if device.type == "cuda":  # on a CPU it would take longer than the load itself
        gc.collect()
    _hide_truncated_prompts()
    dtype = devices.weights_dtype(precision, device)
    source, revision = locate(section.base, section.revision)
    with _loading(section, revision):
        parts = {part: load_part(section, part, dtype) for part in MODEL_PARTS}
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            source, revision=revision, add_watermarker=False, use_safetensors=True, **parts
        )
    for model in parts.values():
        model.requires_grad_(False).eval()
    pipeline.scheduler = type(pipeline.scheduler).from_config(complete_schedule(pipeline.scheduler.config))
    if revision:
        check_hub_snapshot(source, revision, "model_index.json")
    if section.vae and section.vae_revision:
        check_hub_snapshot(section.vae, section.vae_revision, "config.json")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def load_part(section: ModelSection, part: str, dtype: torch.dtype) -> Any:
    """The model `part` (one of MODEL_PARTS) of the base model, in `dtype`, on the CPU.

    Raises ModelUnusable when a weight is in no file, and the libraries' errors when there is no file at all.
    """
    import diffusers
    import transformers

    source, revision = locate(section.base, section.revision)
    options: dict[str, Any] = {"revision": revision, "variant": section.variant, "subfolder": part}
    if part == "vae" and section.vae:
        source, revision = locate(section.vae, section.vae_revision)
        options = {"revision": revision}
    name = MODEL_PARTS[part]
    kind: Any = getattr(transformers, name) if part.startswith("text_encoder") else getattr(diffusers, name)
    options["revision"] = options["revision"] or "main"  # ignored for a folder
    if part == "vae":
        dtype = vae_dtype(
            kind.load_config(source, **{key: options[key] for key in options.keys() - {"variant"}}), dtype
        )
    model, report = kind.from_pretrained(source, dtype=dtype, use_safetensors=True, output_loading_info=True, **options)
    if missing := sorted(report["missing_keys"]):
        raise ModelUnusable(
            f"cannot load {part} of {source}: {len(missing)} weights are in none of its files, first {missing[0]}; "
            "the folder is incomplete, or was saved for another version of the libraries."
        )
    return model


def check_complete(folder: Path) -> None:
    """Check the headers of the weight files below the pipeline `folder` against its configurations: names and shapes.

    Raises ModelUnusable when a weight is in no file or has another shape. Reads no values: full size takes seconds.
    """
    described = describe_parts(ModelSection.model_validate({"base": str(folder)}))
    for part in MODEL_PARTS:
        shapes = tensor_shapes(folder, part)
        for name, weight in described[part].named_parameters():
            if shapes.get(portable_name(part, name)) != tuple(weight.shape):
                raise ModelUnusable(f"the model {folder} is incomplete: its files lack {name} of {part}.")


@contextmanager
def _loading(section: ModelSection, revision: str | None) -> Generator[None]:
    """Load quietly, unless files may have to be downloaded; the libraries' errors become ModelUnusable."""
    try:
        with quiet_loading(show_progress=revision is not None):
            yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnusable(f"cannot load {section.base} as an SDXL pipeline: {reason}") from error
