"""Ctrl-C, and the polite kill of a scheduler, between two steps instead of in the middle of one."""

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from naruto_core import devices
from naruto_core.domain import Progress, StepRecord
from naruto_core.recipe_training import TrainingSection
from naruto_core.training import distributed
from naruto_core.training.batches import TrainingData
from naruto_core.training.step import OnCheckpoint, Pending, Training
from naruto_core.training.weights import Weights

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


class Stop:
    """Inside the block, the first SIGINT or SIGTERM only sets `asked`; a second one interrupts as ever.

    Signals can be heard in the main thread alone: elsewhere `asked` stays False.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, deaf: bool = False) -> None:
        """`deaf`: take no notice of Ctrl-C, because somebody else stops and takes this process along."""
        self.asked: int | None = None
        self._deaf = deaf
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        if self._deaf:
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        else:
            for number in self._SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # of a job in the background, Ctrl-C is no business
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.asked = number
        self._give_back()

    def obey(self) -> None:
        """Let the signal that was heard do what it would have done at once."""
        if self.asked is not None:
            signal.raise_signal(self.asked)


REPORT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears of a training: how far it is, every step's numbers, and the adapter every so many steps.

    `on_steps` gets every optimizer step exactly once or, after a resume, once more with the same numbers.
    `on_checkpoint` may add numbers to its step's.
    """

    on_progress: Callable[[Progress], None]
    on_steps: Callable[[list[StepRecord]], None]
    on_checkpoint: OnCheckpoint | None = None


def train_adapter(
    pipeline: "StableDiffusionXLPipeline",
    stages: Sequence[TrainingData],
    section: TrainingSection,
    tokens: Mapping[str, str],
    checkpoint: Path,
    checkpoint_seconds: float,
    identity: str,
    listeners: Listeners,
) -> Weights:
    """Fit one adapter; afterwards `pipeline` carries it, in half precision where the recipe computes so.

    `tokens` are the new ones (see `naruto_core.textual_inversion`). Goes on from `checkpoint` when it is there, and
    refuses one of another `identity` (recipe, pictures, code). Asked to stop (SIGINT, SIGTERM), it saves first. Raises
    TrainingDiverged when the loss stays infinite.
    """
    run = Training(pipeline, stages, section, tokens, listeners.on_checkpoint)
    start = run.resume(checkpoint, identity) if checkpoint.exists() else 0
    began = saved = reported = time.monotonic()
    waiting: list[Pending] = []
    with Stop(deaf=not distributed.first()) as stop:
        for step in range(start, section.max_train_steps):
            waiting.append(run.optimizer_step(step))
            now, last = time.monotonic(), step + 1 == section.max_train_steps
            save = last or bool(stop.asked) or now - saved > checkpoint_seconds
            if not distributed.first():
                waiting = []
            elif save or now - reported > REPORT_SECONDS:
                speed = _speed(section, step + 1 - start, now - began, run.device)
                records, waiting, reported = run.settled(waiting, speed), [], now
                listeners.on_steps(records)  # before the checkpoint: a step not done again must be on record
                left = (now - began) / (step + 1 - start) * (section.max_train_steps - step - 1)
                told = Progress("train", step + 1, section.max_train_steps, "step", now - began, left, _note(records))
                listeners.on_progress(told)
            if save and distributed.first():
                run.save(checkpoint, identity, step + 1)
                saved = now
            stop.obey()
    run.weights.finish()
    return run.weights


def _speed(section: TrainingSection, steps: int, seconds: float, device: torch.device) -> dict[str, float]:
    """What is known at reports only: pictures a second since the start, and the most memory used so far."""
    pictures = steps * section.effective_batch_size * distributed.count()
    return {"pictures_per_second": pictures / seconds, "memory_gib": devices.peak_memory(device)}


def _note(records: list[StepRecord]) -> str:
    """A few words on the latest steps: "loss 0.0812  validation 0.0903  31 pictures/s"."""
    latest = records[-1].gauges
    words = [f"loss {np.mean([record.loss for record in records]):.4f}"]
    words += [f"validation {r.gauges['validation_loss']:.4f}" for r in records if "validation_loss" in r.gauges][-1:]
    words += [f"{latest['pictures_per_second']:.1f} pictures/s", f"{latest['memory_gib']:.1f} GiB"]
    if skipped := sum(int(record.gauges.get("overflow", 0)) for record in records):
        words.append(f"{skipped} overflows skipped")
    return "  ".join(words)
