"""How long things take on a device, and how much of its memory."""

import gc
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from naruto_core.domain import StepRecord

WARM_UP = 3  # steps that are not measured


class Meter:
    """Seconds and peak memory of every phase, in GiB: (in tensors, taken from the device).

    On a CPU both are the process's resident memory, its libraries included.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, tuple[float, float]] = {}

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        began = time.perf_counter()
        yield
        self.wait()
        self.seconds[name] = time.perf_counter() - began
        self.peaks[name] = self._peak()
        print(f"  {name}: {self.seconds[name]:.1f} s, {self.peaks[name][-1]:.2f} GiB", flush=True)

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def told(self, phase: str) -> str:
        """Both peaks of `phase` in a few words."""
        return " / ".join(f"{gib:.2f}" for gib in self.peaks.get(phase, ())) or "-"

    def _peak(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            taken = torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)
            return taken[0] / 2**30, taken[1] / 2**30
        lines = Path("/proc/self/status").read_text().splitlines()
        resident = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
        return resident, resident


class Pace:
    """Hears of steps done; `meter` waits first, so that they are."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.marks, self.losses = meter, list[tuple[int, float]](), list[float]()

    def heard(self, records: list[StepRecord]) -> None:
        self.meter.wait()
        self.marks.append((records[-1].step + 1, time.perf_counter()))
        self.losses += [record.loss for record in records]

    def seconds_a_step(self) -> float:
        """Between the first report after the warm-up and the last one."""
        marks = [mark for mark in self.marks if mark[0] >= WARM_UP]
        if len(marks) < 2:  # the loop reports about once a second
            raise SystemExit("too few steps to measure so fast a device by: give more --steps")
        (first, began), (last, ended) = marks[0], marks[-1]
        return (ended - began) / (last - first)
