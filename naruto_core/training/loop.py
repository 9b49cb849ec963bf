"""The training loop: one step reads like the method, and a killed run goes on as if nothing had been.

Everything random (which pictures, which noise, which timesteps) is a function of seed and step, so
a checkpoint needs no generator states and a resumed run writes the same bytes as an undisturbed one.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from naruto_core import sdxl
from naruto_core.artifacts import storage_errors
from naruto_core.checkpoint import pack_optimizer, read_checkpoint, unpack_optimizer, write_checkpoint
from naruto_core.domain import Progress, StepRecord
from naruto_core.errors import RecordDamaged
from naruto_core.recipe import TrainingSection
from naruto_core.training.batches import CLASS_STREAM, Batch, TrainingData, draw_batch
from naruto_core.training.conditioning import TextEncoding, encode_texts
from naruto_core.training.examples import Examples
from naruto_core.training.lora import add_adapters, load_trainable, trainable
from naruto_core.training.loss import NoiseSchedule, denoising_loss
from naruto_core.training.optimizer import build_optimizer, clip_gradients, gauges
from naruto_core.training.validation import validation_loss

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

REPORT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Pending:
    """A step's numbers, still on the device: reading one back makes it wait, so all are read at the next report."""

    step: int
    learning_rate: float
    loss: torch.Tensor
    gauges: dict[str, torch.Tensor]

    def settle(self) -> StepRecord:
        read = {name: float(value) for name, value in self.gauges.items()}
        return StepRecord(self.step, float(self.loss), self.learning_rate, read)


def train_adapter(
    pipeline: "StableDiffusionXLPipeline",
    data: TrainingData,
    section: TrainingSection,
    checkpoint: Path,
    checkpoint_seconds: float,
    identity: str,
    on_progress: Callable[[Progress], None],
    on_steps: Callable[[list[StepRecord]], None],
) -> None:
    """Fit one adapter; afterwards `pipeline` carries it, and runs under `sdxl.autocast` only.

    Goes on from `checkpoint` when it is there, and refuses one of another `identity` (recipe, data).
    `on_steps` gets every optimizer step exactly once or, after a resume, once more with the same numbers.
    """
    run = _Run(pipeline, data, section)
    start = run.resume(checkpoint, identity) if checkpoint.exists() else 0
    began = saved = reported = time.monotonic()
    waiting: list[Pending] = []
    for step in range(start, section.max_train_steps):
        waiting.append(run.optimizer_step(step))
        now, last = time.monotonic(), step + 1 == section.max_train_steps
        save = last or now - saved > checkpoint_seconds
        if save or now - reported > REPORT_SECONDS:
            records, waiting, reported = [pending.settle() for pending in waiting], [], now
            on_steps(records)  # before the checkpoint: a step that will not be done again must be on record
            left = (now - began) / (step + 1 - start) * (section.max_train_steps - step - 1)
            on_progress(Progress("train", step + 1, section.max_train_steps, "step", now - began, left, _note(records)))
        if save:
            run.save(checkpoint, identity, step + 1)
            saved = now


def _note(records: list[StepRecord]) -> str:
    """A few words on the latest steps: "loss 0.0812  validation 0.0903"."""
    measured = [record.gauges["validation_loss"] for record in records if "validation_loss" in record.gauges]
    validation = f"  validation {measured[-1]:.4f}" if measured else ""
    return f"loss {np.mean([record.loss for record in records]):.4f}{validation}"


class _Run:
    """The moving parts of one training: weights, optimizer, schedule, scaler."""

    def __init__(self, pipeline: "StableDiffusionXLPipeline", data: TrainingData, section: TrainingSection) -> None:
        from diffusers.models.attention_processor import AttnProcessor
        from diffusers.optimization import get_scheduler

        self.pipeline, self.data, self.section = pipeline, data, section
        self.device = pipeline.device
        trains_text = section.text_encoder_lr is not None
        add_adapters(pipeline, section.rank, section.lora_alpha or section.rank, trains_text, section.seed)
        if self.device.type == "cpu":  # the backward of fused attention takes about 40 % of a step there
            pipeline.unet.set_attn_processor(AttnProcessor())
        if section.gradient_checkpointing:
            pipeline.unet.enable_gradient_checkpointing()
        sdxl.halve_frozen_layers(pipeline.unet, section.mixed_precision, self.device)
        pipeline.unet.train()
        weights = trainable(pipeline)
        unet = [p for name, p in weights.items() if name.startswith("unet.")]
        text = [p for name, p in weights.items() if not name.startswith("unet.")]
        self.optimizer = build_optimizer(section, unet, text)
        self.rate = get_scheduler(
            section.lr_scheduler,
            self.optimizer,
            num_warmup_steps=section.lr_warmup_steps,
            num_training_steps=section.max_train_steps,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=section.mixed_precision == "fp16")
        config = pipeline.scheduler.config
        alphas = pipeline.scheduler.alphas_cumprod.to(self.device)
        self.schedule = NoiseSchedule(alphas, config.prediction_type)

    def optimizer_step(self, step: int) -> Pending:
        """Accumulate the gradients of one effective batch, then move."""
        accumulation = self.section.gradient_accumulation_steps
        losses = torch.stack([self.backward(step * accumulation + micro) for micro in range(accumulation)]).mean(dim=0)
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.optimizer, self.section.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        rate = float(self.rate.get_last_lr()[0])
        self.rate.step()
        self.optimizer.zero_grad(set_to_none=True)
        prior = {"prior_loss": losses[1]} if len(losses) > 1 else {}
        more = prior | self._validation(step + 1)
        return Pending(step, rate, losses[0], {"grad_norm": norm, **more, **gauges(self.optimizer)})

    def _validation(self, steps: int) -> dict[str, torch.Tensor]:
        """The validation loss after `steps` steps, when it is its turn (and after the last one)."""
        section, held_out = self.section, self.data.held_out
        if section.validation is None or held_out is None:
            return {}
        if steps % section.validation.validation_steps and steps != section.max_train_steps:
            return {}
        precision = section.mixed_precision
        return {"validation_loss": validation_loss(self.pipeline, held_out, self.schedule, precision)}

    def _batches(self, micro_step: int) -> Iterator[tuple[Examples, Batch, float]]:
        """The pictures of one micro-step with the weight of their loss: the new ones, then the class pictures."""
        section, timesteps = self.section, len(self.schedule.alphas_cumprod)
        batch = draw_batch(self.data.pictures, section.seed, section.train_batch_size, timesteps, micro_step)
        yield self.data.pictures, batch, 1.0
        if (prior := section.prior) and (class_pictures := self.data.class_pictures):
            seed = section.seed + CLASS_STREAM
            batch = draw_batch(class_pictures, seed, prior.class_batch_size, timesteps, micro_step)
            yield class_pictures, batch, prior.prior_loss_weight

    def backward(self, micro_step: int) -> torch.Tensor:
        """Add one micro-step's gradients: L + weight * L_prior (Ruiz et al. 2022, eq. 2), both min-SNR weighted.

        One pass over both halves. The losses (1,) or (2,), detached and unweighted.
        """
        parts = list(self._batches(micro_step))
        noisy = torch.cat([self.schedule.add_noise(b.clean, b.noise, b.t) for _, b, _ in parts])
        t = torch.cat([b.t for _, b, _ in parts])
        sizes = torch.cat([examples.time_ids[list(b.rows)] for examples, b, _ in parts])
        with sdxl.autocast(self.section.mixed_precision, self.device):
            text = self._text(parts)
            condition = {"text_embeds": text.pooled, "time_ids": sizes}
            unet = self.pipeline.unet
            predicted = unet(noisy.to(unet.dtype), t, text.hidden, added_cond_kwargs=condition).sample
        split = predicted.split([len(b.rows) for _, b, _ in parts])
        losses = torch.stack(
            [
                denoising_loss(self.schedule, said, b.clean, b.noise, b.t, self.section.snr_gamma)
                for said, (_, b, _) in zip(split, parts, strict=True)
            ]
        )
        weights = torch.tensor([weight for _, _, weight in parts], device=self.device)
        self.scaler.scale((losses * weights).sum() / self.section.gradient_accumulation_steps).backward()
        return losses.detach()

    def _text(self, parts: list[tuple[Examples, Batch, float]]) -> TextEncoding:
        """Encoded once and for all while the encoders are frozen; anew at every step while they learn."""
        if self.section.text_encoder_lr is None:
            hidden = torch.cat([examples.hidden[list(b.rows)] for examples, b, _ in parts])
            return TextEncoding(hidden, torch.cat([examples.pooled[list(b.rows)] for examples, b, _ in parts]))
        return encode_texts(self.pipeline, [examples.texts[row] for examples, b, _ in parts for row in b.rows])

    def save(self, path: Path, identity: str, steps: int) -> None:
        tensors, optimizer = pack_optimizer(self.optimizer)
        tensors |= trainable(self.pipeline)
        values = {
            "identity": identity,
            "steps": steps,
            "optimizer": optimizer,
            "rate": self.rate.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        with storage_errors(path):
            write_checkpoint(path, tensors, values)

    def resume(self, path: Path, identity: str) -> int:
        tensors, values = read_checkpoint(path)
        if values["identity"] != identity:
            raise RecordDamaged(
                f"{path} is a checkpoint of another recipe or dataset "
                f"({values['identity'][:12]}, not {identity[:12]}): "
                "remove it to start this training anew."
            )
        load_trainable(self.pipeline, tensors)
        unpack_optimizer(self.optimizer, tensors, values["optimizer"])
        self.rate.load_state_dict(values["rate"])
        self.scaler.load_state_dict(values["scaler"])
        return int(values["steps"])
