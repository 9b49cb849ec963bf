"""The training loop: optimizer steps, reports to callbacks, checkpoints, and signals handled between two steps."""

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
from naruto_core.training.step import OnPreview, PendingStep, Trainer
from naruto_core.training.weights import Weights

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


class StopSignal:
    """Inside the block, the first SIGINT or SIGTERM only sets `received`; a second one interrupts as usual.

    Python delivers signals to the main thread only: in another thread `received` stays None.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, ignore_interrupt: bool = False) -> None:
        """`ignore_interrupt`: ignore SIGINT, because another process handles it and ends this one."""
        self.received: int | None = None
        self._ignore_interrupt = ignore_interrupt
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        if self._ignore_interrupt:
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        else:
            for number in self._SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # a background job ignores SIGINT; keep it so
                    self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        self._restore_handlers()

    def raise_received(self) -> None:
        """Send the received signal to this process again, now with its usual effect; no signal, no effect."""
        if self.received is not None:
            signal.raise_signal(self.received)


REPORT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class TrainingCallbacks:
    """Functions that the loop calls: with its progress, with the numbers of every step, and for a preview.

    `on_steps` gets every optimizer step once; after a resume it may get a step again, with the same numbers.
    `on_preview(steps, weights)` returns metrics that are added to those of its step. After each step the loop asks
    `is_stop_requested`: if it is true, the loop saves a checkpoint and calls `on_stop`, which raises.
    """

    on_progress: Callable[[Progress], None]
    on_steps: Callable[[list[StepRecord]], None]
    on_preview: OnPreview | None = None
    is_stop_requested: Callable[[], bool] = lambda: False
    on_stop: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Everything `train_adapter` needs beside the model and the pictures.

    `tokens` maps words to new tokens (see `naruto_core.textual_inversion`). `checkpoint` is the file for resuming,
    written every `checkpoint_seconds`; `identity` names the recipe, base, pictures and code that it belongs to.
    """

    section: TrainingSection
    tokens: Mapping[str, str]
    checkpoint: Path
    checkpoint_seconds: float
    identity: str
    callbacks: TrainingCallbacks


def train_adapter(pipeline: "StableDiffusionXLPipeline", stages: Sequence[TrainingData], job: TrainingJob) -> Weights:
    """Train one adapter; `pipeline` then carries it, in half precision where the recipe computes in it.

    Resumes from `job.checkpoint` if that file exists. On SIGINT or SIGTERM it saves a checkpoint first. Raises
    RecordDamaged when the checkpoint has another identity, and TrainingDiverged when the loss stays non-finite.
    """
    section, callbacks = job.section, job.callbacks
    trainer = Trainer(pipeline, stages, section, job.tokens, callbacks.on_preview)
    start = trainer.resume(job.checkpoint, job.identity) if job.checkpoint.exists() else 0
    began = saved = reported = time.monotonic()
    pending: list[PendingStep] = []
    with StopSignal(ignore_interrupt=not distributed.is_main_process()) as stop:
        for step in range(start, section.max_train_steps):
            pending.append(trainer.optimizer_step(step))
            now, last = time.monotonic(), step + 1 == section.max_train_steps
            stopping = callbacks.is_stop_requested()
            save = last or bool(stop.received) or stopping or now - saved > job.checkpoint_seconds
            if not distributed.is_main_process():
                pending = []
            elif save or now - reported > REPORT_SECONDS:
                done, seconds = step + 1 - start, now - began
                records = trainer.finish_records(pending, _speed(section, done, seconds, trainer.device))
                pending, reported = [], now
                callbacks.on_steps(records)  # before the checkpoint: a step in it is never run again
                callbacks.on_progress(_progress(section, step + 1, done, seconds, records))
            if save and distributed.is_main_process():
                trainer.save(job.checkpoint, job.identity, step + 1)
                saved = now
            stop.raise_received()
            if stopping and not last:
                callbacks.on_stop()
    trainer.weights.finish()
    return trainer.weights


def _progress(section: TrainingSection, step: int, done: int, seconds: float, records: list[StepRecord]) -> Progress:
    """Progress after `step` steps, of which this process did `done` in `seconds`."""
    left = seconds / done * (section.max_train_steps - step)
    return Progress("train", step, section.max_train_steps, "step", seconds, left, _note(records))


def _speed(section: TrainingSection, steps: int, seconds: float, device: torch.device) -> dict[str, float]:
    """Pictures per second since the start, and peak memory so far in GiB."""
    pictures = steps * section.effective_batch_size * distributed.world_size()
    return {"pictures_per_second": pictures / max(seconds, 1e-9), "memory_gib": devices.peak_memory(device)}


def _note(records: list[StepRecord]) -> str:
    """A short text on the latest steps: "loss 0.0812  validation 0.0903  31 pictures/s"."""
    latest = records[-1].gauges
    notes = [f"loss {np.mean([record.loss for record in records]):.4f}"]
    notes += [f"validation {r.gauges['validation_loss']:.4f}" for r in records if "validation_loss" in r.gauges][-1:]
    notes += [f"{latest['pictures_per_second']:.1f} pictures/s", f"{latest['memory_gib']:.1f} GiB"]
    if skipped := sum(int(record.gauges.get("overflow", 0)) for record in records):
        notes.append(f"{skipped} overflows skipped")
    return "  ".join(notes)
