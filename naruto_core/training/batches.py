"""Which pictures, noise and timesteps a step sees: a function of seed and step, and of nothing else."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from naruto_core.training.examples import Examples

CLASS_STREAM = 1 << 32  # added to the seed: class pictures have random numbers of their own


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What one training sees: the style's pictures, class pictures for the prior, held-out ones for validation."""

    pictures: Examples
    class_pictures: Examples | None = None
    held_out: Examples | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one micro-step sees; B pictures. Shapes as in `Examples`, plus noise (B, 4, h, w) and timesteps (B,)."""

    clean: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    rows: tuple[int, ...]


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, total: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(total)


def rows_of(seed: int, first: int, count: int, total: int) -> tuple[int, ...]:
    """The pictures number `first` .. `first + count` of an endless stream of shuffled epochs over `total`."""
    places = (divmod(position, total) for position in range(first, first + count))
    return tuple(int(_epoch_order(seed, epoch, total)[offset]) for epoch, offset in places)


def draw_batch(examples: Examples, seed: int, size: int, timesteps: int, micro_step: int) -> Batch:
    """The batch of `size` pictures of `micro_step`: sampled latents, noise and timesteps.

    Each picture has random numbers of its own, named by seed and position in the stream: a batch of
    four sees exactly what four accumulated batches of one see. Drawn on the CPU, so that devices agree.
    """
    device = examples.mean.device
    first = micro_step * size
    draws = [_draw_one(seed, position, examples.mean.shape[1:], timesteps) for position in range(first, first + size)]
    noise = torch.stack([pair for pair, _ in draws], dim=1).to(device)
    t = torch.tensor([timestep for _, timestep in draws], device=device)
    rows = rows_of(seed, first, size, len(examples))
    index = torch.tensor(rows, device=device)
    clean = examples.mean[index].float() + examples.deviation[index].float() * noise[0]
    return Batch(clean, noise[1], t, rows)


def _draw_one(seed: int, position: int, shape: torch.Size, timesteps: int) -> tuple[torch.Tensor, int]:
    entropy = int(np.random.SeedSequence((seed, position)).generate_state(1)[0])
    generator = torch.Generator().manual_seed(entropy)
    pair = torch.randn((2, *shape), generator=generator)
    return pair, int(torch.randint(0, timesteps, (1,), generator=generator))
