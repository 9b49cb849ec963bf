"""Choice of device and precision, free memory, and the lock that gives one job the device."""

import fcntl
import os
import resource
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn

from naruto_core.artifacts import storage_errors
from naruto_core.errors import DeviceUnfit
from naruto_core.recipe_training import Precision

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def pick_device(wish: str) -> torch.device:
    """The device named by `wish`; "auto" is the first CUDA device, or else the CPU."""
    if wish == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise DeviceUnfit(f"NARUTO_DEVICE={wish!r} is no device; use auto, cpu, cuda or cuda:0.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceUnfit(f"NARUTO_DEVICE={wish!r}, but this machine shows no CUDA device; use auto or cpu.")
    return torch.device("cuda:0") if wish == "cuda" else device


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that `device` only emulates.

    `torch.cuda.is_bf16_supported()` says yes on a T4, which emulates it; the compute capability
    does not lie (bf16 needs 8.0).
    """
    if precision == "fp16" and device.type == "cpu":
        raise DeviceUnfit(
            "the recipe asks for fp16, which needs a CUDA device; this run is on the CPU: use bf16 or fp32."
        )
    if precision == "bf16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device)
        raise DeviceUnfit(f"the recipe asks for bf16, which {name} only emulates: use fp16 or fp32.")


def half(precision: Precision) -> torch.dtype | None:
    """The half-precision type of `precision`; None for fp32."""
    return _HALF.get(precision)


def weights_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What frozen weights are kept in: half on a GPU, where memory is short; fp32 on a CPU."""
    check_precision(precision, device)
    return (half(precision) or torch.float32) if device.type == "cuda" else torch.float32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute in `precision` inside the block, for weights that are kept as `weights_dtype` says.

    Nothing on a GPU: there the weights are in that precision already, and autocast would only lift every norm and
    softmax to fp32 and back. Of a full-size UNet these are 1,164 conversions at every step.
    """
    check_precision(precision, device)
    dtype = half(precision)
    return torch.autocast("cpu", dtype) if dtype and device.type == "cpu" else nullcontext()


def halve_frozen_layers(module: nn.Module, precision: Precision) -> None:
    """Keep the frozen linear and convolution weights of `module` in the half precision they are used in.

    On a CPU autocast rounds them to it at every use; done once, the numbers are the same bit for bit and drawing takes
    about a tenth less time. On a GPU all were loaded so, but for an adapter's that was trained in fp32 a moment ago.
    Weights that learn stay as they are, on a CPU norms too.
    """
    dtype = half(precision)
    if dtype is None:
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and not any(p.requires_grad for p in layer.parameters()):
            layer.to(dtype)


def available_memory(device: torch.device) -> int:
    """Bytes that this process may use on `device`: free ones, of the GPU or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = Path("/proc/meminfo")
    if known.exists():  # free memory, and what the file cache would give back
        fields = dict(line.split(":", 1) for line in known.read_text(encoding="ascii").splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_memory(device: torch.device) -> float:
    """The most memory this process has used so far, in GiB: the device's, or its own where that is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    known = Path("/proc/self/status")
    if known.exists():  # what getrusage says would hold the parent's memory too
        fields = dict(line.split(":", 1) for line in known.read_text(encoding="utf-8").splitlines())
        return int(fields["VmHWM"].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in KiB on Linux


_held: set[Path] = set()


@contextmanager
def hold_device(folder: Path, device: str, purpose: str, on_wait: Callable[[str], None]) -> Generator[None]:
    """Hold the lock of `device` ("cpu", "cuda:0") for the length of the block.

    While another process has it, `on_wait` is told once by whom ("train 2026-11-23-mini-3f9c,
    process 4711"). Nested blocks of one process share the lock.
    """
    path = folder / f"{device.replace(':', '-')}.lock"
    if path in _held:
        yield
        return
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(handle, path, on_wait)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{purpose}, process {os.getpid()}".encode(), 0)
        _held.add(path)
        yield
    finally:
        _held.discard(path)
        os.close(handle)


def _acquire(handle: int, path: Path, on_wait: Callable[[str], None]) -> None:
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                on_wait(path.read_text(errors="replace") or "another process")
                told = True
            time.sleep(0.2)
        else:
            return
