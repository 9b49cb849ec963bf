"""The training loop: one step reads like the method, and a killed run goes on as if nothing had been.

Everything random (which pictures, which noise, which timesteps) is a function of seed and step, so
a checkpoint needs no generator states and a resumed run writes the same bytes as an undisturbed one.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from naruto_core import devices
from naruto_core.domain import Progress, StepRecord
from naruto_core.recipe_training import TrainingSection
from naruto_core.training import processes
from naruto_core.training.batches import TrainingData
from naruto_core.training.steps import OnCheckpoint, Pending, Training
from naruto_core.training.stopping import Stop
from naruto_core.training.weights import Weights

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

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

    `tokens` are the new ones (see `naruto_core.tokens`). Goes on from `checkpoint` when it is there, and refuses one
    of another `identity` (recipe, pictures, code). Asked to stop (SIGINT, SIGTERM), it saves first. Raises
    TrainingDiverged when the loss stays infinite.
    """
    run = Training(pipeline, stages, section, tokens, listeners.on_checkpoint)
    start = run.resume(checkpoint, identity) if checkpoint.exists() else 0
    began = saved = reported = time.monotonic()
    waiting: list[Pending] = []
    with Stop(deaf=not processes.first()) as stop:
        for step in range(start, section.max_train_steps):
            waiting.append(run.optimizer_step(step))
            now, last = time.monotonic(), step + 1 == section.max_train_steps
            save = last or bool(stop.asked) or now - saved > checkpoint_seconds
            if not processes.first():
                waiting = []
            elif save or now - reported > REPORT_SECONDS:
                speed = _speed(section, step + 1 - start, now - began, run.device)
                records, waiting, reported = run.settled(waiting, speed), [], now
                listeners.on_steps(records)  # before the checkpoint: a step not done again must be on record
                left = (now - began) / (step + 1 - start) * (section.max_train_steps - step - 1)
                told = Progress("train", step + 1, section.max_train_steps, "step", now - began, left, _note(records))
                listeners.on_progress(told)
            if save and processes.first():
                run.save(checkpoint, identity, step + 1)
                saved = now
            stop.obey()
    run.weights.finish()
    return run.weights


def _speed(section: TrainingSection, steps: int, seconds: float, device: torch.device) -> dict[str, float]:
    """What is known at reports only: pictures a second since the start, and the most memory used so far."""
    pictures = steps * section.effective_batch_size * processes.count()
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
