"""Fuse adapters into the base weights: W + sum_i scale_i * (alpha / rank) * B_i A_i (Hu et al. 2021, section 4.1).

diffusers and PEFT do the arithmetic; a test does it again by hand. The result is an ordinary SDXL
folder that vanilla `from_pretrained` loads, with no trace of PEFT in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from naruto_core import tokens
from naruto_core.artifacts import LORA_FILE, atomic_file, atomic_folder
from naruto_core.domain import Adapter
from naruto_core.errors import ModelUnusable
from naruto_core.recipe import FusionSection
from naruto_core.sdxl import no_progress_bars

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


@dataclass(frozen=True, slots=True)
class Blend:
    """One adapter of a mixture: the folder of its files, and its scale."""

    folder: Path
    scale: float = 1.0


def blends_of(root: Path, section: FusionSection, adapters: Sequence[Adapter]) -> list[Blend]:
    """Every adapter's folder below the data root `root`, with its scale: its style's own, or the one of all."""
    folders = {(root / adapter.path).parent: adapter.style for adapter in adapters}
    return [Blend(folder, section.style_scales.get(style, section.lora_scale)) for folder, style in folders.items()]


def load_adapters(pipeline: "StableDiffusionXLPipeline", blends: Sequence[Blend]) -> None:
    """Put adapters, and new tokens, beside the weights of `pipeline`, each at its scale; nothing is merged.

    Raises ModelUnusable when a folder holds no adapter, or one of another architecture.
    """
    names: list[str] = []
    for number, blend in enumerate(blends):
        lora, embeddings = blend.folder / LORA_FILE, blend.folder / tokens.FILE
        if not lora.is_file() and not embeddings.is_file():
            raise ModelUnusable(f"there is no adapter in {blend.folder}; train it first.")
        if embeddings.is_file():
            tokens.load_tokens(pipeline, embeddings)
        if lora.is_file():
            names.append(f"style-{number}")
            load_lora(pipeline, lora, names[-1])
    if names:
        scales = [blend.scale for blend in blends if (blend.folder / LORA_FILE).is_file()]
        pipeline.set_adapters(names, scales)


def load_lora(pipeline: "StableDiffusionXLPipeline", lora: Path, name: str) -> None:
    """Put the LoRA file `lora` beside the weights as `name`; ModelUnusable when it belongs to another architecture."""
    try:
        pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name, adapter_name=name)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelUnusable(f"the adapter {lora} does not fit this base model: {reason}") from error


def fuse_adapters(pipeline: "StableDiffusionXLPipeline", blends: Sequence[Blend], folder: Path) -> None:
    """Merge adapters into `pipeline`'s weights and save the whole model as `folder`, atomically.

    Raises ModelUnusable when the merged weights are not finite.
    """
    load_adapters(pipeline, blends)
    parts = [p for p in ("unet", "text_encoder", "text_encoder_2") if hasattr(getattr(pipeline, p), "peft_config")]
    try:
        if parts:
            pipeline.fuse_lora(components=parts, safe_fusing=True)
    except ValueError as error:
        scales = ", ".join(f"{blend.scale:g}" for blend in blends)
        raise ModelUnusable(
            f"fusing {blends[0].folder} at scale {scales} gives weights that are not numbers."
        ) from error
    pipeline.unload_lora_weights()
    with atomic_folder(folder) as scratch, no_progress_bars():
        pipeline.save_pretrained(scratch, safe_serialization=True)


def halve(folder: Path) -> None:
    """Rewrite every weight file below `folder` in half precision (fp16).

    Raises ModelUnusable for a weight that half precision cannot hold.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        halved = {name: weight.half() if weight.is_floating_point() else weight for name, weight in weights.items()}
        for name, weight in halved.items():
            if not torch.isfinite(weight).all():
                raise ModelUnusable(f"{path.name}: {name} does not fit into half precision; export without --half.")
        with atomic_file(path) as scratch:
            save_file(halved, scratch, metadata)
