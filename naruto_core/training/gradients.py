"""The gradients of one micro-step: L + weight * L_prior (Ruiz et al. 2022, eq. 2)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from naruto_core.recipe_training import TrainingSection
from naruto_core.training.batches import CLASS_STREAM, Batch, Chance, Stream, Style, TrainingData, draw_batch
from naruto_core.training.conditioning import TextEncoding, encode_texts
from naruto_core.training.loss import Weighting, add_noise, denoised, denoising_loss, noise_scheduler, target_of
from naruto_core.training.style import style_loss
from naruto_core.training.weights import Weights

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


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
        self.chance = Chance(section.seed, timesteps, section.noise_offset, section.caption_dropout, self._empty())
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
            chance = Chance(self.section.seed + CLASS_STREAM, self.chance.timesteps)
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
