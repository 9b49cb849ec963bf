"""More than one process on one training: `accelerate launch` starts them, each sees its share of the pictures.

Adapter gradients are a few megabytes in a few flat vectors, so they are averaged outright after the last backward
pass; a wrapper that overlaps the two has nothing to win here. The first process does everything else too: it
tells the others what to train with, and that all is done.
"""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = timedelta(days=7)  # followers wait while the first process ingests, draws and scores


def launched() -> int:
    """How many processes a launcher has started, going by the variables that it sets."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_device(device: torch.device) -> torch.device:
    """This process's own GPU, where there are several processes on several; else `device` itself."""
    if device.type == "cuda" and launched() > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


@contextmanager
def together(device: torch.device) -> Generator[None]:
    """Train with all processes that were launched, inside the block; alone when there is only this one."""
    if launched() == 1:
        yield
        return
    # gloo beside nccl: what is told is told from memory, not from a GPU's
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
        if first():
            _tell(None)
    finally:
        dist.destroy_process_group()


def count() -> int:
    """How many processes train together; 1 when nobody launched more."""
    return dist.get_world_size() if dist.is_initialized() else 1


def first() -> bool:
    """Whether this is the one that records, saves and speaks."""
    return not dist.is_initialized() or dist.get_rank() == 0


def number_of(micro_step: int) -> int:
    """Which of all micro-steps this process does as its `micro_step`-th: they are dealt out in turn."""
    return micro_step * count() + (dist.get_rank() if dist.is_initialized() else 0)


def average(tensors: Sequence[torch.Tensor]) -> None:
    """The mean over all processes, in place."""
    if count() == 1:
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor.div_(count())


def call_followers(job: Any) -> None:
    """Have every other process do `job` with this one: what `follow` hands to its callback."""
    if count() > 1:
        _tell(job)


def follow(work: Callable[[Any], None]) -> None:
    """Do with the first process what it calls for, until it has no more."""
    while (job := _tell(None)) is not None:
        work(job)


def _tell(job: Any) -> Any:
    told = [job]
    dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    return told[0]
