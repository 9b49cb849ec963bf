"""The only loader of base-model parts.

A model name is a hub id (with a pinned revision), a folder, or `package:<package>/<folder>` for
files that ship inside a Python package. Safetensors only; no code from a model folder is ever run.
"""

import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from naruto_core import devices
from naruto_core.artifacts import sha256_file
from naruto_core.errors import ModelUnusable
from naruto_core.hub_files import check_hub_snapshot
from naruto_core.recipe import ModelSection
from naruto_core.recipe_training import Precision

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

    None when that file is not on this machine: nothing is downloaded for it.
    """
    from huggingface_hub import try_to_load_from_cache

    name = "scheduler/scheduler_config.json"
    try:
        place, revision = locate(section.base, section.revision)
        path = try_to_load_from_cache(place, name, revision=revision) if revision else Path(place) / name
        config: dict[str, Any] = json.loads(Path(path).read_bytes()) if isinstance(path, str | Path) else {}
    except (ModelUnusable, OSError, ValueError):
        return None
    return config.get("prediction_type")


def _folder_digest(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json", ".txt"))
    return "".join(f"{p.relative_to(folder).as_posix()}:{sha256_file(p)}\n" for p in files)


@contextmanager
def no_progress_bars() -> Generator[None]:
    """Local files load in a moment: their bars are noise. (A download's bars are not: keep those.)"""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown = [library for library in (of_diffusers, of_transformers) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def load_pipeline(section: ModelSection, precision: Precision, device: torch.device) -> "StableDiffusionXLPipeline":
    """The base model on `device`, frozen, in evaluation mode.

    Raises ModelUnusable when it is missing, not an SDXL, or has no safetensors files, and RecordDamaged when a
    downloaded file is not what was downloaded.
    """
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline

    dtype = devices.weights_dtype(precision, device)
    place, revision = locate(section.base, section.revision)
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    try:
        if section.vae:
            vae_place, vae_revision = locate(section.vae, section.vae_revision)
            options["vae"] = AutoencoderKL.from_pretrained(vae_place, revision=vae_revision, **options)
        with nullcontext() if revision else no_progress_bars():
            pipeline = StableDiffusionXLPipeline.from_pretrained(
                place, revision=revision, variant=section.variant, add_watermarker=False, **options
            )
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnusable(f"cannot load {section.base} as an SDXL pipeline: {reason}") from error
    if revision:
        check_hub_snapshot(place, revision, "model_index.json")
    if section.vae and section.vae_revision:
        check_hub_snapshot(section.vae, section.vae_revision, "config.json")
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
