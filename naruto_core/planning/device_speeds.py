"""How fast devices compute SDXL: a small table with the source of each figure, and a quick measurement for others.

A computation takes as long as the longer of two things: its FLOPs at the device's achieved rate, and the start of its
operations by Python. The second decides in training at 256 pixels and on the fastest cards.
"""

import time
from dataclasses import dataclass

import torch

from naruto_core.planning.flops import Work

GIB = 2**30
SECONDS_PER_OPERATION = 55e-6
"""Time in which Python starts one operation of ATen, forward or backward.

From four measurements: this project's training on an H100 (docs/benchmarks.md: 2.99 s for 53,380 operations, 0.61 s for
10,534) gives 56 and 58 us; diffusers' SDXL on an H100 (2,496 ms for 30 steps, see below) at most 45 us; SimpleTuner's
training of SDXL on an H100 (0.606 s a step, its SEGMENTED_CHECKPOINTING.md) at most 42 us; autotrain's on a T4 of Colab
(3.65 s for 4 micro-steps, autotrain-advanced #172) at most 47 us.
"""
_STABILITY = (
    "Stability AI, model card of stable-diffusion-xl-1.0-tensorrt: 30 steps of 1024 px by plain PyTorch in {} ms"
)
_SHARE = 0.35  # of the peak: what the A10 and the A100 achieve; for cards without a published figure
_MOST_PRODUCTS = 2000  # of matrices, that a measurement makes


@dataclass(frozen=True, slots=True)
class DeviceSpeed:
    """A device: the peak rate of half precision in FLOP/s, the achieved share of it, and its memory in bytes.

    `basis` says how the share is known, "published" or "estimated"; `source` names the figure behind it.
    """

    name: str
    peak: float
    share: float
    memory: int
    basis: str
    source: str

    @property
    def rate(self) -> float:
        """The achieved FLOP/s."""
        return self.peak * self.share

    def seconds(self, work: Work) -> float:
        """The seconds that `work` takes."""
        return max(work.flops / self.rate, work.operations * SECONDS_PER_OPERATION)


# Peaks: NVIDIA's data sheets, dense fp16 tensor cores with fp32 accumulation. Shares: a picture of 1024 px in 30 steps
# with guidance is 416 TFLOP (`Architecture.unet`, `decode`), over the published seconds. Memory: what is free on them.
DEVICES: dict[str, DeviceSpeed] = {
    "t4": DeviceSpeed(
        "NVIDIA T4",
        65e12,
        0.18,
        int(14.6 * GIB),
        "published",
        "JustWazy/ConsistentImageGenerator, README: 35 steps of 1024 px in 35 to 45 s on Colab",
    ),
    "l4": DeviceSpeed(
        "NVIDIA L4",
        121e12,
        0.27,
        int(21.9 * GIB),
        "published",
        "luxonis/datadreamer #36: SDXL-Lightning, 1,000 pictures in 41 min by 2 steps and 62 min by 8",
    ),
    "a10": DeviceSpeed("NVIDIA A10", 125e12, 0.354, int(21.9 * GIB), "published", _STABILITY.format("9,399")),
    "4090": DeviceSpeed(
        "NVIDIA GeForce RTX 4090",
        165e12,
        _SHARE,
        int(23.2 * GIB),
        "estimated",
        "from its peak, with the share that the A10 and the A100 achieve",
    ),
    "a100": DeviceSpeed("NVIDIA A100", 312e12, 0.36, int(39.0 * GIB), "published", _STABILITY.format("3,704")),
    "h100": DeviceSpeed("NVIDIA H100", 989e12, 0.168, int(79.0 * GIB), "published", _STABILITY.format("2,496")),
}
_NAMES = {"4090": "RTX 4090", "a100": "A100", "h100": "H100", "a10": "A10", "l4": "L4", "t4": "T4"}


def known_speed(device_name: str) -> DeviceSpeed | None:
    """The table's entry for a CUDA device by its name (e.g. "Tesla T4"); None for one that is not in the table."""
    words = device_name.replace("-", " ").split()
    for key, name in _NAMES.items():
        if all(word in words or (word == "A10" and "A10G" in words) for word in name.split()):
            return DEVICES[key]
    return None


def measured_speed(name: str, device: torch.device, dtype: torch.dtype, memory: int) -> DeviceSpeed:
    """The speed of a device that is not in the table, from matrix products that are computed on it now (0.2 s)."""
    rate = _matrix_rate(device, dtype)
    source = f"from matrix products measured here ({rate / 1e12:.2g} TFLOP/s), of which networks reach {_SHARE:.0%}"
    return DeviceSpeed(name, rate, _SHARE, memory, "estimated", source)


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of matrix products on `device`: the fastest of some, because other programs may slow down the others."""
    side = 512 if device.type == "cpu" else 4096
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    (matrix @ matrix)[0, 0].item()  # the first one starts the library
    end, fastest = time.monotonic() + 0.2, float("inf")
    for _ in range(_MOST_PRODUCTS):
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        fastest = min(fastest, time.perf_counter() - began)
        if time.monotonic() > end:
            break
    return 2 * side**3 / max(fastest, 1e-9)
