"""The only place that chooses device and precision, and asks how much memory there is."""

import os
import resource
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

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
