"""More than one process on one training: `accelerate launch` starts them, each sees its share of the pictures.

Adapter gradients are a few megabytes in a few flat vectors, so they are averaged outright after the last backward
pass; a wrapper that overlaps the two has nothing to win here.
"""

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist


def count() -> int:
    """How many processes train together; 1 when nobody launched more."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Whether this is the one that records, saves and speaks."""
    return rank() == 0


def launched() -> int:
    """How many processes a launcher has started, going by the variables that it sets."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def number_of(micro_step: int) -> int:
    """Which of all micro-steps this process does as its `micro_step`-th: they are dealt out in turn."""
    return micro_step * count() + rank()


def average(tensors: Sequence[torch.Tensor]) -> None:
    """The mean over all processes, in place."""
    if count() == 1:
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor.div_(count())
