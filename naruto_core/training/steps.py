"""One training's moving parts, and its optimizer step."""

import math
from bisect import bisect_right
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from naruto_core.artifacts import storage_errors
from naruto_core.checkpoint import pack_optimizer, read_checkpoint, unpack_optimizer, write_checkpoint
from naruto_core.domain import StepRecord
from naruto_core.errors import RecordDamaged, TrainingDiverged
from naruto_core.recipe_training import TrainingSection
from naruto_core.training import processes
from naruto_core.training.batches import TrainingData
from naruto_core.training.gradients import Gradients
from naruto_core.training.groups import rate_factor
from naruto_core.training.optimizer import build_optimizer, gauges, prepare_step
from naruto_core.training.recompute import prepare_unet
from naruto_core.training.validation import validation_loss
from naruto_core.training.weights import Weights

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

LOST_STEPS = 25  # so many losses in a row that are not numbers, and nothing will come of it
OnCheckpoint = Callable[[int, Weights], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Pending:
    """A step's numbers, still on the device: reading one back makes it wait, so all are read at the next report."""

    step: int
    learning_rate: float
    loss: torch.Tensor
    gauges: Mapping[str, torch.Tensor | float]

    def settle(self) -> StepRecord:
        read = {name: float(value) for name, value in self.gauges.items()}
        return StepRecord(self.step, float(self.loss), self.learning_rate, read)


class Training:
    """The moving parts of one training: weights, optimizer, schedule, scaler."""

    def __init__(
        self,
        pipeline: "StableDiffusionXLPipeline",
        stages: Sequence[TrainingData],
        section: TrainingSection,
        tokens: Mapping[str, str],
        on_checkpoint: OnCheckpoint | None = None,
    ) -> None:
        self.pipeline, self.section, self.stages, self.on_checkpoint = pipeline, section, stages, on_checkpoint
        self.device = pipeline.unet.device
        self.weights = Weights(pipeline, section, tokens)
        prepare_unet(pipeline.unet, section.gradient_checkpointing)
        encoders = (pipeline.text_encoder, pipeline.text_encoder_2) if self.weights.learns_text else ()
        self._learning: tuple[nn.Module, ...] = (pipeline.unet, *encoders)
        for part in self._learning:
            part.train()  # a loaded model is at rest, its adapter's dropout too
        self._groups = list(zip(self.weights.groups, self.weights.flats, strict=True))
        self.optimizer = build_optimizer(section, self._groups)
        self.factor = rate_factor(section)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=section.mixed_precision == "fp16")
        self.gradients = [Gradients(pipeline, stage, section, self.weights) for stage in stages]
        self._ends = list(accumulate(stage.steps for stage in stages))
        self._scale = self.scaler.get_scale()
        self._lost = 0
        self._put_away()

    @contextmanager
    def _at_rest(self) -> Generator[None]:
        """Inside the block dropout is off, in the layers that are in the pipeline when it begins."""
        for part in self._learning:
            part.eval()
        yield
        for part in self._learning:
            part.train()

    def _put_away(self) -> None:
        """Leave to the CPU's memory what the steps do not need: on a T4 every GiB counts."""
        away = [] if self.weights.learns_text else [self.pipeline.text_encoder, self.pipeline.text_encoder_2]
        if self.section.style_loss is None or self.section.style_loss.features == "latent":
            away.append(self.pipeline.vae)
        for part in away:
            nn.Module.to(part, "cpu")

    def stage(self, step: int) -> int:
        """Which stage `step` belongs to."""
        return bisect_right(self._ends, step)

    def optimizer_step(self, step: int) -> Pending:
        """Accumulate the gradients of one effective batch, then move."""
        losses, factor = self.accumulate(step), self.factor(step)
        norm = self._move(prepare_step(self.optimizer, self._groups, step, factor))
        self.weights.moved(step + 1)
        for flat in self.weights.flats:
            flat.gradient.zero_()
        more: dict[str, torch.Tensor | float] = {"prior_loss": losses[1]} if len(losses) > 1 else {}
        more |= self._overflow() | self._validation(step + 1) | self._checkpoint(step + 1)
        rate = self.section.learning_rate * factor
        return Pending(step, rate, losses[0], {"grad_norm": norm, **more, **gauges(self.optimizer)})

    def _move(self, learning: Sequence[nn.Parameter]) -> torch.Tensor:
        """Move the vectors that learn, all or (after an overflow) none; the gradients' norm before it was clipped."""
        if not learning:
            return torch.zeros((), device=self.device)
        self.scaler.unscale_(self.optimizer)
        norm = clip_grad_norm_(learning, self.section.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm

    def _overflow(self) -> dict[str, torch.Tensor | float]:
        """Whether fp16 could not hold the gradients, so that the scaler left the step out."""
        before, self._scale = self._scale, self.scaler.get_scale()
        return {"overflow": 1.0} if self._scale < before else {}

    def accumulate(self, step: int) -> torch.Tensor:
        """The gradients of all micro-steps of `step`, of every process; the mean losses."""
        gradients, accumulation = self.gradients[self.stage(step)], self.section.gradient_accumulation_steps
        scale = self.scaler.scale(torch.ones((), device=self.device)) / accumulation
        micro_steps = [processes.number_of(step * accumulation + micro) for micro in range(accumulation)]
        losses = torch.stack([gradients.add(micro_step, scale) for micro_step in micro_steps]).mean(dim=0)
        processes.average([losses, *(flat.gradient for flat in self.weights.flats)])
        return losses

    def _is_turn(self, steps: int, every: int) -> bool:
        return steps % every == 0 or steps == self.section.max_train_steps

    def _validation(self, steps: int) -> dict[str, torch.Tensor | float]:
        """The validation loss after `steps` steps, when it is its turn (and after the last one)."""
        stage = self.stage(steps - 1)
        wanted, held_out = self.section.validation, self.stages[stage].held_out
        if wanted is None or held_out is None or not self._is_turn(steps, wanted.validation_steps):
            return {}
        gradients = self.gradients[stage]
        encode = gradients.encode_caption if self.weights.learns_text else None
        with self._at_rest():
            found = validation_loss(self.pipeline.unet, held_out, gradients.scheduler, encode)
        return {"validation_loss": found}

    def _checkpoint(self, steps: int) -> dict[str, torch.Tensor | float]:
        """What others have to say of the adapter after `steps` steps, when it is its turn."""
        wanted = self.section.checkpoints
        if wanted is None or self.on_checkpoint is None or not self._is_turn(steps, wanted.checkpointing_steps):
            return {}
        if not processes.first():
            return {}
        self.pipeline.to(self.device)
        with self.weights.shipped(), self._at_rest():  # in this order: PEFT's own layers have dropout too
            found: dict[str, torch.Tensor | float] = dict(self.on_checkpoint(steps, self.weights))
        self._put_away()
        return found

    def settled(self, waiting: list[Pending], speed: dict[str, float]) -> list[StepRecord]:
        """Steps done in plain numbers, the last with `speed`; TrainingDiverged when they have long ceased to be any."""
        records = [pending.settle() for pending in waiting]
        for record in records:
            self._lost = 0 if math.isfinite(record.loss) else self._lost + 1
        if self._lost >= LOST_STEPS:
            raise TrainingDiverged(
                f"the loss has not been a number for {self._lost} steps, up to step {records[-1].step}: lower "
                "training.learning_rate, or use bf16 or fp32; remove the run's checkpoint to start it anew."
            )
        records[-1].gauges.update(speed)
        return records

    def save(self, path: Path, identity: str, steps: int) -> None:
        tensors, optimizer = pack_optimizer(self.optimizer)
        tensors |= self.weights.state()
        values = {
            "identity": identity,
            "steps": steps,
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
        }
        with storage_errors(path):
            write_checkpoint(path, tensors, values)

    def resume(self, path: Path, identity: str) -> int:
        tensors, values = read_checkpoint(path)
        if values["identity"] != identity:
            raise RecordDamaged(
                f"{path} is a checkpoint of another recipe, dataset or code "
                f"({values['identity']}, not {identity}): "
                "remove it to start this training anew."
            )
        self.weights.load_state(tensors)
        unpack_optimizer(self.optimizer, tensors, values["optimizer"])
        self.scaler.load_state_dict(values["scaler"])
        self._scale = self.scaler.get_scale()  # or the first step would seem to have overflowed
        return int(values["steps"])
