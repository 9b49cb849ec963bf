"""The pictures, noise and timesteps of a step: a function of seed and step only."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from naruto_core.text_encoding import TextEncoding
from naruto_core.training.latent_cache import Examples

CLASS_STREAM = 1 << 32  # added to the seed: class pictures have random numbers of their own


@dataclass(frozen=True, slots=True)
class StyleData:
    """Encoded pictures of one style, the weight of their loss, and how often an epoch shows each of them.

    That is `repeats` times, or `repeats` x `picture_repeats[i]` times picture i where these are given.
    """

    examples: Examples
    loss_weight: float = 1.0
    repeats: int = 1
    picture_repeats: tuple[int, ...] | None = None

    def repeats_of(self, picture: int) -> int:
        """How often an epoch shows that picture."""
        return self.repeats * (self.picture_repeats[picture] if self.picture_repeats else 1)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The pictures of one stage of a training, which has `steps` steps.

    `class_pictures` are for the prior, `held_out` ones for validation.
    """

    steps: int
    styles: tuple[StyleData, ...]
    class_pictures: Examples | None = None
    held_out: Examples | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The B pictures of one micro-step, all of one size.

    clean, noise: (B, 4, h, w); t: (B,) timesteps; time_ids: (B, 6); weights: (B,) loss weights; texts: B captions;
    text: their encodings, None where the encoders learn; filled: the share of B that are different pictures of an
    aspect bucket, 1 in a full batch.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    time_ids: torch.Tensor
    weights: torch.Tensor
    texts: tuple[str, ...]
    text: TextEncoding | None
    filled: float = 1.0


@dataclass(frozen=True, slots=True)
class NoiseConfig:
    """What is random for every picture; `empty` is the encoding (1, ...) of the empty text, on the CPU."""

    seed: int
    timesteps: int
    noise_offset: float = 0.0
    caption_dropout: float = 0.0
    empty: TextEncoding | None = None


class StreamRow(NamedTuple):
    """A picture of a batch: the number of its style, its number in the style, and its share of the weight, 0 to 1."""

    style: int
    picture: int
    share: float = 1.0


class BatchStream:
    """An endless stream of batches of `size` pictures of some styles, shuffled anew in every epoch.

    The pictures of a batch have one size: where there are several sizes (aspect buckets), each epoch cuts every
    bucket into batches, and shuffles the batches. The last batch of a bucket repeats its pictures until it is full,
    each repetition with a noise of its own and a share of the weight: in an epoch all pictures have the same weight,
    however few have their shape.
    """

    def __init__(self, styles: Sequence[StyleData], seed: int, size: int) -> None:
        self.styles, self.seed, self.size = styles, seed, size
        buckets: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for number, style in enumerate(styles):
            for picture in range(len(style.examples)):
                indices = [(number, picture)] * style.repeats_of(picture)
                buckets.setdefault(style.examples.latent_shape(picture), []).extend(indices)
        self._buckets = [buckets[shape] for shape in sorted(buckets)]

    def rows(self, micro_step: int) -> list[StreamRow]:
        """Every picture in the batch of `micro_step`."""
        if len(self._buckets) == 1:
            bucket = self._buckets[0]
            order = shuffled_indices(self.seed, micro_step * self.size, self.size, len(bucket))
            return [StreamRow(style, picture) for style, picture in (bucket[index] for index in order)]
        batches = [(number, part) for number, b in enumerate(self._buckets) for part in range(-(-len(b) // self.size))]
        epoch, turn = divmod(micro_step, len(batches))
        number, part = batches[_epoch_order(self.seed, epoch, len(batches))[turn]]
        bucket = self._buckets[number]
        order = _epoch_order(self.seed + number + 1, epoch, len(bucket))[part * self.size : (part + 1) * self.size]
        places = [offset % len(order) for offset in range(self.size)]
        pictures = [bucket[order[place]] for place in places]
        return [
            StreamRow(style, picture, 1 / places.count(place))
            for (style, picture), place in zip(pictures, places, strict=True)
        ]


@lru_cache(maxsize=8)
def _epoch_order(seed: int, epoch: int, total: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(total)


def shuffled_indices(seed: int, first: int, count: int, total: int) -> tuple[int, ...]:
    """Items `first` to `first + count` of an endless stream of shuffled epochs over `total` pictures."""
    positions = (divmod(position, total) for position in range(first, first + count))
    return tuple(int(_epoch_order(seed, epoch, total)[offset]) for epoch, offset in positions)


def draw_batch(stream: BatchStream, config: NoiseConfig, micro_step: int, device: torch.device) -> Batch:
    """The batch of `micro_step`: sampled latents, noise, timesteps and texts.

    Each picture has its own random numbers, seeded by seed and position in the stream: a batch of
    four sees exactly what four accumulated batches of one see. Drawn on the CPU, so that devices agree.
    """
    drawn = stream.rows(micro_step)
    rows = [
        _Row(stream.styles[row.style], row, config, micro_step * stream.size + offset)
        for offset, row in enumerate(drawn)
    ]
    return Batch(
        _stack_on([row.clean for row in rows], device),
        _stack_on([row.noise for row in rows], device),
        _stack_on([torch.tensor(row.t) for row in rows], device),
        _stack_on([row.examples.time_ids.row(row.index) for row in rows], device),
        _stack_on([torch.tensor(row.weight) for row in rows], device),
        tuple(row.text for row in rows),
        _encodings(rows, config, device),
        sum(row.share for row in drawn) / len(drawn),
    )


class _Row:
    """One picture of a batch with everything that is random about it."""

    def __init__(self, style: StyleData, row: StreamRow, config: NoiseConfig, position: int) -> None:
        entropy = int(np.random.SeedSequence((config.seed, position)).generate_state(1)[0])
        generator = torch.Generator().manual_seed(entropy)
        self.examples, self.weight = style.examples, style.loss_weight * row.share
        shape = self.examples.latent_shape(row.picture)
        deviate, self.noise = torch.randn((2, *shape), generator=generator)
        self.t = int(torch.randint(0, config.timesteps, (1,), generator=generator))
        # Options draw after what every run draws: switching an option on changes nothing else.
        view = int(torch.randint(0, self.examples.views, (1,), generator=generator)) if self.examples.views > 1 else 0
        self.index = row.picture * self.examples.views + view
        mean, deviation = self.examples.mean.row(self.index), self.examples.deviation.row(self.index)
        self.clean = mean.float() + deviation.float() * deviate
        if config.noise_offset:  # crosslabs.org, "Diffusion with offset noise", 2023
            self.noise = self.noise + config.noise_offset * torch.randn((shape[0], 1, 1), generator=generator)
        dropped = config.caption_dropout and float(torch.rand(1, generator=generator)) < config.caption_dropout
        self.text = "" if dropped else self.examples.texts[self.index]


def _encodings(rows: Sequence[_Row], config: NoiseConfig, device: torch.device) -> TextEncoding | None:
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for row in rows:
        if row.examples.hidden is None or row.examples.pooled is None:
            return None
        if row.text or config.empty is None:
            pairs.append((row.examples.hidden.row(row.index), row.examples.pooled.row(row.index)))
        else:
            pairs.append((config.empty.hidden[0], config.empty.pooled[0]))
    return TextEncoding(
        _stack_on([hidden for hidden, _ in pairs], device), _stack_on([pooled for _, pooled in pairs], device)
    )


def _stack_on(rows: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """`rows` stacked on `device`; through pinned memory, because a copy from ordinary memory waits for the GPU."""
    stacked = torch.stack(list(rows))
    return stacked.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else stacked
