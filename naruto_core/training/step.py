"""One optimizer step: the gradients of its micro-steps, then the move; everything that learns, and its checkpoint."""

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
from naruto_core.training import distributed
from naruto_core.training.batches import CLASS_STREAM, Batch, NoiseConfig, Stream, Style, TrainingData, draw_batch
from naruto_core.training.latent_cache import TextEncoding, encode_texts
from naruto_core.training.loss import (
    Weighting,
    add_noise,
    denoised,
    denoising_loss,
    noise_scheduler,
    style_loss,
    target_of,
    validation_loss,
)
from naruto_core.training.optimizer import build_optimizer, gauges, prepare_step, rate_factor
from naruto_core.training.weights import Weights

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel


def prepare_unet(unet: "UNet2DConditionModel", gradient_checkpointing: bool) -> None:
    """Make `unet` ready to be trained through."""
    from diffusers.models.attention_processor import AttnProcessor

    if unet.device.type == "cpu":  # the backward of fused attention takes about 40 % of a step there
        unet.set_attn_processor(AttnProcessor())
    if gradient_checkpointing:
        unet.enable_gradient_checkpointing(recompute)
    unet.train()


def recompute(block: Callable[..., Any], *inputs: Any) -> Any:
    """`block` of `inputs`, computed again in the backward pass.

    PyTorch's reentrant form runs no Python for every single tensor that autograd saves (10 % of a small step), but
    gradients reach the weights inside only through an input that has one; the first blocks' may have none.
    """
    if not torch.is_grad_enabled():
        return block(*inputs)
    reentrant = any(isinstance(one, torch.Tensor) and one.requires_grad for one in inputs)
    return checkpoint(block, *inputs, use_reentrant=reentrant)


@dataclass(frozen=True, slots=True)
class Part:
    """The pictures of one kind in a micro-step: `weight` of their loss; learnt from the base, or from the noise."""

    batch: Batch
    weight: float
    prior: bool = False
    from_base: bool = False


class Gradients:
    """What a micro-step adds to the gradients of `weights`; losses (1,) or (2,): the new pictures', the prior's."""

    def __init__(
        self, pipeline: "StableDiffusionXLPipeline", data: TrainingData, section: TrainingSection, weights: Weights
    ) -> None:
        self.pipeline, self.section, self.weights = pipeline, section, weights
        self.device, self.dtype = pipeline.unet.device, pipeline.unet.dtype
        self.scheduler = noise_scheduler(pipeline)
        self.weighting = Weighting(section.snr_gamma, section.debiased_estimation)
        self.stream = Stream(data.styles, section.seed, section.train_batch_size)
        timesteps = len(self.scheduler.alphas_cumprod)
        self.chance = NoiseConfig(section.seed, timesteps, section.noise_offset, section.caption_dropout, self._empty())
        self.prior = self._prior_stream(data)
        prior, known = section.prior, not weights.learns_text
        self.class_texts = self._encoded(prior.class_prompts) if prior and known else None

    def _empty(self) -> TextEncoding | None:
        """The encoding of no text, for dropped captions, where encodings are made once."""
        if not self.section.caption_dropout or self.weights.learns_text:
            return None
        empty = self._encoded([""])
        return TextEncoding(empty.hidden.cpu(), empty.pooled.cpu())

    def _encoded(self, texts: Sequence[str]) -> TextEncoding:
        with torch.no_grad():
            return encode_texts(self.pipeline, texts, self.section.clip_skip)

    def _prior_stream(self, data: TrainingData) -> Stream | None:
        prior, seed = self.section.prior, self.section.seed + CLASS_STREAM
        if prior is None:
            return None
        if prior.kind == "class_images":
            assert data.class_pictures is not None
            return Stream([Style(data.class_pictures)], seed, prior.class_batch_size)
        return Stream([Style(style.examples) for style in data.styles], seed, prior.class_batch_size)

    def add(self, micro_step: int, scale: torch.Tensor | float) -> torch.Tensor:
        """Add the gradients of `micro_step` times `scale`; the losses, detached and unweighted.

        Pictures of one size go through the UNet together.
        """
        if self.section.lora_dropout:  # drawn anew for every step, and again the same after a resume
            torch.manual_seed(self.section.seed * 1_000_003 + micro_step)
        losses: dict[bool, torch.Tensor] = {}
        parts = sorted(self._parts(micro_step), key=lambda part: part.batch.clean.shape[1:])
        for _, same in groupby(parts, key=lambda part: part.batch.clean.shape[1:]):
            together = list(same)
            found = self._losses(together)
            weighted = sum(loss * part.weight for loss, part in zip(found, together, strict=True))
            torch.as_tensor(weighted * scale).backward()
            self.weights.gather()
            losses |= {part.prior: loss.detach() for loss, part in zip(found, together, strict=True)}
        return torch.stack([losses[prior] for prior in sorted(losses)])

    def _parts(self, micro_step: int) -> Iterator[Part]:
        yield Part(draw_batch(self.stream, self.chance, micro_step, self.device), 1.0)
        if (prior := self.section.prior) and self.prior:
            chance = NoiseConfig(self.section.seed + CLASS_STREAM, self.chance.timesteps)
            batch = draw_batch(self.prior, chance, micro_step, self.device)
            from_base = prior.kind == "base_prediction"
            if from_base:
                batch = self._with_class_prompts(batch, prior.class_prompts, micro_step * self.prior.size)
            yield Part(batch, prior.prior_loss_weight, prior=True, from_base=from_base)

    def _with_class_prompts(self, batch: Batch, prompts: Sequence[str], first: int) -> Batch:
        """The pictures of `batch` called by class prompts, in turn from number `first` on."""
        turns = [(first + index) % len(prompts) for index in range(len(batch.texts))]
        known = self.class_texts and TextEncoding(self.class_texts.hidden[turns], self.class_texts.pooled[turns])
        return replace(batch, texts=tuple(prompts[turn] for turn in turns), text=known)

    def _losses(self, parts: list[Part]) -> list[torch.Tensor]:
        """One pass over all `parts`, and each one's loss, weighted by timestep and style."""
        targets = [self._target(part) for part in parts]
        noisy = [add_noise(self.scheduler, p.batch.clean, p.batch.noise, p.batch.t) for p in parts]
        predicted = self._predict(
            torch.cat(noisy),
            torch.cat([p.batch.t for p in parts]),
            self._texts([p.batch for p in parts]),
            torch.cat([p.batch.time_ids for p in parts]),
        )
        said = predicted.split([len(p.batch.t) for p in parts])
        losses: list[torch.Tensor] = []
        for part, one, target, made in zip(parts, said, targets, noisy, strict=True):
            batch = part.batch
            weights = self.weighting.of(self.scheduler, batch.t) * batch.weights
            loss = denoising_loss(one, target, weights)
            if self.section.style_loss and not part.prior:
                latents = denoised(self.scheduler, made, one.float(), batch.t)
                trust = self.scheduler.alphas_cumprod[batch.t] * batch.weights
                loss = loss + style_loss(self.section.style_loss, self.pipeline.vae, latents, batch.clean, trust)
            losses.append(loss)
        return losses

    def _predict(self, noisy: torch.Tensor, t: torch.Tensor, text: TextEncoding, sizes: torch.Tensor) -> torch.Tensor:
        condition = {"text_embeds": text.pooled.to(self.dtype), "time_ids": sizes}
        unet = self.pipeline.unet
        return unet(noisy.to(self.dtype), t, text.hidden.to(self.dtype), added_cond_kwargs=condition).sample

    def _target(self, part: Part) -> torch.Tensor:
        """The noise (or v) that was added; for the prior without pictures, what the base says of it."""
        batch = part.batch
        if not part.from_base:
            return target_of(self.scheduler, batch.clean, batch.noise, batch.t)
        noisy = add_noise(self.scheduler, batch.clean, batch.noise, batch.t)
        with torch.no_grad(), self.weights.base_model():
            return self._predict(noisy, batch.t, self._texts([batch]), batch.time_ids)

    def _texts(self, batches: Sequence[Batch]) -> TextEncoding:
        """Encoded once and for all while the encoders are frozen; while they learn, at every step, all in one pass."""
        if self.weights.learns_text:
            texts = [text for batch in batches for text in batch.texts]
            return encode_texts(self.pipeline, texts, self.section.clip_skip)
        known = [batch.text for batch in batches if batch.text]
        assert len(known) == len(batches), "every frozen encoder's texts were encoded beforehand"
        return TextEncoding(torch.cat([one.hidden for one in known]), torch.cat([one.pooled for one in known]))

    def encode_caption(self, text: str) -> TextEncoding:
        """One caption, as the encoders read it now."""
        return encode_texts(self.pipeline, [text], self.section.clip_skip)


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
        micro_steps = [distributed.number_of(step * accumulation + micro) for micro in range(accumulation)]
        losses = torch.stack([gradients.add(micro_step, scale) for micro_step in micro_steps]).mean(dim=0)
        distributed.average([losses, *(flat.gradient for flat in self.weights.flats)])
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
        if not distributed.first():
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
