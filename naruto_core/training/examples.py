"""Encode the dataset once, so that the training loop sees only latents and embeddings.

Latents are kept as mean and deviation and sampled anew at every step. Everything is written in
shards named by content: a stopped encoding goes on with the next shard, a later run finds all of
them. Each row of a shard carries its own picture, caption and crop: they cannot come apart.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from naruto_core.artifacts import storage_errors
from naruto_core.checkpoint import read_checkpoint, write_checkpoint
from naruto_core.domain import Progress
from naruto_core.errors import DatasetUnusable
from naruto_core.training.conditioning import encode_texts, join_caption, time_ids

if TYPE_CHECKING:
    import numpy as np
    from diffusers import StableDiffusionXLPipeline

SHARD = 64  # pictures


@dataclass(frozen=True, slots=True)
class Captioned:
    """One training picture, prepared: `pixels` uint8 (R, R, 3); sizes in pixels as (height, width)."""

    name: str
    caption: str
    pixels: "np.ndarray"
    original_size: tuple[int, int]
    crop: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Examples:
    """All training examples on one device; row i of every tensor belongs to picture i.

    mean, deviation: (N, 4, h, w), already scaled; hidden: (N, T, D) and pooled: (N, P) of the
    frozen encoders; time_ids: (N, 6); texts: what the encoders were or will be given.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    hidden: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)


def examples_key(dataset_id: str, model_identity: str, instance_prompt: str, resolution: int, precision: str) -> str:
    """Names the cache by everything that its numbers depend on."""
    parts = json.dumps([dataset_id, model_identity, instance_prompt, resolution, precision])
    return f"examples-{hashlib.sha256(parts.encode()).hexdigest()[:24]}"


def encode_examples(
    pipeline: "StableDiffusionXLPipeline",
    names: Sequence[str],
    read: Callable[[str], Captioned],
    instance_prompt: str,
    folder: Path,
    on_progress: Callable[[Progress], None],
) -> Examples:
    """Encode every picture of `names` (via `read`) into shards below `folder`, and load them.

    Raises DatasetUnusable with the picture's name when a latent is not finite.
    """
    began, fresh = time.monotonic(), 0
    shards = [names[start : start + SHARD] for start in range(0, len(names), SHARD)]
    paths = [folder / f"shard-{index:05d}.safetensors" for index in range(len(shards))]
    for index, (path, part) in enumerate(zip(paths, shards, strict=True)):
        if not path.exists():
            with storage_errors(path):
                _encode_shard(pipeline, [read(name) for name in part], instance_prompt, path)
            fresh += 1
            spent = time.monotonic() - began
            left = spent / fresh * (len(shards) - index - 1)
            done = min((index + 1) * SHARD, len(names))
            on_progress(Progress("encode", done, len(names), "picture", spent, left))
    return _load(paths, pipeline.device)


@torch.no_grad()
def _encode_shard(
    pipeline: "StableDiffusionXLPipeline", batch: list[Captioned], instance_prompt: str, path: Path
) -> None:
    texts = [join_caption(instance_prompt, picture.caption) for picture in batch]
    columns: dict[str, list[torch.Tensor]] = {"mean": [], "deviation": [], "hidden": [], "pooled": []}
    for picture, text in zip(batch, texts, strict=True):  # one by one: a row must not depend on its neighbours
        pixels = torch.tensor(picture.pixels).to(pipeline.device).permute(2, 0, 1)[None]
        pixels = pixels.to(pipeline.vae.dtype) / 127.5 - 1
        posterior = pipeline.vae.encode(pixels).latent_dist
        if not torch.isfinite(posterior.mean).all():
            raise DatasetUnusable(
                f"the VAE gives latents that are not numbers for picture {picture.name}: use fp32, or an fp16-safe VAE."
            )
        encoding = encode_texts(pipeline, [text])
        columns["mean"].append(posterior.mean * pipeline.vae.config.scaling_factor)
        columns["deviation"].append(posterior.std * pipeline.vae.config.scaling_factor)
        columns["hidden"].append(encoding.hidden)
        columns["pooled"].append(encoding.pooled)
    tensors = {name: torch.cat(rows) for name, rows in columns.items()}
    resolution = batch[0].pixels.shape[0]
    tensors["time_ids"] = torch.tensor([time_ids(p.original_size, p.crop, resolution) for p in batch])
    write_checkpoint(path, tensors, {"texts": texts})


def _load(paths: Sequence[Path], device: torch.device) -> Examples:
    shards = [read_checkpoint(path) for path in paths]
    joined = {name: torch.cat([tensors[name] for tensors, _ in shards]).to(device) for name in shards[0][0]}
    texts = tuple(text for _, values in shards for text in values["texts"])
    return Examples(joined["mean"], joined["deviation"], joined["hidden"], joined["pooled"], joined["time_ids"], texts)
