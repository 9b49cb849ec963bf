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

from naruto_core import textual_inversion
from naruto_core.adapter_file import load_lora, model_parts
from naruto_core.artifacts import LORA_FILE, atomic_folder
from naruto_core.domain import Adapter
from naruto_core.errors import ModelUnusable
from naruto_core.model_folder import check_folder, make_portable, rewrite
from naruto_core.recipe import FusionSection, ModelSection
from naruto_core.recipe_training import Precision
from naruto_core.sdxl import load_part, load_pipeline, quiet_loading
from naruto_core.weight_check import MODEL_PARTS

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
        lora, embeddings = blend.folder / LORA_FILE, blend.folder / textual_inversion.FILE
        if not lora.is_file() and not embeddings.is_file():
            raise ModelUnusable(f"there is no adapter in {blend.folder}; train it first.")
        if embeddings.is_file():
            textual_inversion.load_tokens(pipeline, embeddings)
        if lora.is_file():
            names.append(f"style-{number}")
            load_lora(pipeline, lora, names[-1])
    if names:
        scales = [blend.scale for blend in blends if (blend.folder / LORA_FILE).is_file()]
        pipeline.set_adapters(names, scales)


def fuse_adapters(pipeline: "StableDiffusionXLPipeline", blends: Sequence[Blend], folder: Path) -> None:
    """Merge adapters into `pipeline`'s weights and save the whole model as `folder`, atomically.

    Raises ModelUnusable when the merged weights are not finite.
    """
    load_adapters(pipeline, blends)
    parts = [name for name, model in model_parts(pipeline).items() if hasattr(model, "peft_config")]
    try:
        if parts:
            pipeline.fuse_lora(components=parts, safe_fusing=True)
    except ValueError as error:
        scales = ", ".join(f"{blend.scale:g}" for blend in blends)
        raise ModelUnusable(
            f"fusing {blends[0].folder} at scale {scales} gives weights that are not numbers."
        ) from error
    pipeline.unload_lora_weights()
    with atomic_folder(folder) as scratch, quiet_loading():
        pipeline.save_pretrained(scratch, safe_serialization=True)
        make_portable(scratch)
        models = {part: getattr(pipeline, part) for part in MODEL_PARTS}
        check_folder(scratch, models)
        for part, model in models.items():
            check_folder(scratch, {part: load_part(_section(scratch), part, model.dtype)})


def load_fused(folder: Path, precision: Precision, device: torch.device) -> "StableDiffusionXLPipeline":
    """The fused model in `folder` on `device`, frozen; ModelUnusable unless every tensor of its files was loaded."""
    pipeline = load_pipeline(_section(folder), precision, device)
    check_folder(folder, {part: getattr(pipeline, part) for part in MODEL_PARTS})
    return pipeline


def _section(folder: Path) -> ModelSection:
    return ModelSection.model_validate({"base": str(folder)})


def halve(folder: Path) -> None:
    """Rewrite every weight file below `folder` in half precision (fp16).

    Raises ModelUnusable for a weight that half precision cannot hold.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        halved = {name: weight.half() if weight.is_floating_point() else weight for name, weight in weights.items()}
        for name, weight in halved.items():
            if not torch.isfinite(weight).all():
                raise ModelUnusable(f"{path.name}: {name} does not fit into half precision; export without --half.")
        rewrite(path, halved)
