"""Encode the dataset once, so that the training loop sees only latents and text embeddings."""

import hashlib
import json
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from naruto_core.artifacts import storage_errors
from naruto_core.checkpoint import State, read_checkpoint, write_checkpoint
from naruto_core.domain import Progress
from naruto_core.errors import DatasetUnusable, RecordDamaged

if TYPE_CHECKING:
    import numpy as np
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


SHARD = 64  # rows
_Shard = tuple[dict[str, torch.Tensor], State]  # columns, and what the rows show


@dataclass(frozen=True, slots=True)
class Captioned:
    """One training picture, prepared: `pixels` uint8 (H, W, 3); sizes in pixels as (height, width)."""

    name: str
    caption: str
    pixels: "np.ndarray"
    original_size: tuple[int, int]
    crop: tuple[int, int]


class Column:
    """One column over all shards, each mapped from its file."""

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
        """These rows, which must be of one shape, stacked, on the CPU."""
        return torch.stack([self.row(index) for index in rows])


@dataclass(frozen=True, slots=True)
class Examples:
    """Encoded pictures; picture i has the rows i * views .. (i + 1) * views of every column.

    mean, deviation: rows (4, h, w), already scaled; time_ids: (6,); hidden: (T, D) and pooled: (P,) of
    the frozen encoders, None where they learn; texts: what the encoders were or will be given.
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


def examples_key(*parts: object) -> str:
    """Names the cache by everything that its numbers depend on."""
    text = json.dumps(parts, default=str)
    return f"examples-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How pictures and captions are encoded: `with_text` not where the encoders are going to learn."""

    instance_prompt: str
    with_text: bool = True
    clip_skip: int | None = None
    views: int = 1


def encode_examples(
    pipeline: "StableDiffusionXLPipeline",
    names: Sequence[Sequence[str]],
    read: Callable[[str, int], Captioned],
    how: Encoding,
    folder: Path,
    on_progress: Callable[[Progress], None],
) -> Examples:
    """Encode every picture of `names` (via `read(name, view)`) into shards below `folder`, and map them.

    `names` come in groups, the pictures of a group being of one shape. Raises DatasetUnusable with the
    picture's name when a latent is not finite.
    """
    began, fresh, done = time.monotonic(), 0, 0
    size = max(1, SHARD // how.views)
    parts = [group[start : start + size] for group in names for start in range(0, len(group), size)]
    total = sum(len(part) for part in parts)
    shards: list[_Shard] = []
    for index, part in enumerate(parts):
        path = folder / f"shard-{index:05d}.safetensors"
        label: State = {"cache": folder.name, "names": list(part)}
        done += len(part)
        if (shard := _kept_shard(path, label)) is None:
            with storage_errors(path):
                batch = [read(name, view) for name in part for view in range(how.views)]
                _encode_shard(pipeline, batch, how, path, label)
            shard = read_checkpoint(path)
            fresh += len(part)
            spent = time.monotonic() - began
            left = spent / fresh * (total - done)
            on_progress(Progress("encode", done, total, "picture", spent, left))
        shards.append(shard)
    return _joined(shards, how.views)


def _kept_shard(path: Path, label: State) -> _Shard | None:
    """The shard that is kept at `path`; None when there is none of these pictures, or it is damaged."""
    try:
        tensors, values = read_checkpoint(path)
    except (FileNotFoundError, RecordDamaged):
        return None
    return (tensors, values) if label.items() <= values.items() else None


@torch.no_grad()
def _encode_shard(
    pipeline: "StableDiffusionXLPipeline", batch: list[Captioned], how: Encoding, path: Path, label: State
) -> None:
    texts = [join_caption(how.instance_prompt, picture.caption) for picture in batch]
    columns: dict[str, list[torch.Tensor]] = {"mean": [], "deviation": [], "time_ids": []}
    for picture, text in zip(batch, texts, strict=True):  # one by one: a row must not depend on its neighbours
        pixels = torch.tensor(picture.pixels).to(pipeline.device).permute(2, 0, 1)[None]
        pixels = pixels.to(pipeline.vae.dtype) / 127.5 - 1
        posterior = pipeline.vae.encode(pixels).latent_dist
        if not (torch.isfinite(posterior.mean).all() and torch.isfinite(posterior.std).all()):
            raise DatasetUnusable(_not_finite(picture.name, pipeline.vae.dtype))
        columns["mean"].append(posterior.mean * pipeline.vae.config.scaling_factor)
        columns["deviation"].append(posterior.std * pipeline.vae.config.scaling_factor)
        height, width = picture.pixels.shape[:2]
        columns["time_ids"].append(torch.tensor([time_ids(picture.original_size, picture.crop, (height, width))]))
        if how.with_text:
            encoding = encode_texts(pipeline, [text], how.clip_skip)
            columns.setdefault("hidden", []).append(encoding.hidden)
            columns.setdefault("pooled", []).append(encoding.pooled)
    write_checkpoint(path, {name: torch.cat(rows) for name, rows in columns.items()}, label | {"texts": texts})


def _not_finite(name: str, dtype: torch.dtype) -> str:
    remedy = "its weights are damaged, or it is not for pictures: load it anew, or name another as model.vae."
    if dtype != torch.float32:
        remedy = "set training.mixed_precision to fp32, or model.vae to one that half precision can hold."
    return f"the VAE gives latents that are not finite numbers for picture {name}: {remedy}"


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
