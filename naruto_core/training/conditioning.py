"""What the UNet is told about a picture: its caption, twice encoded, and its size and crop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """Encode `texts` exactly as `StableDiffusionXLPipeline.encode_prompt` does at inference.

    That means with begin- and end-of-text tokens, which the reference training script forgets;
    gradients flow when the encoders are being trained. A test holds the two together bit for bit.
    """
    hidden: list[torch.Tensor] = []
    pooled: torch.Tensor | None = None
    pairs = ((pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2))
    for tokenizer, encoder in pairs:
        ids = tokenizer(
            list(texts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        output = encoder(ids.to(encoder.device), output_hidden_states=True)
        hidden.append(output.hidden_states[-2 - (clip_skip or 0)])
        pooled = output[0]  # of the second encoder: the projection at the end-of-text token
    assert pooled is not None
    return TextEncoding(torch.cat(hidden, dim=-1), pooled)


def time_ids(original_size: tuple[int, int], crop: tuple[int, int], target_size: tuple[int, int]) -> list[float]:
    """SDXL's six numbers, `_get_add_time_ids`: original (h, w), crop (top, left), target (h, w), in pixels."""
    return [float(v) for v in (*original_size, *crop, *target_size)]


def join_caption(instance_prompt: str, caption: str) -> str:
    """The report's text for one picture: the fixed instance prompt, then the caption, verbatim.

    A class picture has no instance prompt (""): its text is its class prompt alone.
    """
    return f"{instance_prompt}, {caption}" if instance_prompt else caption
