"""Devices: choice of device and precision, free memory, and a lock for exclusive use."""

import fcntl
import os
import resource
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path

import torch
from torch import nn

from naruto_core.artifacts import storage_errors
from naruto_core.errors import DeviceUnfit
from naruto_core.recipe_training import Precision

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
# as `torch.cpu.get_capabilities` names them: AVX-512 BF16, Intel's AMX, ARM
_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


def pick_device(name: str) -> torch.device:
    """The device `name`; "auto" is the first CUDA device, or else the CPU. Raises DeviceUnfit."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceUnfit(f"NARUTO_DEVICE={name!r} is no device; use auto, cpu, cuda or cuda:0.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceUnfit(f"NARUTO_DEVICE={name!r}, but this machine shows no CUDA device; use auto or cpu.")
    return torch.device("cuda:0") if name == "cuda" else device


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise DeviceUnfit for a precision that `device` only emulates.

    `torch.cuda.is_bf16_supported()` is True on a T4, which emulates bf16; the compute capability
    is reliable (bf16 needs 8.0).
    """
    if precision == "fp16" and device.type == "cpu":
        raise DeviceUnfit("the recipe uses fp16, which needs a CUDA device; this run is on the CPU: use bf16 or fp32.")
    if precision == "bf16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        gpu = torch.cuda.get_device_name(device)
        raise DeviceUnfit(f"the recipe uses bf16, which {gpu} only emulates: use fp16 or fp32.")


@cache
def cpu_has_bf16() -> bool:
    """Whether the CPU has instructions for bf16; most of before 2022 have none, and torch emulates it there.

    Measured on a CPU of 2021 (Zen 3), one thread: in emulated bf16 a convolution of the miniature takes 51 times as
    long as in fp32, a matrix 8 times.
    """
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in _BF16_INSTRUCTIONS)


def computed_precision(precision: Precision, device: torch.device) -> Precision:
    """The precision that `device` computes `precision` in: fp32 for bf16 on a CPU that would emulate it."""
    return "fp32" if precision == "bf16" and device.type == "cpu" and not cpu_has_bf16() else precision


def describe_cpu() -> str:
    """The vector instructions that torch uses on this CPU, such as "AVX512 with bf16": results depend on them."""
    return torch.backends.cpu.get_cpu_capability() + (" with bf16" if cpu_has_bf16() else "")


def half(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The half-precision type that `device` computes `precision` in; None for fp32."""
    return _HALF.get(computed_precision(precision, device))


def weights_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of frozen weights: half precision on a GPU, to save memory; fp32 on a CPU. Raises DeviceUnfit."""
    check_precision(precision, device)
    return (half(precision, device) or torch.float32) if device.type == "cuda" else torch.float32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute in `precision` inside the block, with weights in `weights_dtype`.

    No autocast on a GPU: the weights are in that precision already, and autocast would only convert every norm and
    softmax to fp32 and back; a full-size UNet has 1,164 of these conversions per step.
    """
    check_precision(precision, device)
    dtype = half(precision, device)
    return torch.autocast("cpu", dtype) if dtype and device.type == "cpu" else nullcontext()


def halve_frozen_layers(module: nn.Module, precision: Precision) -> None:
    """Convert the frozen linear and convolution weights of `module` to the half precision that they are used in.

    On a CPU autocast rounds them at every use; rounded once, results are equal bit for bit and drawing takes
    about 10 % less time. On a GPU all weights were loaded so, except those of an adapter that was just trained in fp32.
    Trainable weights are not changed, nor are norms on a CPU.
    """
    dtype = half(precision, next(module.parameters()).device)
    if dtype is None:
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and not any(p.requires_grad for p in layer.parameters()):
            layer.to(dtype)


def available_memory(device: torch.device) -> int:
    """Free memory in bytes, of the GPU or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # MemAvailable includes the file cache
        fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_memory(device: torch.device) -> float:
    """The peak memory of this process so far in GiB: the GPU's, or the machine's where the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include the parent's memory
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(fields["VmHWM"].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in KiB on Linux


_held_locks: set[Path] = set()


@contextmanager
def hold_device(folder: Path, device: str, purpose: str, on_wait: Callable[[str], None]) -> Generator[None]:
    """Hold the lock of `device` ("cpu", "cuda:0") for the block. Raises StorageFailed.

    While another process has it, `on_wait` is called once with the holder ("train 2026-11-23-mini-3f9c,
    process 4711"). Nested blocks of one process share the lock.
    """
    path = folder / f"{device.replace(':', '-')}.lock"
    if path in _held_locks:
        yield
        return
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(handle, path, on_wait)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{purpose}, process {os.getpid()}".encode(), 0)
        _held_locks.add(path)
        yield
    finally:
        _held_locks.discard(path)
        os.close(handle)


def _acquire(handle: int, path: Path, on_wait: Callable[[str], None]) -> None:
    reported = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not reported:
                on_wait(path.read_text(errors="replace") or "another process")
                reported = True
            time.sleep(0.2)
        else:
            return
