"""Fuse an adapter into the base weights: W + scale * (alpha / rank) * B A (Hu et al. 2021, section 4.1).

diffusers and PEFT do the arithmetic; a test does it again by hand. The result is an ordinary SDXL
folder that vanilla `from_pretrained` loads, with no trace of PEFT in it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from naruto_core.artifacts import atomic_folder
from naruto_core.errors import ModelUnusable

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

NAME = "naruto"


def load_adapter(pipeline: "StableDiffusionXLPipeline", adapter: Path, scale: float) -> None:
    """Put the adapter file beside the weights of `pipeline`, at `scale`; nothing is merged.

    Raises ModelUnusable when the file is missing or belongs to another architecture.
    """
    if not adapter.is_file():
        raise ModelUnusable(f"there is no adapter {adapter}; train it first.")
    try:
        pipeline.load_lora_weights(str(adapter.parent), weight_name=adapter.name, adapter_name=NAME)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelUnusable(f"the adapter {adapter} does not fit this base model: {reason}") from error
    pipeline.set_adapters([NAME], [scale])


def fuse_adapter(pipeline: "StableDiffusionXLPipeline", adapter: Path, scale: float, folder: Path) -> None:
    """Merge the adapter into `pipeline`'s weights and save the whole model as `folder`, atomically.

    Raises ModelUnusable when the merged weights are not finite.
    """
    load_adapter(pipeline, adapter, 1.0)
    parts = ["unet", *(p for p in ("text_encoder", "text_encoder_2") if hasattr(getattr(pipeline, p), "peft_config"))]
    try:
        pipeline.fuse_lora(components=parts, lora_scale=scale, safe_fusing=True)
    except ValueError as error:
        raise ModelUnusable(f"fusing {adapter} at scale {scale} gives weights that are not numbers.") from error
    pipeline.unload_lora_weights()
    with atomic_folder(folder) as scratch:
        pipeline.save_pretrained(scratch, safe_serialization=True)
