"""The only loader of base-model parts, and the only place that chooses device and precision.

A model name is a hub id (with a pinned revision), a folder, or `package:<package>/<folder>` for
files that ship inside a Python package. Safetensors only; no code from a model folder is ever run.
"""

import hashlib
import json
import os
import resource
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from naruto_core.artifacts import sha256_file
from naruto_core.errors import DeviceUnfit, ModelUnusable
from naruto_core.recipe import ModelSection
from naruto_core.recipe_training import Precision

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def pick_device(wish: str) -> torch.device:
    """The device named by `wish`; "auto" is the first CUDA device, or else the CPU."""
    if wish == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise DeviceUnfit(f"NARUTO_DEVICE={wish!r} is no device; use auto, cpu, cuda or cuda:0.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceUnfit(f"NARUTO_DEVICE={wish!r}, but this machine shows no CUDA device; use auto or cpu.")
    return torch.device("cuda:0") if wish == "cuda" else device


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that `device` only emulates.

    `torch.cuda.is_bf16_supported()` says yes on a T4, which emulates it; the compute capability
    does not lie (bf16 needs 8.0).
    """
    if precision == "fp16" and device.type == "cpu":
        raise DeviceUnfit(
            "the recipe asks for fp16, which needs a CUDA device; this run is on the CPU: use bf16 or fp32."
        )
    if precision == "bf16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device)
        raise DeviceUnfit(f"the recipe asks for bf16, which {name} only emulates: use fp16 or fp32.")


def half(precision: Precision) -> torch.dtype | None:
    """The half-precision type of `precision`; None for fp32."""
    return _HALF.get(precision)


def weights_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What frozen weights are kept in: half on a GPU, where memory is short; fp32 on a CPU."""
    check_precision(precision, device)
    return _HALF.get(precision, torch.float32) if device.type == "cuda" else torch.float32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute in `precision` inside the block, whatever the weights are kept in."""
    check_precision(precision, device)
    half = _HALF.get(precision)
    return torch.autocast(device.type, half) if half else nullcontext()


def halve_frozen_layers(module: nn.Module, precision: Precision, device: torch.device) -> None:
    """Keep the frozen linear and convolution weights of `module` in the half precision they are used in.

    Autocast rounds them to it at every use; done once, the numbers are the same bit for bit and
    drawing takes about a tenth less time on a CPU. Weights that learn stay as they are, norms too.
    """
    half = _HALF.get(precision)
    if half is None or device.type != "cpu":  # on a GPU they were loaded so
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and not any(p.requires_grad for p in layer.parameters()):
            layer.to(half)


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


def available_memory(device: torch.device) -> int:
    """Bytes that this process may use on `device`: free ones, of the GPU or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = Path("/proc/meminfo")
    if known.exists():  # free memory, and what the file cache would give back
        fields = dict(line.split(":", 1) for line in known.read_text(encoding="ascii").splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def prepare_unet(unet: "UNet2DConditionModel", gradient_checkpointing: bool) -> None:
    """Make `unet` ready to be trained through."""
    from diffusers.models.attention_processor import AttnProcessor

    if unet.device.type == "cpu":  # the backward of fused attention takes about 40 % of a step there
        unet.set_attn_processor(AttnProcessor())
    if gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train()


def peak_memory(device: torch.device) -> float:
    """The most memory this process has used so far, in GiB: the device's, or its own where that is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    known = Path("/proc/self/status")
    if known.exists():  # what getrusage says would hold the parent's memory too
        fields = dict(line.split(":", 1) for line in known.read_text(encoding="utf-8").splitlines())
        return int(fields["VmHWM"].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in KiB on Linux


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
def _no_progress_bars() -> Generator[None]:
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

    Raises ModelUnusable when it is missing, not an SDXL, or has no safetensors files.
    """
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline

    dtype = weights_dtype(precision, device)
    place, revision = locate(section.base, section.revision)
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    try:
        if section.vae:
            vae_place, vae_revision = locate(section.vae, section.vae_revision)
            options["vae"] = AutoencoderKL.from_pretrained(vae_place, revision=vae_revision, **options)
        with nullcontext() if revision else _no_progress_bars():
            pipeline = StableDiffusionXLPipeline.from_pretrained(
                place, revision=revision, variant=section.variant, add_watermarker=False, **options
            )
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnusable(f"cannot load {section.base} as an SDXL pipeline: {reason}") from error
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
