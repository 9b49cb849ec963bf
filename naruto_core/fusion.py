"""Fuse adapters into the base weights: W + sum_i scale_i * (alpha / rank) * B_i A_i (Hu et al. 2021, sec. 4.1).

diffusers and PEFT do the arithmetic; a test compares it with the formula. The result is an ordinary SDXL
folder that diffusers' `from_pretrained` loads, without any PEFT layer.
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
from naruto_core.model_folder import check_folder, make_portable, write_weights
from naruto_core.recipe_sections import FusionSection, ModelSection
from naruto_core.recipe_training import Precision
from naruto_core.sdxl import load_part, load_pipeline, quiet_loading
from naruto_core.weight_check import MODEL_PARTS

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


@dataclass(frozen=True, slots=True)
class ScaledAdapter:
    """The folder of an adapter's files, and the scale that it is used with."""

    folder: Path
    scale: float = 1.0


def scaled_adapters(root: Path, section: FusionSection, recorded: Sequence[Adapter]) -> list[ScaledAdapter]:
    """Every adapter's folder below the data root `root`, with the scale of its style, or else the common scale."""
    folders = {(root / adapter.path).parent: adapter.style for adapter in recorded}
    return [
        ScaledAdapter(folder, section.style_scales.get(style, section.lora_scale)) for folder, style in folders.items()
    ]


def load_adapters(pipeline: "StableDiffusionXLPipeline", adapters: Sequence[ScaledAdapter]) -> None:
    """Load adapters and new tokens into `pipeline`, each at its scale, without merging them into the weights.

    Raises ModelUnusable when a folder holds no adapter, or one of another architecture.
    """
    names: list[str] = []
    for number, adapter in enumerate(adapters):
        lora, embeddings = adapter.folder / LORA_FILE, adapter.folder / textual_inversion.FILE
        if not lora.is_file() and not embeddings.is_file():
            raise ModelUnusable(f"there is no adapter in {adapter.folder}; train it first.")
        if embeddings.is_file():
            textual_inversion.load_tokens(pipeline, embeddings)
        if lora.is_file():
            names.append(f"style-{number}")
            load_lora(pipeline, lora, names[-1])
    if names:
        scales = [adapter.scale for adapter in adapters if (adapter.folder / LORA_FILE).is_file()]
        pipeline.set_adapters(names, scales)


def fuse_adapters(pipeline: "StableDiffusionXLPipeline", adapters: Sequence[ScaledAdapter], folder: Path) -> None:
    """Merge adapters into `pipeline`'s weights and save the whole model as `folder`, atomically.

    Raises ModelUnusable when the merged weights are not finite.
    """
    load_adapters(pipeline, adapters)
    parts = [name for name, model in model_parts(pipeline).items() if hasattr(model, "peft_config")]
    try:
        if parts:
            pipeline.fuse_lora(components=parts, safe_fusing=True)
    except ValueError as error:
        scales = ", ".join(f"{adapter.scale:g}" for adapter in adapters)
        raise ModelUnusable(
            f"fusing {adapters[0].folder} at scale {scales} gives weights that are not finite; use smaller scales."
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


def convert_to_half(folder: Path) -> None:
    """Rewrite every weight file below `folder` in half precision (fp16).

    Raises ModelUnusable for a weight that is too large for half precision.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        halved = {name: weight.half() if weight.is_floating_point() else weight for name, weight in weights.items()}
        for name, weight in halved.items():
            if not torch.isfinite(weight).all():
                raise ModelUnusable(f"{path.name}: {name} does not fit into half precision; export without --half.")
        write_weights(path, halved)
