"""Data-parallel training: several processes, each of which trains on its share of the pictures.

`accelerate launch` starts them, or the main process itself does (training.processes of the recipe).
Adapter gradients are a few megabytes in a few flat vectors, so one all-reduce after the last backward pass is enough;
overlapping it with the backward pass (DistributedDataParallel) would gain nothing. The main process also ingests, draws
and scores; it broadcasts training jobs to the others, and at last that there are no more.
"""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from naruto_core.errors import RecipeInvalid

HOST = "127.0.0.1"
TIMEOUT = timedelta(days=7)  # the others wait while the main process ingests, draws and scores


def launched_processes() -> int:
    """The number of processes that a launcher started: WORLD_SIZE in the environment, or 1.

    Raises RecipeInvalid where it is no such number.
    """
    return _launchers_number("WORLD_SIZE", "1", least=1)


def _launchers_number(name: str, default: str, least: int = 0) -> int:
    """What a launcher set the variable `name` to; RecipeInvalid where that is no whole number from `least`."""
    text = os.environ.get(name, default)
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise RecipeInvalid(
            f"the environment variable {name} is {text!r}, but it must be a whole number from {least}, as "
            "`accelerate launch` sets it; unset WORLD_SIZE to train in one process."
        )
    return int(text)


def local_device(device: torch.device) -> torch.device:
    """This process's own GPU (LOCAL_RANK) where several processes were launched; else `device` itself."""
    if device.type == "cuda" and launched_processes() > 1:
        return torch.device("cuda", _launchers_number("LOCAL_RANK", "0"))
    return device


def listening_store(processes: int) -> dist.TCPStore:
    """What `processes` processes of this machine meet at, in the main process; its port is free."""
    return dist.TCPStore(HOST, 0, processes, is_master=True, wait_for_workers=False, timeout=TIMEOUT)


def process_variables(store: dist.TCPStore, rank: int, processes: int) -> dict[str, str]:
    """The environment variables of the process `rank` of `processes`, as torch's launchers set them."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": store.port}
    return {"MASTER_ADDR": HOST} | {name: str(number) for name, number in numbers.items()}


def is_ready(store: dist.TCPStore, rank: int) -> bool:
    """Whether the process `rank` has come to `store` by `join_group`."""
    return store.check([f"ready {rank}"])


@contextmanager
def join_group(device: torch.device) -> Generator[None]:
    """In a process with `process_variables`: inside the block it is in the group of the process that started it."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, size = int(os.environ["RANK"]), launched_processes()
    store = dist.TCPStore(address, port, size, is_master=False, wait_for_workers=False, timeout=TIMEOUT)
    store.set(f"ready {rank}", "")
    with open_group(device, store, rank, size):
        yield


@contextmanager
def process_group(device: torch.device) -> Generator[None]:
    """Inside the block this process is in a group with all launched processes; nothing happens for a single one."""
    if launched_processes() == 1:
        yield
        return
    _launchers_number("RANK", "")
    with open_group(device):
        yield


@contextmanager
def open_group(
    device: torch.device, store: dist.TCPStore | None = None, rank: int = -1, size: int = -1
) -> Generator[None]:
    """Inside the block this process is in a group; without a `store`, in that of the environment variables."""
    # gloo beside nccl: jobs are broadcast from the CPU's memory
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=rank, world_size=size)
    try:
        yield
        if is_main_process():
            _broadcast(None)
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """The number of processes that train together, 1 or more."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this process (rank 0) writes records and checkpoints, and prints."""
    return not dist.is_initialized() or dist.get_rank() == 0


def global_micro_step(micro_step: int) -> int:
    """The index, over all processes, of this process's micro-step `micro_step`: processes take turns."""
    return micro_step * world_size() + (dist.get_rank() if dist.is_initialized() else 0)


def all_reduce_mean(tensors: Sequence[torch.Tensor]) -> None:
    """Replace every tensor by its mean over all processes."""
    if world_size() == 1:
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor.div_(world_size())


def broadcast_job(job: Any) -> None:
    """Send `job` from the main process to every other one, which runs it in `run_broadcast_jobs`."""
    if world_size() > 1:
        _broadcast(job)


def run_broadcast_jobs(work: Callable[[Any], None]) -> None:
    """Call `work` with every job that the main process broadcasts, until there are no more."""
    while (job := _broadcast(None)) is not None:
        work(job)


def _broadcast(job: Any) -> Any:
    jobs = [job]
    dist.broadcast_object_list(jobs, src=0, device=torch.device("cpu"))
    return jobs[0]
