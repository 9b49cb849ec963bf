"""What the UNet is told about a picture: its caption, twice encoded, and its size and crop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


@dataclass(frozen=True, slots=True)
class TextEncoding:
    """`hidden` (B, T, D1 + D2): penultimate layers of both encoders; `pooled` (B, P): encoder 2's projection."""

    hidden: torch.Tensor
    pooled: torch.Tensor


def encode_texts(
    pipeline: "StableDiffusionXLPipeline", texts: Sequence[str], clip_skip: int | None = None
) -> TextEncoding:
    """Encode `texts` with `StableDiffusionXLPipeline.encode_prompt`, on the encoders' device, as inference does.

    That means with begin- and end-of-text tokens, which the reference training script forgets. Gradients flow when
    the encoders are being trained.
    """
    encode: Any = pipeline.encode_prompt  # diffusers types neither lists of prompts nor what it gives back
    hidden, _, pooled, _ = encode(
        list(texts),
        device=pipeline.text_encoder_2.device,
        do_classifier_free_guidance=False,
        clip_skip=clip_skip,
    )
    return TextEncoding(hidden, pooled)


def time_ids(original_size: tuple[int, int], crop: tuple[int, int], target_size: tuple[int, int]) -> list[float]:
    """SDXL's six numbers, `_get_add_time_ids`: original (h, w), crop (top, left), target (h, w), in pixels."""
    return [float(v) for v in (*original_size, *crop, *target_size)]


def join_caption(instance_prompt: str, caption: str) -> str:
    """The report's text for one picture: the fixed instance prompt, then the caption, verbatim.

    A class picture has no instance prompt (""): its text is its class prompt alone.
    """
    return f"{instance_prompt}, {caption}" if instance_prompt else caption
