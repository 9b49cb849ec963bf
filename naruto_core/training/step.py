"""One optimizer step: gradients of its micro-steps, then the update of the weights; validation, preview, checkpoint."""

import math
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint

from naruto_core.artifacts import storage_errors
from naruto_core.checkpoint import pack_optimizer, read_checkpoint, unpack_optimizer, write_checkpoint
from naruto_core.domain import StepRecord
from naruto_core.errors import RecordDamaged, TrainingDiverged
from naruto_core.recipe_training import TrainingSection
from naruto_core.text_encoding import TextEncoding, encode_texts
from naruto_core.training import distributed
from naruto_core.training.batches import (
    CLASS_STREAM,
    Batch,
    BatchStream,
    NoiseConfig,
    StyleData,
    TrainingData,
    draw_batch,
)
from naruto_core.training.loss import (
    LossWeighting,
    add_noise,
    denoising_loss,
    noise_scheduler,
    predict_clean,
    prediction_target,
    style_loss,
    validation_loss,
)
from naruto_core.training.optimizer import build_optimizer, learning_rate_factor, prepare_step, step_size_estimates
from naruto_core.training.weights import Weights

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel


def prepare_unet(unet: "UNet2DConditionModel", gradient_checkpointing: bool) -> None:
    """Put `unet` into training mode, with gradient checkpointing if asked for."""
    from diffusers.models.attention_processor import AttnProcessor

    if unet.device.type == "cpu":  # the backward of fused attention takes about 40 % of a step there
        unet.set_attn_processor(AttnProcessor())
    if gradient_checkpointing:
        unet.enable_gradient_checkpointing(recompute)
    unet.train()


def recompute(block: Callable[..., Any], *inputs: Any) -> Any:
    """The output of `block(*inputs)`; its activations are not stored but computed again in the backward pass.

    PyTorch's reentrant form runs no Python code per saved tensor (10 % of a small step), but gradients reach the
    weights inside only if an input requires a gradient; the inputs of the first blocks may not.
    """
    if not torch.is_grad_enabled():
        return block(*inputs)
    reentrant = any(isinstance(value, torch.Tensor) and value.requires_grad for value in inputs)
    return checkpoint(block, *inputs, use_reentrant=reentrant)


@dataclass(frozen=True, slots=True)
class WeightedBatch:
    """New or prior pictures of a micro-step, the `weight` of their loss, and the source of their target."""

    batch: Batch
    weight: float
    is_prior: bool = False
    target_from_base: bool = False


class GradientAccumulator:
    """Adds the gradients of micro-steps to those of `weights`: forward pass, loss, backward pass."""

    def __init__(
        self, pipeline: "StableDiffusionXLPipeline", data: TrainingData, section: TrainingSection, weights: Weights
    ) -> None:
        self.pipeline, self.section, self.weights = pipeline, section, weights
        self.device, self.dtype = pipeline.unet.device, pipeline.unet.dtype
        self.scheduler = noise_scheduler(pipeline)
        self.weighting = LossWeighting(section.snr_gamma, section.debiased_estimation)
        self.stream = BatchStream(data.styles, section.seed, section.train_batch_size)
        timesteps = len(self.scheduler.alphas_cumprod)
        self.noise_config = NoiseConfig(
            section.seed, timesteps, section.noise_offset, section.caption_dropout, self._empty_text()
        )
        self.prior = self._prior_stream(data)
        frozen_text = not weights.learns_text
        self.class_texts = self._encode_frozen(section.prior.class_prompts) if section.prior and frozen_text else None

    def _empty_text(self) -> TextEncoding | None:
        """The encoding of the empty text, for dropped captions; None where the encoders learn."""
        if not self.section.caption_dropout or self.weights.learns_text:
            return None
        empty = self._encode_frozen([""])
        return TextEncoding(empty.hidden.cpu(), empty.pooled.cpu())

    def _encode_frozen(self, texts: Sequence[str]) -> TextEncoding:
        with torch.no_grad():
            return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> TextEncoding:
        return encode_texts(self.pipeline, texts, self.section.clip_skip, self.section.max_token_length)

    def _prior_stream(self, data: TrainingData) -> BatchStream | None:
        prior, seed = self.section.prior, self.section.seed + CLASS_STREAM
        if prior is None:
            return None
        if prior.kind == "class_images":
            assert data.class_pictures is not None
            return BatchStream([StyleData(data.class_pictures)], seed, prior.class_batch_size)
        return BatchStream([StyleData(style.examples) for style in data.styles], seed, prior.class_batch_size)

    def backward(self, micro_step: int, scale: torch.Tensor | float) -> torch.Tensor:
        """Add the gradients of `micro_step` times `scale`.

        Returns the losses, detached and without their weights: (1,) for the new pictures, or (2,) with the prior's
        second. Pictures of one size go through the UNet in one pass.
        """
        if self.section.lora_dropout:  # a new mask for every step, and the same one after a resume
            torch.manual_seed(self.section.seed * 1_000_003 + micro_step)
        losses: dict[bool, torch.Tensor] = {}
        batches = sorted(self._batches(micro_step), key=lambda item: item.batch.clean.shape[1:])
        for _, group in groupby(batches, key=lambda item: item.batch.clean.shape[1:]):
            same_size = list(group)
            group_losses = self._losses(same_size)
            weighted = sum(loss * item.weight for loss, item in zip(group_losses, same_size, strict=True))
            torch.as_tensor(weighted * scale).backward()
            self.weights.collect_gradients()
            losses |= {
                item.is_prior: loss.detach() / item.batch.filled
                for loss, item in zip(group_losses, same_size, strict=True)
            }
        return torch.stack([losses[is_prior] for is_prior in sorted(losses)])

    def _batches(self, micro_step: int) -> Iterator[WeightedBatch]:
        yield WeightedBatch(draw_batch(self.stream, self.noise_config, micro_step, self.device), 1.0)
        if (prior := self.section.prior) and self.prior:
            noise_config = NoiseConfig(self.section.seed + CLASS_STREAM, self.noise_config.timesteps)
            batch = draw_batch(self.prior, noise_config, micro_step, self.device)
            from_base = prior.kind == "base_prediction"
            if from_base:
                batch = self._with_class_prompts(batch, prior.class_prompts, micro_step * self.prior.size)
            yield WeightedBatch(batch, prior.prior_loss_weight, is_prior=True, target_from_base=from_base)

    def _with_class_prompts(self, batch: Batch, prompts: Sequence[str], first: int) -> Batch:
        """`batch` with class prompts as its texts: prompt number `first`, then the next ones in turn."""
        turns = [(first + index) % len(prompts) for index in range(len(batch.texts))]
        encoding = self.class_texts and TextEncoding(self.class_texts.hidden[turns], self.class_texts.pooled[turns])
        return replace(batch, texts=tuple(prompts[turn] for turn in turns), text=encoding)

    def _losses(self, batches: list[WeightedBatch]) -> list[torch.Tensor]:
        """One forward pass over all `batches`, and the loss of each, weighted by timestep and style."""
        targets = [self._target(item) for item in batches]
        noisy = [add_noise(self.scheduler, b.batch.clean, b.batch.noise, b.batch.t) for b in batches]
        predicted = self._predict(
            torch.cat(noisy),
            torch.cat([item.batch.t for item in batches]),
            self._texts([item.batch for item in batches]),
            torch.cat([item.batch.time_ids for item in batches]),
        )
        predictions = predicted.split([len(item.batch.t) for item in batches])
        losses: list[torch.Tensor] = []
        for item, prediction, target, latents in zip(batches, predictions, targets, noisy, strict=True):
            batch = item.batch
            weights = self.weighting.weights(self.scheduler, batch.t) * batch.weights
            loss = denoising_loss(prediction, target, weights)
            if self.section.style_loss and not item.is_prior:
                denoised = predict_clean(self.scheduler, latents, prediction.float(), batch.t)
                signal = self.scheduler.alphas_cumprod[batch.t] * batch.weights
                loss = loss + style_loss(self.section.style_loss, self.pipeline.vae, denoised, batch.clean, signal)
            losses.append(loss)
        return losses

    def _predict(self, noisy: torch.Tensor, t: torch.Tensor, text: TextEncoding, sizes: torch.Tensor) -> torch.Tensor:
        condition = {"text_embeds": text.pooled.to(self.dtype), "time_ids": sizes}
        unet = self.pipeline.unet
        return unet(noisy.to(self.dtype), t, text.hidden.to(self.dtype), added_cond_kwargs=condition).sample

    def _target(self, item: WeightedBatch) -> torch.Tensor:
        """The noise (or v) that was added; for the prior without pictures, the base model's prediction of it."""
        batch = item.batch
        if not item.target_from_base:
            return prediction_target(self.scheduler, batch.clean, batch.noise, batch.t)
        noisy = add_noise(self.scheduler, batch.clean, batch.noise, batch.t)
        with torch.no_grad(), self.weights.base_model():
            return self._predict(noisy, batch.t, self._texts([batch]), batch.time_ids)

    def _texts(self, batches: Sequence[Batch]) -> TextEncoding:
        """Encoded once and for all while the encoders are frozen; while they learn, at every step, all in one pass."""
        if self.weights.learns_text:
            texts = [text for batch in batches for text in batch.texts]
            return self._encode(texts)
        encodings = [batch.text for batch in batches if batch.text]
        assert len(encodings) == len(batches), "texts of frozen encoders are encoded before training"
        return TextEncoding(torch.cat([e.hidden for e in encodings]), torch.cat([e.pooled for e in encodings]))

    def encode_caption(self, text: str) -> TextEncoding:
        """The encoding of one caption by the encoders as they are now."""
        return self._encode([text])


MAX_NON_FINITE_STEPS = 25  # in a row: more of them never recover
OnPreview = Callable[[int, Weights], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class PendingStep:
    """A step's numbers, still on the device: reading them waits for the device, so all are read at the next report."""

    step: int
    learning_rate: float
    loss: torch.Tensor
    gauges: Mapping[str, torch.Tensor | float]

    def to_record(self) -> StepRecord:
        gauges = {name: float(value) for name, value in self.gauges.items()}
        return StepRecord(self.step, float(self.loss), self.learning_rate, gauges)


class Trainer:
    """Weights, optimizer, learning-rate schedule and gradient scaler of one training; does one step at a time."""

    def __init__(
        self,
        pipeline: "StableDiffusionXLPipeline",
        stages: Sequence[TrainingData],
        section: TrainingSection,
        tokens: Mapping[str, str],
        on_preview: OnPreview | None = None,
    ) -> None:
        self.pipeline, self.section, self.stages, self.on_preview = pipeline, section, stages, on_preview
        self.device = pipeline.unet.device
        self.weights = Weights(pipeline, section, tokens)
        prepare_unet(pipeline.unet, section.gradient_checkpointing)
        encoders = (pipeline.text_encoder, pipeline.text_encoder_2) if self.weights.learns_text else ()
        self._learning: tuple[nn.Module, ...] = (pipeline.unet, *encoders)
        for part in self._learning:
            part.train()  # a loaded model is in evaluation mode, its adapter's dropout too
        self._groups = list(zip(self.weights.groups, self.weights.flats, strict=True))
        self.optimizer = build_optimizer(section, self._groups)
        self.rate_factor = learning_rate_factor(section)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=section.mixed_precision == "fp16")
        self.gradients = [GradientAccumulator(pipeline, stage, section, self.weights) for stage in stages]
        self._stage_ends = list(accumulate(stage.steps for stage in stages))
        self._scale = self.scaler.get_scale()
        self._non_finite_steps = 0
        self._offload_unused()

    @contextmanager
    def _evaluation_mode(self) -> Generator[None]:
        """Inside the block dropout is off, in the layers that the pipeline has when the block begins."""
        for part in self._learning:
            part.eval()
        yield
        for part in self._learning:
            part.train()

    def _offload_unused(self) -> None:
        """Move to the CPU the models that the steps do not need: memory is short on a T4."""
        unused = [] if self.weights.learns_text else [self.pipeline.text_encoder, self.pipeline.text_encoder_2]
        if self.section.style_loss is None or self.section.style_loss.features == "latent":
            unused.append(self.pipeline.vae)
        for part in unused:
            nn.Module.to(part, "cpu")

    def stage(self, step: int) -> int:
        """The index of the stage that `step` belongs to."""
        return bisect_right(self._stage_ends, step)

    def optimizer_step(self, step: int) -> PendingStep:
        """Accumulate the gradients of one effective batch, update the weights; validate and preview when it is due."""
        losses, factor = self.accumulate(step), self.rate_factor(step)
        norm = self._update(prepare_step(self.optimizer, self._groups, step, factor))
        self.weights.after_update(step + 1)
        for flat in self.weights.flats:
            flat.gradient.zero_()
        optional: dict[str, torch.Tensor | float] = {"prior_loss": losses[1]} if len(losses) > 1 else {}
        optional |= self._overflow() | self._validation(step + 1) | self._preview(step + 1)
        rate = self.section.learning_rate * factor
        return PendingStep(
            step, rate, losses[0], {"grad_norm": norm, **optional, **step_size_estimates(self.optimizer)}
        )

    def _update(self, learning: Sequence[nn.Parameter]) -> torch.Tensor:
        """Update the vectors that learn, or none after an fp16 overflow. Returns the gradient norm before clipping."""
        if not learning:
            return torch.zeros((), device=self.device)
        self.scaler.unscale_(self.optimizer)
        norm = clip_grad_norm_(learning, self.section.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm

    def _overflow(self) -> dict[str, torch.Tensor | float]:
        """{"overflow": 1.0} where fp16 could not hold the gradients, so that the scaler skipped the update."""
        previous, self._scale = self._scale, self.scaler.get_scale()
        return {"overflow": 1.0} if self._scale < previous else {}

    def accumulate(self, step: int) -> torch.Tensor:
        """Sum the gradients of all micro-steps of `step`, over every process. Returns the mean losses, (1,) or (2,)."""
        gradients, accumulation = self.gradients[self.stage(step)], self.section.gradient_accumulation_steps
        scale = self.scaler.scale(torch.ones((), device=self.device)) / accumulation
        micro_steps = [distributed.global_micro_step(step * accumulation + micro) for micro in range(accumulation)]
        losses = torch.stack([gradients.backward(micro_step, scale) for micro_step in micro_steps]).mean(dim=0)
        distributed.all_reduce_mean([losses, *(flat.gradient for flat in self.weights.flats)])
        return losses

    def _is_due(self, steps: int, every: int) -> bool:
        return steps % every == 0 or steps == self.section.max_train_steps

    def _validation(self, steps: int) -> dict[str, torch.Tensor | float]:
        """The validation loss after `steps` steps: every `validation_steps`, and after the last one."""
        stage = self.stage(steps - 1)
        validation, held_out = self.section.validation, self.stages[stage].held_out
        if validation is None or held_out is None or not self._is_due(steps, validation.validation_steps):
            return {}
        gradients = self.gradients[stage]
        encode = gradients.encode_caption if self.weights.learns_text else None
        with self.weights.averaged(), self._evaluation_mode():
            loss = validation_loss(self.pipeline.unet, held_out, gradients.scheduler, encode)
        return {"validation_loss": loss}

    def _preview(self, steps: int) -> dict[str, torch.Tensor | float]:
        """The metrics that `on_preview` returns after `steps` steps: every `preview_steps`, and after the last one."""
        previews = self.section.previews
        if previews is None or self.on_preview is None or not self._is_due(steps, previews.preview_steps):
            return {}
        if not distributed.is_main_process():
            return {}
        self.pipeline.to(self.device)
        with self.weights.exported(), self._evaluation_mode():  # in this order: PEFT's own layers have dropout too
            metrics: dict[str, torch.Tensor | float] = dict(self.on_preview(steps, self.weights))
        self._offload_unused()
        return metrics

    def finish_records(self, pending: list[PendingStep], speed: dict[str, float]) -> list[StepRecord]:
        """The records of finished steps, the last one with `speed` among its gauges.

        Raises TrainingDiverged after MAX_NON_FINITE_STEPS losses in a row that are NaN or infinite.
        """
        records = [step.to_record() for step in pending]
        for record in records:
            self._non_finite_steps = 0 if math.isfinite(record.loss) else self._non_finite_steps + 1
        if self._non_finite_steps >= MAX_NON_FINITE_STEPS:
            raise TrainingDiverged(
                f"the loss was not finite for {self._non_finite_steps} steps in a row, up to step {records[-1].step}: "
                "lower training.learning_rate, or use bf16 or fp32; remove the run's checkpoint to start from step 0."
            )
        records[-1].gauges.update(speed)
        return records

    def save(self, path: Path, identity: str, steps: int) -> None:
        """Write the checkpoint file for resuming after `steps` steps. Raises StorageFailed."""
        tensors, optimizer = pack_optimizer(self.optimizer)
        tensors |= self.weights.state_dict()
        values = {
            "identity": identity,
            "steps": steps,
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
        }
        with storage_errors(path):
            write_checkpoint(path, tensors, values)

    def resume(self, path: Path, identity: str) -> int:
        """Load the checkpoint at `path`; the number of steps done. Raises RecordDamaged for another `identity`."""
        tensors, values = read_checkpoint(path)
        if values["identity"] != identity:
            raise RecordDamaged(
                f"{path} is a checkpoint of another recipe, base, dataset or code "
                f"({values['identity']}, not {identity}): "
                "remove it to start this training again from step 0."
            )
        self.weights.load_state_dict(tensors)
        unpack_optimizer(self.optimizer, tensors, values["optimizer"])
        self.scaler.load_state_dict(values["scaler"])
        self._scale = self.scaler.get_scale()  # else the first step would count as an overflow
        return int(values["steps"])
