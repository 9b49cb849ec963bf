"""The latent cache: pictures and captions encoded once, so that training reads only latents and text embeddings."""

import hashlib
import json
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from naruto_core.artifacts import storage_errors
from naruto_core.checkpoint import State, read_checkpoint, write_checkpoint
from naruto_core.domain import Progress
from naruto_core.errors import DatasetUnusable, RecordDamaged
from naruto_core.prompts import join_caption
from naruto_core.text_encoding import encode_texts

if TYPE_CHECKING:
    import numpy as np
    from diffusers import StableDiffusionXLPipeline


def time_ids(original_size: tuple[int, int], crop: tuple[int, int], target_size: tuple[int, int]) -> list[float]:
    """SDXL's six size numbers, as `_get_add_time_ids`: original (h, w), crop (top, left), target (h, w), in pixels."""
    return [float(v) for v in (*original_size, *crop, *target_size)]


ROWS_PER_SHARD = 64
_Shard = tuple[dict[str, torch.Tensor], State]  # columns, and which pictures they encode


@dataclass(frozen=True, slots=True)
class CaptionedPicture:
    """One prepared training picture: `pixels` uint8 (H, W, 3); sizes in pixels as (height, width)."""

    name: str
    caption: str
    pixels: "np.ndarray"
    original_size: tuple[int, int]
    crop: tuple[int, int]


class Column:
    """One column over all shards; each shard is memory-mapped from its file."""

    def __init__(self, shards: Sequence[torch.Tensor]) -> None:
        self._shards = tuple(shards)
        self._starts = [0, *accumulate(len(shard) for shard in shards)]

    def __len__(self) -> int:
        return self._starts[-1]

    def row(self, index: int) -> torch.Tensor:
        """Row `index`, on the CPU."""
        shard = bisect_right(self._starts, index) - 1
        return self._shards[shard][index - self._starts[shard]]

    def __getitem__(self, rows: Sequence[int]) -> torch.Tensor:
        """The given rows, of one shape, stacked, on the CPU."""
        return torch.stack([self.row(index) for index in rows])


@dataclass(frozen=True, slots=True)
class Examples:
    """Encoded pictures; picture i has the rows from i * views to (i + 1) * views (exclusive) of every column.

    mean, deviation: rows (4, h, w), scaled by the VAE's factor; time_ids: (6,); hidden: (T, D) and pooled: (P,) of
    the frozen encoders, None where they learn; texts: the encoders' inputs.
    """

    mean: Column
    deviation: Column
    time_ids: Column
    hidden: Column | None
    pooled: Column | None
    texts: tuple[str, ...]
    views: int = 1

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.texts) // self.views

    def latent_shape(self, picture: int) -> tuple[int, ...]:
        """(channels, height, width) of a picture's latents."""
        return tuple(self.mean.row(picture * self.views).shape)


def latent_cache_key(*parts: object) -> str:
    """The name of a cache folder: a digest of everything that its numbers depend on."""
    text = json.dumps(parts, default=str)
    return f"examples-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


@dataclass(frozen=True, slots=True)
class EncodingOptions:
    """How pictures and captions are encoded; `with_text` is False where the text encoders learn."""

    instance_prompt: str
    with_text: bool = True
    clip_skip: int | None = None
    max_token_length: int = 75
    views: int = 1


def encode_examples(
    pipeline: "StableDiffusionXLPipeline",
    names: Sequence[Sequence[str]],
    read: Callable[[str, int], CaptionedPicture],
    options: EncodingOptions,
    folder: Path,
    on_progress: Callable[[Progress], None],
) -> Examples:
    """Encode every picture of `names` (read by `read(name, view)`) into shards below `folder`, and map the shards.

    `names` come in groups; the pictures of a group have one shape. Shards that exist are reused. Raises
    DatasetUnusable, with the picture's name, when a latent is not finite.
    """
    began, encoded, done = time.monotonic(), 0, 0
    size = max(1, ROWS_PER_SHARD // options.views)
    parts = [group[start : start + size] for group in names for start in range(0, len(group), size)]
    total = sum(len(part) for part in parts)
    shards: list[_Shard] = []
    for index, part in enumerate(parts):
        path = folder / f"shard-{index:05d}.safetensors"
        label: State = {"cache": folder.name, "names": list(part)}
        done += len(part)
        if (shard := _read_shard(path, label)) is None:
            with storage_errors(path):
                batch = [read(name, view) for name in part for view in range(options.views)]
                _encode_shard(pipeline, batch, options, path, label)
            shard = read_checkpoint(path)
            encoded += len(part)
            spent = time.monotonic() - began
            left = spent / encoded * (total - done)
            on_progress(Progress("encode", done, total, "picture", spent, left))
        shards.append(shard)
    return _joined(shards, options.views)


def _read_shard(path: Path, label: State) -> _Shard | None:
    """The shard at `path`; None if it does not exist, is damaged, or has other pictures than `label` names."""
    try:
        tensors, values = read_checkpoint(path)
    except (FileNotFoundError, RecordDamaged):
        return None
    return (tensors, values) if label.items() <= values.items() else None


@torch.no_grad()
def _encode_shard(
    pipeline: "StableDiffusionXLPipeline",
    batch: list[CaptionedPicture],
    options: EncodingOptions,
    path: Path,
    label: State,
) -> None:
    texts = [join_caption(options.instance_prompt, picture.caption) for picture in batch]
    columns: dict[str, list[torch.Tensor]] = {"mean": [], "deviation": [], "time_ids": []}
    for picture, text in zip(batch, texts, strict=True):  # singly: a row must not depend on its batch
        pixels = torch.tensor(picture.pixels).to(pipeline.device).permute(2, 0, 1)[None]
        pixels = pixels.to(pipeline.vae.dtype) / 127.5 - 1
        posterior = pipeline.vae.encode(pixels).latent_dist
        if not (torch.isfinite(posterior.mean).all() and torch.isfinite(posterior.std).all()):
            raise DatasetUnusable(_not_finite(picture.name, pipeline.vae.dtype))
        columns["mean"].append(posterior.mean * pipeline.vae.config.scaling_factor)
        columns["deviation"].append(posterior.std * pipeline.vae.config.scaling_factor)
        height, width = picture.pixels.shape[:2]
        columns["time_ids"].append(torch.tensor([time_ids(picture.original_size, picture.crop, (height, width))]))
        if options.with_text:
            encoding = encode_texts(pipeline, [text], options.clip_skip, options.max_token_length)
            columns.setdefault("hidden", []).append(encoding.hidden)
            columns.setdefault("pooled", []).append(encoding.pooled)
    write_checkpoint(path, {name: torch.cat(rows) for name, rows in columns.items()}, label | {"texts": texts})


def _not_finite(name: str, dtype: torch.dtype) -> str:
    remedy = "its weights are damaged, or it is not for pictures: download it again, or set model.vae to another VAE."
    if dtype != torch.float32:
        remedy = "set training.mixed_precision to fp32, or model.vae to one that works in half precision."
    return f"the VAE's latents are not finite numbers for picture {name}: {remedy}"


def _joined(shards: Sequence[_Shard], views: int) -> Examples:
    columns = {name: Column([tensors[name] for tensors, _ in shards]) for name in shards[0][0]}
    return Examples(
        columns["mean"],
        columns["deviation"],
        columns["time_ids"],
        columns.get("hidden"),
        columns.get("pooled"),
        tuple(text for _, values in shards for text in values["texts"]),
        views,
    )
